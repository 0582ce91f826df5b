//! `moexperts generate`.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use moexperts::{ChatOptions, GenerateOptions, Message, cpu::Isa};
use serde_json::json;
use tempfile::TempDir;

use crate::program::{BACKENDS, Program, golden, i64s, model, picture, vision_model};

const PROMPT: &str = "the other thing";

/// The most likely tokens, whatever `generation_config.json` says.
const GREEDY: [&str; 4] = ["--temperature", "0", "--max-new-tokens", "24"];

fn greedy() -> GenerateOptions {
    GenerateOptions { temperature: Some(0.0), max_new_tokens: Some(24), ..Default::default() }
}

fn generate(words: &[&str]) -> Program {
    Program::with_model(&[&["generate"], words].concat())
}

#[test]
fn writes_the_text_of_the_library_with_every_backend() {
    let text = model().generate(PROMPT, &greedy()).unwrap();
    assert!(!text.is_empty());
    for backend in BACKENDS {
        let words = [&[PROMPT, "--experts-implementation", backend][..], &GREEDY].concat();
        assert_eq!(generate(&words).stdout(), format!("{text}\n"), "{backend}");
    }
}

#[test]
fn a_seed_repeats_the_draws() {
    let words = [PROMPT, "--do-sample", "--top-k", "20", "--top-p", "0.95", "--min-p", "0.01"];
    let words = [&words[..], &["--repetition-penalty", "1.1", "--seed", "7"]].concat();
    let options = GenerateOptions {
        do_sample: Some(true),
        top_k: Some(20),
        top_p: Some(0.95),
        min_p: Some(0.01),
        repetition_penalty: Some(1.1),
        seed: Some(7),
        ..Default::default()
    };
    let text = model().generate(PROMPT, &options).unwrap();
    assert_eq!(generate(&words).stdout(), format!("{text}\n"));
}

#[test]
fn a_stop_string_ends_the_text_and_is_not_shown() {
    let text = model().generate(PROMPT, &greedy()).unwrap();
    let stop: String = text.chars().filter(char::is_ascii_alphanumeric).skip(2).take(1).collect();
    let (before, _) = text.split_once(&stop).unwrap();
    let words = [&[PROMPT, "--stop", "never there", "--stop", &stop][..], &GREEDY].concat();
    assert_eq!(generate(&words).stdout(), format!("{before}\n"));
}

#[test]
fn reads_the_prompt_from_standard_input() {
    let expected = generate(&[&[PROMPT][..], &GREEDY].concat()).stdout();
    for line in ["the other thing", "the other thing\n", "the other thing\r\n"] {
        assert_eq!(generate(&GREEDY).input(line).stdout(), expected);
        assert_eq!(generate(&[&["-"][..], &GREEDY].concat()).input(line).stdout(), expected);
    }
}

#[test]
fn chat_puts_the_prompt_into_the_template() {
    let model = model();
    let message = Message::text("user", "hi");
    let prompt = model.chat_template().unwrap().render(&[message], &ChatOptions::new()).unwrap();
    let text = model.generate(&prompt, &greedy()).unwrap();
    let words = [&["hi", "--chat"][..], &GREEDY].concat();
    assert_eq!(generate(&words).stdout(), format!("{text}\n"));
}

#[test]
fn the_summary_is_on_standard_error() {
    let words = [PROMPT, "--experts-implementation", "=eager", "--threads", "1", "--ignore-eos"];
    let run = generate(&[&words[..], &GREEDY].concat()).run();
    assert_eq!(run.code, Some(0));
    let lines: Vec<&str> = run.stderr.lines().collect();
    let begins = |index: usize, words: &str| assert!(lines[index].starts_with(words), "{lines:?}");
    begins(0, "load     ");
    begins(1, "prompt   ");
    begins(2, "decode   23 tokens in ");
    assert_eq!(lines[3], "ended    the limit of --max-new-tokens");
    if cfg!(target_os = "linux") {
        begins(4, "memory   peak ");
    }
    let isa = Isa::choose().unwrap();
    assert_eq!(
        lines[lines.len() - 2..],
        [&format!("device   CPU, {isa}, 1 thread"), "experts  eager"]
    );
}

#[test]
fn json_says_what_was_written_and_why_it_ended() {
    let text = model().generate(PROMPT, &greedy()).unwrap();
    let words = [&[PROMPT, "--json", "--ignore-eos", "--logprobs", "2"][..], &GREEDY].concat();
    let run = generate(&words).run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(json["finish_reason"], "max_new_tokens");
    assert_eq!(json["token_ids"].as_array().unwrap().len(), 24);
    let logprobs = json["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 24);
    // Greedy: the token is the most likely one.
    assert_eq!(logprobs[0]["top"][0]["id"], json["token_ids"][0]);
    assert_eq!(logprobs[0]["top"].as_array().unwrap().len(), 2);
    assert!(logprobs[0]["logprob"].as_f64().unwrap() < 0.0);
    assert_eq!(json["decoded_tokens"], 23);
    assert_eq!(json["prompt_tokens"], model().encode(PROMPT).unwrap().len());
    assert_eq!(
        (&json["device"], &json["experts_implementation"]),
        (&"CPU".into(), &"grouped_mm".into())
    );
    assert!(json["prefill_s"].as_f64().unwrap() > 0.0);
    assert!(json["text"].as_str().unwrap().starts_with(&text), "{json}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_text_is_written_without_standard_error() {
    let expected = generate(&[&[PROMPT][..], &GREEDY].concat()).stdout();
    let run = generate(&[&[PROMPT][..], &GREEDY].concat()).run_without_stderr();
    assert_eq!((run.code, run.stdout), (Some(0), expected));
    let run = generate(&[PROMPT, "--top-p", "2"]).run_without_stderr();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
}

#[test]
fn verbose_logs_and_the_environment_decides_what() {
    let log = |program: Program| program.run().stderr;
    assert!(!log(generate(&[PROMPT])).contains("DEBUG"));
    assert!(log(generate(&[PROMPT, "-vv"])).contains("DEBUG moexperts_cpu"));
    assert!(!log(generate(&[PROMPT, "-vv"]).env("RUST_LOG", "error")).contains("DEBUG"));
}

/// The flags that make the greedy tokens of a golden file.
const GOLDEN: [&str; 5] = ["--temperature", "0", "--max-new-tokens", "20", "--ignore-eos"];

fn see(words: &[&str]) -> Program {
    Program::with_vision(&[&["generate"], &GOLDEN[..], words].concat())
}

/// What transformers generates, as text and a line break.
fn golden_text(prompt: &str) -> String {
    let (_, ids) = i64s(&golden(prompt), "greedy_ids");
    let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    format!("{}\n", vision_model().tokenizer().unwrap().decode(&ids, true).unwrap())
}

#[track_caller]
fn sees_golden(prompt: &str, program: Program) {
    let run = program.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout, golden_text(prompt));
    let (_, ids) = i64s(&golden(prompt), "input_ids");
    let tokens = format!("\nprompt   {} tokens in ", ids.len());
    assert!(run.stderr.contains(&tokens), "{}", run.stderr);
}

#[test]
fn images_go_through_the_chat_template_before_the_prompt() {
    let [gray, tall, alpha] = ["gray.png", "tall.webp", "alpha.png"].map(picture);
    sees_golden("one", see(&["--image", &gray, "the winter ?"]));
    sees_golden("one", see(&["--image", &gray, "--chat", "the winter ?"]));
    sees_golden("one", see(&["--image", &gray]).input("the winter ?\n"));
    sees_golden("two", see(&["--image", &tall, "--image", &alpha, "in sun was"]));
    let swapped = see(&["--image", &alpha, "--image", &tall, "in sun was"]).stdout();
    assert_ne!(swapped, golden_text("two"));
}

#[test]
fn images_of_a_conversation_are_files_or_bytes_or_those_of_the_command_line() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("messages.json");
    let [tall, alpha] = ["tall.webp", "alpha.png"].map(picture);
    let bytes = |file: &str| STANDARD.encode(fs::read(file).unwrap());
    let address = |file: &str| format!("data:image/any;base64,{}", bytes(file));
    let any = json!({"type": "image"});
    for (first, second, flags) in [
        (json!({"type": "image", "path": tall}), json!({"type": "image", "url": alpha}), vec![]),
        (
            json!({"type": "image_url", "image_url": {"url": address(&tall)}}),
            json!({"type": "image_url", "image_url": format!("file://{alpha}")}),
            vec![],
        ),
        (
            json!({"type": "image", "image": address(&tall)}),
            json!({"type": "image", "base64": bytes(&alpha)}),
            vec![],
        ),
        (any.clone(), json!({"type": "image", "path": alpha}), vec!["--image", &tall]),
        (json!({"type": "image", "path": tall}), any.clone(), vec!["--image", &alpha]),
        (any.clone(), any, vec!["--image", &tall, "--image", &alpha]),
    ] {
        let text = json!({"type": "text", "text": "in sun was"});
        let messages = json!([{"role": "user", "content": [first, second, text]}]);
        fs::write(&file, messages.to_string()).unwrap();
        let words = [&["--messages", file.to_str().unwrap()], flags.as_slice()].concat();
        sees_golden("two", see(&words));
    }
    let video = json!({"type": "video", "video": "cat.mp4"});
    fs::write(&file, json!([{"role": "user", "content": [video]}]).to_string()).unwrap();
    let refused = see(&["--messages", file.to_str().unwrap()]).run();
    let problem = ": the video in message 1: `cat.mp4` is not read, give its frames: --frame\n";
    assert!(refused.stderr.contains(problem), "{}", refused.stderr);
    for (source, problem) in [
        (
            "https://a.example/cat.png",
            "`https://a.example/cat.png` is not fetched, expected a file",
        ),
        ("data:image/png,x", "expected `data:image/TYPE;base64,BYTES`"),
        ("data:image/png;base64,!", "broken base64: "),
        ("data:image/png;base64,AAAA", "is not an image, expected PNG, JPEG or WebP"),
        ("no such.png", "no such.png"),
    ] {
        let part = json!({"type": "image", "url": source});
        let messages = json!([{"role": "user", "content": [part]}]);
        fs::write(&file, messages.to_string()).unwrap();
        let run = see(&["--messages", file.to_str().unwrap()]).run();
        assert_eq!(run.code, Some(1));
        assert!(run.stderr.contains(problem), "{source}: {}", run.stderr);
    }
}

#[test]
fn a_prompt_with_placeholders_of_its_own_is_taken_as_it_is() {
    let prompt = "Look: <|vision_start|><|image_pad|><|vision_end|> the end here";
    let image = picture("frame1.png");
    sees_golden("middle", see(&["--image", &image, prompt]));
    sees_golden("middle", see(&["--image", &image, "-"]).input(prompt));
    sees_golden("text", see(&["The inn is a inn sings"]));
}

#[test]
fn each_sub_config_has_a_backend_of_its_own() {
    let gray = picture("gray.png");
    for (choice, shown) in [
        (
            "text_config=batched_mm,vision_config=eager",
            "text_config=batched_mm, vision_config=eager",
        ),
        ("text_config=eager", "text_config=eager, vision_config=grouped_mm"),
        ("eager", "text_config=eager, vision_config=eager"),
    ] {
        let words = ["--image", &gray, "the winter ?", "--experts-implementation", choice];
        sees_golden("one", see(&words));
        let summary = see(&words).run().stderr;
        assert!(summary.ends_with(&format!("\nexperts  {shown}\n")), "{summary}");
    }
}

#[test]
fn frames_are_a_video() {
    let frames = ["frame0.png", "frame1.png", "frame2.png"].map(picture);
    let [a, b, c] = frames.each_ref().map(String::as_str);
    let frames = ["--frame", a, "--frame", b, "--frame", c];
    let text = "the red sings";
    let model = vision_model();
    let images = [a, b, c].map(|path| moexperts::Image::open(path.as_ref()).unwrap());
    let expected = |seconds: [f64; 3], prompt: &str| {
        let video = model.prepare_video(&images, &seconds).unwrap();
        let prompt = model.prompt(prompt, vec![video], true).unwrap();
        let options = GenerateOptions {
            temperature: Some(0.0),
            max_new_tokens: Some(20),
            ignore_eos: true,
            ..Default::default()
        };
        let events = model.generate_tokens(vec![prompt], &options).unwrap();
        events.map(|event| event.unwrap().text).chain(["\n".to_owned()]).collect::<String>()
    };
    let pad = "<|vision_start|><|video_pad|><|vision_end|>";
    let templated = format!("<|im_start|>user\n{pad}{text}<|im_end|>\n<|im_start|>assistant\n");
    let stdout = |words: &[&str]| see(&[&frames[..], words].concat()).stdout();
    let at_two = expected([0.0, 0.5, 1.0], &templated);
    assert_eq!(stdout(&[text]), at_two);
    assert_eq!(stdout(&[text, "--fps", "2"]), at_two);
    let at_half = expected([0.0, 2.0, 4.0], &templated);
    assert_ne!(at_half, at_two, "the times of frames are read");
    assert_eq!(stdout(&[text, "--fps", "0.5"]), at_half);
    let raw = format!("{pad}{text}");
    assert_eq!(stdout(&[&raw]), expected([0.0, 0.5, 1.0], &raw));
}
