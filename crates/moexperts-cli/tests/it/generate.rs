//! `moexperts generate`.

use moexperts::{GenerateOptions, Message, cpu::Isa};

use crate::program::{BACKENDS, Program, model};

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
    let prompt = model.chat_template().unwrap().render(&[message], true).unwrap();
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
    if cfg!(target_os = "linux") {
        begins(3, "memory   peak ");
    }
    let isa = Isa::choose().unwrap();
    assert_eq!(lines.last(), Some(&format!("experts  eager, {isa}, 1 thread").as_str()));
}

#[test]
fn verbose_logs_and_the_environment_decides_what() {
    let log = |program: Program| program.run().stderr;
    assert!(!log(generate(&[PROMPT])).contains("DEBUG"));
    assert!(log(generate(&[PROMPT, "-vv"])).contains("DEBUG moexperts_cpu"));
    assert!(!log(generate(&[PROMPT, "-vv"]).env("RUST_LOG", "error")).contains("DEBUG"));
}
