//! `moexperts chat`, over a pipe.

use std::fs;

use moexperts::{ChatOptions, GenerateOptions, Image, LanguageModel, Message, Visual};

use crate::program::{Program, Run, model, picture, vision_model};

const FLAGS: [&str; 5] = ["chat", "--temperature", "0", "--max-new-tokens", "8"];

/// What the library answers to each line, the whole conversation computed anew every time.
fn answers(model: &LanguageModel, lines: &[&str]) -> Vec<String> {
    let options =
        GenerateOptions { temperature: Some(0.0), max_new_tokens: Some(8), ..Default::default() };
    let mut messages = Vec::new();
    let mut answers = Vec::new();
    for line in lines {
        messages.push(Message::text("user", *line));
        let prompt = model.chat_template().unwrap().render(&messages, &ChatOptions::new()).unwrap();
        let answer = model.generate(&prompt, &options).unwrap();
        messages.push(Message::text("assistant", answer.clone()));
        answers.push(answer);
    }
    answers
}

/// A run without the remarks that the answers are cut: these models rarely come to an end.
fn talk(program: Program) -> Run {
    let mut run = program.run();
    let cut = |line: &&str| !line.starts_with("(the answer ended: ");
    run.stderr = run.stderr.split_inclusive('\n').filter(cut).collect();
    run
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
    assert!(
        stderr[0].ends_with(" on CPU, experts grouped_mm; /help lists the commands"),
        "{stderr:?}"
    );
    let refused = "error: experts implementation `fast` is not registered for CPU, \
                   expected one of `eager`, `batched_mm`, `grouped_mm`";
    let cut = "(the answer ended: the limit of --max-new-tokens)";
    let expected = [cut, "experts: eager", cut, refused, "experts: eager", cut];
    assert_eq!(stderr[1..], expected);
}

#[test]
fn reset_forgets_and_help_tells() {
    let run = talk(Program::with_model(&FLAGS).input("hi\n/reset\nhi\n/help\n/help me\n"));
    let answer = answers(&model(), &["hi"]);
    assert_eq!(run.stdout, lines(&[answer.clone(), answer].concat()));
    assert!(run.stderr.contains("\nthe conversation is forgotten\n/image FILE    "));
    assert!(run.stderr.ends_with(
        "\nerror: `/help me` is no command, expected one of /image FILE, /experts [NAME], /reset, /help, /quit\n"
    ));
}

#[test]
fn a_conversation_goes_on_past_the_trained_length() {
    let long = "x".repeat(300);
    let run = talk(Program::with_model(&FLAGS).input(&format!("hi\n{long}\nand then?\n")));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout, lines(&answers(&model(), &["hi", &long, "and then?"])));
    assert_eq!(run.stderr.matches(" WARN ").count(), 1, "{}", run.stderr);
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
    let run = talk(Program::new(&flags).input("hi\nand\n"));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let notice = "the model has no chat template: your lines are continued as plain text";
    assert_eq!(run.stderr.lines().last(), Some(notice));

    let model = moexperts::AutoModelForCausalLm::from_pretrained(path, Default::default()).unwrap();
    let options =
        GenerateOptions { temperature: Some(0.0), max_new_tokens: Some(8), ..Default::default() };
    let first = model.generate("hi", &options).unwrap();
    let second = model.generate(&format!("hi{first}\nand"), &options).unwrap();
    assert_eq!(run.stdout, lines(&[first, second]));
}

/// What the library answers to each line and the images shown before it, the whole conversation
/// computed anew every time.
fn seen(model: &LanguageModel, turns: &[(&[&str], &str)]) -> Vec<String> {
    let options =
        GenerateOptions { temperature: Some(0.0), max_new_tokens: Some(8), ..Default::default() };
    let (mut messages, mut visuals, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for (files, line) in turns {
        let image = |file: &&str| Image::open(picture(file).as_ref()).unwrap();
        let shown: Vec<Visual> =
            files.iter().map(|file| model.prepare_image(&image(file)).unwrap()).collect();
        messages.push(Message::with_visuals("user", &shown, line));
        visuals.extend(shown);
        let text = model.chat_template().unwrap().render(&messages, &ChatOptions::new()).unwrap();
        let prompt = model.prompt(&text, visuals.clone(), false).unwrap();
        let events = model.generate_tokens(vec![prompt], &options).unwrap();
        let answer: String = events.map(|event| event.unwrap().text).collect();
        messages.push(Message::text("assistant", answer.clone()));
        answers.push(answer);
    }
    answers
}

fn chat_about_images(input: &str) -> Run {
    let run = talk(Program::with_vision(&FLAGS).input(input));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run
}

#[test]
fn images_stay_in_the_conversation() {
    let [gray, tall, alpha] = ["gray.png", "tall.webp", "alpha.png"].map(picture);
    let run = chat_about_images(&format!(
        "/image {gray}\nthe winter ?\nand then?\n/image {tall}\n/image {alpha}\nin sun was\n"
    ));
    let turns: [(&[&str], &str); 3] = [
        (&["gray.png"], "the winter ?"),
        (&[], "and then?"),
        (&["tall.webp", "alpha.png"], "in sun was"),
    ];
    let model = vision_model();
    let expected = seen(&model, &turns);
    assert_eq!(run.stdout, lines(&expected));
    let blind = seen(&model, &[turns[0], (&[], "and then?")].map(|(_, line)| (&[][..], line)));
    assert_ne!(expected[..2], blind, "the images make a difference");
    let said: Vec<String> =
        [gray, tall, alpha].map(|path| format!("{path}: goes with your next message")).into();
    assert_eq!(run.stderr.lines().skip(1).collect::<Vec<_>>(), said);
}

#[test]
fn reset_clears_the_images() {
    let [gray, tall] = ["gray.png", "tall.webp"].map(picture);
    let run = chat_about_images(&format!(
        "/image {gray}\nthe winter ?\n/image {tall}\n/reset\nthe winter ?\n"
    ));
    let model = vision_model();
    let [first] = &seen(&model, &[(&["gray.png"], "the winter ?")])[..] else { panic!() };
    let [second] = &seen(&model, &[(&[], "the winter ?")])[..] else { panic!() };
    assert_ne!(first, second);
    assert_eq!(run.stdout, lines(&[first.clone(), second.clone()]));
}

#[test]
fn a_bad_image_or_placeholder_is_said_and_the_conversation_goes_on() {
    let [gray, config] = ["gray.png", "config.json"].map(picture);
    let run = chat_about_images(&format!(
        "/image\n/image no such.png\n/image {config}\n/image {gray}\nlook <|image_pad|>\n\
         the winter ?\n"
    ));
    let model = vision_model();
    assert_eq!(run.stdout, lines(&seen(&model, &[(&["gray.png"], "the winter ?")])));
    let cause = fs::read("no such.png").unwrap_err();
    assert_eq!(
        run.stderr.lines().skip(1).collect::<Vec<_>>().join("\n"),
        format!(
            "error: /image names no file, expected /image FILE\n\
             error: cannot read `no such.png`\n\
             caused by: {cause}\n\
             error: {config}: is not an image, expected PNG, JPEG or WebP\n\
             {gray}: goes with your next message\n\
             error: the prompt has 2 placeholders `<|image_pad|>`, expected 1, one for each image\n\
             hint: take `<|image_pad|>` out of the prompt, or give as many images"
        )
    );
}

#[test]
fn the_file_of_an_image_may_be_written_as_in_a_shell() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("a \"cat\".png");
    fs::copy(picture("gray.png"), &image).unwrap();
    let home = folder.path().to_str().unwrap();
    let plain = image.to_str().unwrap();
    let escaped = plain.replace(' ', "\\ ").replace('"', "\\\"");
    for written in [plain, &format!("'{plain}'"), &escaped, "~/a \"cat\".png", "'~/a \"cat\".png'"]
    {
        let input = format!("/image {written}\nthe winter ?\n");
        let run = talk(Program::with_vision(&FLAGS).env("HOME", home).input(&input));
        let said = run.stderr.lines().nth(1).unwrap();
        assert_eq!(said, format!("{plain}: goes with your next message"), "{written}");
    }
}

#[test]
fn a_model_that_cannot_be_shown_images_says_so() {
    let gray = picture("gray.png");
    let input = format!("/image {gray}\nhi\n");
    let run = talk(Program::with_model(&FLAGS).input(&input));
    assert_eq!(run.stdout, lines(&answers(&model(), &["hi"])));
    assert!(
        run.stderr.ends_with(
            " (qwen2_moe) reads text alone, not images\n\
             hint: images need a multimodal model, of model_type `qwen3_vl_moe`\n"
        ),
        "{}",
        run.stderr
    );

    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors", "preprocessor_config.json"] {
        fs::copy(picture(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    let run = talk(Program::new(&[&FLAGS[..], &["--model", path]].concat()).input(&input));
    assert_eq!(run.code, Some(0));
    let error = format!(
        "error: model `{path}` has no chat template\n\
         hint: moexperts generate --image takes a prompt that has its own placeholders\n"
    );
    assert!(run.stderr.ends_with(&error), "{}", run.stderr);
}
