//! Conversations from files and flags.

use std::{fs, path::PathBuf};

use moexperts::{ChatOptions, GenerateOptions, Message};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{MODEL, Program, Run, model};

const GREEDY: [&str; 4] = ["--temperature", "0", "--max-new-tokens", "8"];

/// A template that shows all it is given.
const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}\
    <|im_end|>{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}{{ enable_thinking }}";

/// The tiny model with [`TEMPLATE`], and files beside it. Its tokenizer puts a token before each text.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        for entry in fs::read_dir(MODEL).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let folder = Self(folder);
        folder.write("chat_template.jinja", TEMPLATE);
        let tokenizer = folder.0.path().join("tokenizer.json");
        let mut json: Value = serde_json::from_slice(&fs::read(&tokenizer).unwrap()).unwrap();
        let begin = json!({"SpecialToken": {"id": "<|im_start|>", "type_id": 0}});
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<|im_start|>":
                {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
        });
        fs::write(tokenizer, json.to_string()).unwrap();
        folder
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn program(&self, words: &[&str]) -> Program {
        let model = self.0.path().to_str().unwrap();
        Program::new(&[words, &GREEDY, &["--model", model]].concat())
    }

    fn stdout(&self, words: &[&str]) -> String {
        self.program(words).stdout()
    }
}

/// What the model writes after a text, and a line break.
fn continued(text: &str) -> String {
    let options =
        GenerateOptions { temperature: Some(0.0), max_new_tokens: Some(8), ..Default::default() };
    let model = model();
    let prompt = model.prompt(text, Vec::new(), false).unwrap();
    format!("{}\n", model.generate_prompt(prompt, &options).unwrap())
}

#[test]
fn flags_go_to_the_template() {
    let folder = Folder::new();
    let tools = folder.write("tools.json", r#"[{"type": "function"}]"#);
    let words =
        ["generate", "hi", "--system", "Be brief.", "--template-arg", "enable_thinking=false"];
    let expected = "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nhi<|im_end|>\
                    [{\"type\": \"function\"}]False";
    let written = folder.stdout(&[&words[..], &["--tools", &tools]].concat());
    assert_eq!(written, continued(expected));
}

#[test]
fn a_conversation_comes_from_a_file_or_standard_input() {
    let folder = Folder::new();
    let json = r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}"#;
    let file = folder.write("messages.json", json);
    let said = "<|im_start|>user\nhi<|im_end|><|im_start|>assistant\nho<|im_end|>";
    assert_eq!(folder.stdout(&["generate", "--messages", &file]), continued(said));
    let more = format!("{said}<|im_start|>user\nmore<|im_end|>");
    assert_eq!(folder.stdout(&["generate", "more", "--messages", &file]), continued(&more));
    let piped = folder.program(&["generate", "--messages", "-"]).input(json).stdout();
    assert_eq!(piped, continued(said));
}

#[test]
fn a_chat_goes_on_from_a_file_and_resets_to_it() {
    let folder = Folder::new();
    let file = folder.write("messages.json", r#"[{"role": "user", "content": "hi"}]"#);
    let words =
        ["chat", "--system", "s", "--messages", &file, "--template-arg", "enable_thinking=x"];
    let written = folder.program(&words).input("one\n/reset\none\n").stdout();
    let answer = continued(
        "<|im_start|>system\ns<|im_end|><|im_start|>user\nhi<|im_end|>\
         <|im_start|>user\none<|im_end|>x",
    );
    assert_eq!(written, format!("{answer}{answer}"));
}

#[test]
fn a_prompt_and_messages_cannot_both_come_from_standard_input() {
    let Run { code, stderr, .. } =
        Folder::new().program(&["generate", "-", "--messages", "-"]).input("[]").run();
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: no prompt\n"), "{stderr}");
}

#[test]
fn a_model_without_a_template_takes_no_conversation() {
    let folder = Folder::new();
    fs::remove_file(folder.0.path().join("chat_template.jinja")).unwrap();
    fs::remove_file(folder.0.path().join("tokenizer_config.json")).unwrap();
    for command in [&["generate", "hi"][..], &["chat"]] {
        let run = folder.program(&[command, &["--system", "s"]].concat()).run();
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(
            run.stderr.contains("has no chat template\nhint: leave out --chat"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn the_library_renders_the_same() {
    let messages = [Message::text("system", "s"), Message::text("user", "hi")];
    let options = ChatOptions::new().add_generation_prompt(false);
    let text = model().chat_template().unwrap().render(&messages, &options).unwrap();
    assert_eq!(text, "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n");
}

#[test]
fn the_last_message_is_continued() {
    let folder = Folder::new();
    let json = r#"[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I am "}]"#;
    let file = folder.write("messages.json", json);
    let words = ["generate", "--messages", &file, "--continue-final-message"];
    let said = "<|im_start|>user\nhi<|im_end|><|im_start|>assistant\nI am ";
    assert_eq!(folder.stdout(&words), continued(said));
}

/// What the program says of the text that a template writes.
fn written(folder: &Folder, words: &[&str]) -> (Value, String) {
    let model = folder.0.path().to_str().unwrap();
    let run = Program::new(&[&["tokenize", "--json", "--model", model], words].concat()).run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    (json["text"].clone(), run.stderr)
}

#[test]
fn a_template_is_chosen_by_name_or_by_tools() {
    let folder = Folder::new();
    fs::create_dir(folder.0.path().join("additional_chat_templates")).unwrap();
    folder.write("additional_chat_templates/rag.jinja", "{{ documents[0].title }}");
    folder.write("additional_chat_templates/tool_use.jinja", "{{ tools | length }} tools");
    let tools = folder.write("tools.json", r#"[{"type": "function"}]"#);
    let documents = folder.write("documents.json", r#"[{"title": "Cats", "text": "purr"}]"#);
    assert_eq!(written(&folder, &["hi", "--tools", &tools]).0, "1 tools");
    let rag = ["hi", "--chat-template", "rag", "--documents", &documents];
    assert_eq!(written(&folder, &rag).0, "Cats");
    let run = folder.program(&["generate", "hi", "--chat-template", "none"]).run();
    assert_eq!(
        run.stderr.lines().next().unwrap(),
        "error: chat_template `none`: the model has no template `none`, expected one of `default`, \
         `rag`, `tool_use`"
    );
}

#[test]
fn a_request_to_a_server_is_a_conversation() {
    let folder = Folder::new();
    let request = json!({
        "model": "any", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5,
        "tools": [{"type": "function"}], "chat_template_kwargs": {"enable_thinking": false},
    });
    let file = folder.write("request.json", &request.to_string());
    let (text, notes) = written(&folder, &["--messages", &file]);
    assert_eq!(text, "<|im_start|>user\nhi<|im_end|>[{\"type\": \"function\"}]False");
    let expected: String = ["model", "temperature"]
        .map(|key| {
            format!("{file}: key `{key}` is not read, flags of the command say how to generate\n")
        })
        .concat();
    assert_eq!(notes, expected);
    let flag = ["--messages", &file, "--template-arg", "enable_thinking=1"];
    assert!(written(&folder, &flag).0.as_str().unwrap().ends_with("]1"), "a flag counts");
}

#[test]
fn a_conversation_is_tokenized_without_the_tokens_around_a_text() {
    let folder = Folder::new();
    let ids = |words: &[&str]| {
        let model = folder.0.path().to_str().unwrap();
        let lines = Program::new(&[&["tokenize", "--model", model], words].concat()).stdout();
        let id = |line: &str| line.split_whitespace().next().unwrap().parse().unwrap();
        lines.lines().map(id).collect::<Vec<u32>>()
    };
    let model = model();
    let encode = |text| model.tokenizer().unwrap().encode(text, false).unwrap();
    assert_eq!(ids(&["hi"]), [&[1][..], &encode("hi")].concat());
    assert_eq!(ids(&["hi", "--chat"]), encode("<|im_start|>user\nhi<|im_end|>"));
}

#[test]
fn tokens_are_shown_without_loading_weights() {
    let folder = Folder::new();
    let config = fs::read_to_string(folder.0.path().join("config.json")).unwrap();
    folder.write("config.json", &config.replace("\"hidden_size\":", "\"hidden_size\": 0, \"x\":"));
    assert_eq!(folder.program(&["generate", "hi"]).run().code, Some(1));
    assert_eq!(written(&folder, &["hi"]).0, "hi");
}

#[test]
fn the_tokens_of_a_text_or_a_conversation_are_shown() {
    let model = model();
    let tokenizer = model.tokenizer().unwrap();
    let text = Program::with_model(&["tokenize", "other"]).stdout();
    let ids: Vec<u32> =
        text.lines().map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
    assert_eq!(ids, model.encode("other").unwrap());
    assert!(ids.len() > 1);

    let json = Program::with_model(&["tokenize", "--chat", "hi", "--json"]).stdout();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rendered = model
        .chat_template()
        .unwrap()
        .render(&[Message::text("user", "hi")], &ChatOptions::new())
        .unwrap();
    assert_eq!(json["text"], rendered);
    let first = json!({
        "id": 1, "token": "<|im_start|>", "text": "<|im_start|>", "bytes": [0, 12], "special": true
    });
    assert_eq!(json["tokens"][0], first);
    let count = tokenizer.encode(&rendered, false).unwrap().len();
    assert_eq!(json["tokens"].as_array().unwrap().len(), count);
}
