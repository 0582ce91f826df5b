//! `moexperts chat`, over a pipe.

use moexperts::{GenerateOptions, LanguageModel, Message};

use crate::program::{Program, model};

const FLAGS: [&str; 5] = ["chat", "--temperature", "0", "--max-new-tokens", "8"];

/// What the library answers to each line, the whole conversation computed anew every time.
fn answers(model: &LanguageModel, lines: &[&str]) -> Vec<String> {
    let options =
        GenerateOptions { temperature: Some(0.0), max_new_tokens: Some(8), ..Default::default() };
    let mut messages = Vec::new();
    let mut answers = Vec::new();
    for line in lines {
        messages.push(Message::text("user", *line));
        let prompt = model.chat_template().unwrap().render(&messages, true).unwrap();
        let answer = model.generate(&prompt, &options).unwrap();
        messages.push(Message::text("assistant", answer.clone()));
        answers.push(answer);
    }
    answers
}

fn lines(answers: &[String]) -> String {
    answers.iter().map(|answer| format!("{answer}\n")).collect()
}

#[test]
fn a_conversation_goes_on_while_backends_are_switched() {
    let input = "hi\n/experts eager\nand then?\n/experts fast\n/experts\n\nthe end\n/quit\nno\n";
    let run = Program::with_model(&FLAGS).input(input).run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout, lines(&answers(&model(), &["hi", "and then?", "the end"])));
    let stderr: Vec<&str> = run.stderr.lines().collect();
    assert!(stderr[0].ends_with(" on grouped_mm; /help lists the commands"), "{stderr:?}");
    let refused = "error: experts implementation `fast` is not registered for CPU, \
                   expected one of `eager`, `batched_mm`, `grouped_mm`";
    assert_eq!(stderr[1..], ["experts: eager", refused, "experts: eager"]);
}

#[test]
fn reset_forgets_and_help_tells() {
    let run = Program::with_model(&FLAGS).input("hi\n/reset\nhi\n/help\n/help me\n").run();
    let answer = answers(&model(), &["hi"]);
    assert_eq!(run.stdout, lines(&[answer.clone(), answer].concat()));
    assert!(run.stderr.contains("\nthe conversation is forgotten\n/experts   "));
    assert!(run.stderr.ends_with(
        "\nerror: `/help me` is no command, expected one of /experts [NAME], /reset, /help, /quit\n"
    ));
}

#[test]
fn a_message_that_is_too_long_leaves_the_conversation_as_it_was() {
    let long = "x".repeat(300);
    let run = Program::with_model(&FLAGS).input(&format!("hi\n{long}\nand then?\n")).run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout, lines(&answers(&model(), &["hi", "and then?"])));
    assert!(run.stderr.ends_with(
        " tokens, the model's context is 256\n\
         hint: /reset forgets the conversation and makes room\n"
    ));
}

#[test]
fn a_model_without_a_template_continues_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let from = std::path::Path::new(crate::program::MODEL).join(file);
        std::fs::copy(from, folder.path().join(file)).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    let flags = [&FLAGS[..], &["--model", path]].concat();
    let run = Program::new(&flags).input("hi\nand\n").run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let notice = "the model has no chat template: your lines are continued as plain text";
    assert_eq!(run.stderr.lines().skip(1).collect::<Vec<_>>(), [notice]);

    let model = moexperts::AutoModelForCausalLm::from_pretrained(path, Default::default()).unwrap();
    let options =
        GenerateOptions { temperature: Some(0.0), max_new_tokens: Some(8), ..Default::default() };
    let first = model.generate("hi", &options).unwrap();
    let second = model.generate(&format!("hi{first}\nand"), &options).unwrap();
    assert_eq!(run.stdout, lines(&[first, second]));
}
