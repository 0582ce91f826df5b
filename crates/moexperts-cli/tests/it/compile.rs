//! `--compile`.

use std::fs;

use serde_json::Value;

use crate::program::{BACKENDS, Program};

const PROMPT: &str = "the other thing";

const GREEDY: [&str; 4] = ["--temperature", "0", "--max-new-tokens", "24"];

const MODES: [&str; 4] =
    ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"];

#[test]
fn a_compiled_model_writes_the_same_text_and_says_what_compiling_did() {
    let cache = tempfile::tempdir().unwrap();
    let generate = |words: &[&str]| {
        let words = [&["generate", PROMPT], &GREEDY[..], words].concat();
        Program::with_model(&words).env("XDG_CACHE_HOME", cache.path().to_str().unwrap()).run()
    };
    let expected = generate(&[]).stdout;
    for mode in MODES {
        for backend in BACKENDS {
            let run = generate(&["--compile", mode, "--experts-implementation", backend]);
            assert_eq!((run.code, &run.stdout), (Some(0), &expected), "{mode} {backend}");
            let pieces = if backend == "eager" { "3 pieces" } else { "1 piece" };
            let line = run.stderr.lines().next().unwrap();
            assert!(line.starts_with(&format!("compiled {mode}: {pieces}, 2 plans, ")), "{line}");
            assert!(line.contains(", workspace ") && line.contains(" s"), "{line}");
            let captures = ["reduce-overhead", "max-autotune"].contains(&mode);
            assert_eq!(line.ends_with("; no graph to capture on CPU"), captures, "{line}");
        }
    }
    // What autotuning measured is where it should be, and is known the next time.
    let folder = cache.path().join("moexperts/autotune");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
    let run = generate(&["--compile", "max-autotune", "--fullgraph", "--compile-memory", "0"]);
    assert!(run.stderr.contains(", fullgraph: 1 piece"), "{}", run.stderr);
    assert!(run.stderr.contains(", 0 products measured, "), "{}", run.stderr);
}

#[test]
fn a_chat_is_compiled_too() {
    let words = [&["chat", "--compile", "default"], &GREEDY[..]].concat();
    let run = Program::with_model(&words).input("Hello\n/experts eager\nAnd now?\n").run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("compiled default: 1 piece, 1 plan, "), "{}", run.stderr);
    let plain = Program::with_model(&[&["chat"], &GREEDY[..]].concat());
    let plain = plain.input("Hello\n/experts eager\nAnd now?\n").run();
    assert_eq!(run.stdout, plain.stdout);
}

#[test]
fn inspect_shows_the_plans() {
    let words = ["inspect", "--compile", "default", "--prompt-tokens", "5,40", "--batch", "1,2"];
    let text = Program::with_model(&words).stdout();
    let plans = &text[text.find("\nPlans\n").unwrap()..];
    for line in [
        "compiled  default, 3 layers",
        "decode of batch 1, grouped_mm: 1 piece, ",
        "decode of batch 2, grouped_mm: 1 piece, ",
        "prefill of up to 16 tokens, grouped_mm: ",
        "prefill of up to 64 tokens, grouped_mm: ",
        "prefill of up to 128 tokens, grouped_mm: ",
        "q_proj + k_proj + v_proj",
    ] {
        assert!(plans.contains(line), "{line}: {plans}");
    }
    let words = ["inspect", "--compile", "default", "--experts-implementation", "eager"];
    let text = Program::with_model(&words).stdout();
    let line = "break at experts of layers 0, 2: eager reads on the host which experts were hit";
    assert!(text.contains(line), "{text}");
}

#[test]
fn what_cannot_be_is_said() {
    let run = Program::with_model(&[
        "generate",
        PROMPT,
        "--compile",
        "default",
        "--fullgraph",
        "--experts-implementation",
        "eager",
    ]);
    let run = run.run();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        run.stderr,
        "error: fullgraph: experts implementation `eager` breaks the graph at experts: it reads on \
         the host which experts were hit\nhint: compile without fullgraph, or use a backend that \
         does not: `batched_mm`, `grouped_mm`\n"
    );
    for (words, expected) in [
        (&["--compile", "fast"][..], "option `compile` is `fast`, expected one of `default`, "),
        (&["--fullgraph"], "--compile <MODE>"),
        (&["--compile", "default", "--compile-memory", "much"], "expected bytes: 1000000, 512MiB"),
    ] {
        let run = Program::with_model(&[&["generate", PROMPT], words].concat()).run();
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
}

#[test]
fn a_benchmark_compares_ways_to_compile() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.json");
    let words = ["bench", "model", "--prompt-tokens", "3", "--new-tokens", "4", "--batch", "1"];
    let rest = ["--repetitions", "1", "--threads", "1", "--json", file.to_str().unwrap()];
    let modes = ["--compile", "none,default,max-autotune", "--fullgraph"];
    let run = Program::new(&[&words[..], &rest, &modes].concat());
    let run = run.env("XDG_CACHE_HOME", folder.path().to_str().unwrap()).run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let reason = "note: fullgraph: experts implementation `eager` breaks the graph at experts";
    assert_eq!(run.stdout.matches(reason).count(), 2, "{}", run.stdout);
    assert_eq!(run.stdout.matches("\ncompiled  ").count(), 2, "{}", run.stdout);
    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let word = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let got: Vec<_> =
        rows.iter().map(|r| (word(r, "compile"), word(r, "implementation"))).collect();
    let mut expected: Vec<_> = BACKENDS.map(|name| ("none".to_owned(), name.to_owned())).to_vec();
    for mode in ["default", "max-autotune"] {
        expected.extend(BACKENDS[1..].iter().map(|name| (mode.to_owned(), (*name).to_owned())));
    }
    assert_eq!(got, expected);
    // One that was named has to take part.
    let named = ["--compile", "default", "--fullgraph", "--experts-implementation", "eager"];
    let run = Program::new(&[&words[..], &named].concat()).run();
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.starts_with("error: fullgraph: experts implementation `eager`"));
}
