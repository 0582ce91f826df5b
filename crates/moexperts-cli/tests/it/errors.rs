//! What goes wrong is said on standard error, line by line, and nowhere else.

use std::fs;

use crate::program::{MODEL, Program};

#[track_caller]
fn fails(program: Program, stderr: &str) {
    let run = program.run();
    assert_eq!(run.stderr, stderr);
    assert_eq!(run.stdout, "");
    assert_eq!(run.code, Some(1));
}

fn generate(words: &[&str]) -> Program {
    Program::with_model(&[&["generate", "hi"], words].concat())
}

#[test]
fn an_unknown_backend_lists_the_known() {
    fails(
        generate(&["--experts-implementation", "fast"]),
        "error: experts implementation `fast` is not registered for CPU, \
         expected one of `eager`, `batched_mm`, `grouped_mm`\n",
    );
}

#[test]
fn an_unknown_sub_config_lists_the_known() {
    fails(
        generate(&["--experts-implementation", "text_config=eager"]),
        "error: experts implementation: the model has no sub-config `text_config`, \
         expected one of `` (the model itself)\n",
    );
}

#[test]
fn a_missing_folder_is_named_with_the_cause_and_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let cause = fs::read_dir(&missing).unwrap_err();
    let path = missing.to_str().unwrap();
    fails(
        Program::new(&["generate", "hi", "--model", path]),
        &format!(
            "error: cannot read `{path}`\ncaused by: {cause}\n\
             hint: --model takes a folder with config.json and safetensors weights, or the id of a \
             model on the hub\n"
        ),
    );
}

#[test]
fn a_hub_id_that_is_not_in_the_cache_has_a_hint_offline() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_str().unwrap();
    let run =
        Program::new(&["generate", "hi", "--model", "a/b", "--offline", "--cache-dir", cache])
            .run();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert!(lines[0].starts_with("error: offline mode is on, "), "{lines:?}");
    assert!(lines[1].starts_with("hint: "), "{lines:?}");
}

#[test]
fn a_token_id_beyond_the_vocabulary_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("logits.safetensors");
    let words = ["logits", "--token-ids", "1,999", "--output", output.to_str().unwrap()];
    fails(
        Program::with_model(&words),
        "error: token id 999 is out of range, expected less than 128\n",
    );
    assert!(!output.exists());
}

#[test]
fn logits_are_not_written_over_what_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    fails(
        Program::with_model(&["logits", "--token-ids", "1", "--output", path]),
        &format!("error: cannot write `{path}`\ncaused by: it is not a regular file\n"),
    );
}

#[test]
fn a_prompt_longer_than_the_context_has_a_hint() {
    let run = Program::with_model(&["generate"]).input(&"x".repeat(300)).run();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.ends_with(
        " tokens, the model's context is 256\nhint: shorten the prompt to fewer than 256 tokens\n"
    ));
}

#[test]
fn an_option_out_of_range_says_its_range() {
    fails(
        generate(&["--top-p", "1.5"]),
        "error: option `top_p` is 1.5, expected above 0 and at most 1\n",
    );
}

#[test]
fn no_prompt_at_all_shows_how_to_give_one() {
    fails(
        Program::with_model(&["generate"]),
        "error: no prompt\nhint: give it as an argument, moexperts generate \"The borrow checker\", \
         or on standard input\n",
    );
}

#[test]
fn an_unknown_instruction_set_in_the_environment_is_refused() {
    for command in [&["generate", "hi"][..], &["inspect"]] {
        fails(
            Program::with_model(command).env("MOEXPERTS_ISA", "sse9"),
            "error: CPU: instruction set `sse9` (MOEXPERTS_ISA) is not known, \
             expected one of `portable`, `avx2`, `avx512`, `avx512bf16`\n",
        );
    }
}

#[test]
fn a_log_filter_that_cannot_be_read_is_refused() {
    let run = generate(&[]).env("RUST_LOG", "moexperts=loud").run();
    assert_eq!(run.code, Some(1));
    let expected = "error: RUST_LOG is `moexperts=loud`, expected a level (`debug`) or \
                    TARGET=LEVEL,TARGET=LEVEL\ncaused by: ";
    assert!(run.stderr.starts_with(expected), "{}", run.stderr);
}

#[test]
fn wrong_usage_exits_with_two() {
    for words in [
        &["generate", "hi", "--fast"][..],
        &["generate", "hi", "--experts-implementation", "a=b,c"],
        &["generate", "hi", "--threads", "0"],
        &["generate", "hi", "--dtype", "f8"],
        &["logits", "--token-ids", "", "--output", "x"],
        &["sing"],
        &[],
    ] {
        let run = Program::new(words).run();
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{words:?}");
        assert!(run.stderr.contains("Usage: moexperts") || run.stderr.starts_with("error: "));
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_moexperts"))
        .args(["generate", "hi", "--temperature", "0", "--ignore-eos", "--model", MODEL])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(output.status.success());
}
