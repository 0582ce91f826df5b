//! `moexperts bench`.

use std::{fs, path::Path};

use serde_json::Value;

use crate::program::{BACKENDS, Program, VISION};

/// Rows of a file, each with exactly these keys in this order.
fn rows(path: &Path, keys: &[&str]) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let Value::Array(rows) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
    let expected: Vec<String> = keys.iter().map(|key| format!("{{\"{key}\":")).collect();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(&expected[0])).collect();
    assert_eq!(lines.len(), rows.len(), "a line a row: {text}");
    for (row, line) in rows.iter().zip(lines) {
        assert_eq!(row.as_object().unwrap().len(), keys.len(), "{line}");
        let places = keys.iter().map(|key| line.find(&format!("\"{key}\":")));
        let places: Vec<usize> =
            places.map(|place| place.unwrap_or_else(|| panic!("{line}"))).collect();
        assert!(places.is_sorted(), "{line}");
    }
    rows
}

/// The columns of the lines of a table that begin with a word.
fn table<'a>(text: &'a str, first: &str) -> Vec<Vec<&'a str>> {
    let lines = text.lines().filter(|line| line.split_whitespace().next() == Some(first));
    lines.map(|line| line.split_whitespace().collect()).collect()
}

const LAYER: [&str; 16] = [
    "shape",
    "dtype",
    "device",
    "threads",
    "tokens",
    "experts_hit",
    "implementation",
    "compile",
    "median_ms",
    "p10_ms",
    "p90_ms",
    "gb_per_s",
    "gflop_per_s",
    "limit_gb_per_s",
    "limit_gflop_per_s",
    "fraction_of_limit",
];

fn layer(words: &[&str]) -> Program {
    let small = ["bench", "layer", "--time", "0.001", "--threads", "1"];
    Program::new(&[&small[..], words].concat())
}

#[test]
fn a_layer_has_a_row_for_each_backend_and_number_of_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layer.json");
    fs::write(&file, "of an earlier run").unwrap();
    let words = ["--shape", "64,32,8,2", "--tokens", "1,4", "--dtype", "f16"];
    let run = layer(&[&words[..], &["--json", file.to_str().unwrap()]].concat()).run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));

    let lines = table(&run.stdout, "64,32,8,2");
    let rows = rows(&file, &LAYER);
    assert_eq!((lines.len(), rows.len()), (6, 6));
    let cells = ["1", "4"].iter().flat_map(|tokens| BACKENDS.map(|backend| (*tokens, backend)));
    for (((tokens, backend), line), row) in cells.zip(lines).zip(rows) {
        assert_eq!((line[1], line[2], line[4]), ("f16", tokens, backend));
        assert_eq!(row["shape"], "64,32,8,2");
        assert_eq!((&row["dtype"], &row["device"]), (&"f16".into(), &"cpu".into()));
        assert_eq!((&row["implementation"], &row["compile"]), (&backend.into(), &"none".into()));
        assert_eq!((row["tokens"].to_string(), &row["threads"]), (tokens.to_owned(), &1.into()));
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("p10_ms") <= number("median_ms"));
        assert!(number("median_ms") <= number("p90_ms"));
        if tokens == "1" {
            assert_eq!(number("experts_hit"), 2.0);
        }
        let bytes = number("experts_hit") * 3.0 * 64.0 * 32.0 * 2.0;
        let flops = 2.0 * 3.0 * 64.0 * 32.0 * 2.0 * number("tokens");
        let seconds = number("median_ms") / 1e3;
        let close = |got: f64, expected: f64| (got / expected - 1.0).abs() < 1e-4;
        assert!(close(number("gb_per_s"), bytes / seconds / 1e9));
        assert!(close(number("gflop_per_s"), flops / seconds / 1e9));
        let least = [("gb_per_s", "limit_gb_per_s"), ("gflop_per_s", "limit_gflop_per_s")]
            .map(|(got, limit)| number(got) / number(limit));
        assert!(close(number("fraction_of_limit"), least[0].max(least[1])));
    }
    assert!(run.stdout.starts_with("machine   "), "{}", run.stdout);
    assert!(run.stdout.contains("\nlimits of 64,32,8,2 f16: "), "{}", run.stdout);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside the file");
}

#[test]
fn one_expert_is_hit_by_all_tokens() {
    let words = ["--shape", "8,8,4,2", "--tokens", "16", "--routing", "one-expert"];
    let text = layer(&[&words[..], &["--experts-implementation", "eager"]].concat()).stdout();
    let lines = table(&text, "8,8,4,2");
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0][2..5], ["16", "1.0", "eager"]);
}

#[test]
fn what_cannot_be_measured_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    for (words, expected) in [
        (
            ["--experts-implementation", "eager,fast"],
            "error: experts implementation `fast` is not registered for CPU, expected one of \
             `eager`, `batched_mm`, `grouped_mm`\n"
                .to_owned(),
        ),
        (
            ["--json", folder],
            format!("error: cannot write `{folder}`\ncaused by: it is not a regular file\n"),
        ),
    ] {
        let run = layer(&words).run();
        assert_eq!((run.code, run.stdout, run.stderr), (Some(1), String::new(), expected));
    }
    for (words, expected) in [
        (["--shape", "olmo"], "shape `olmo` is not known, expected one of `qwen1.5-moe`, "),
        (["--shape", "64,32,8,9"], "K is 9, expected at most E, which is 8"),
        (["--tokens", "1,0"], "invalid value '0' for '--tokens <COUNTS>'"),
        (["--dtype", "f8"], "dtype `f8` is not known, expected one of `f32`, `f16`, `bf16`"),
        (["--time", "soon"], "expected a number of seconds, at least 0"),
        (["--routing", "none"], "[possible values: uniform, zipf, one-expert]"),
    ] {
        let run = Program::new(&[&["bench", "layer"][..], &words].concat()).run();
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
        assert!(
            run.stderr.starts_with("error: ") && run.stderr.contains(expected),
            "{}",
            run.stderr
        );
    }
}

const MODEL_KEYS: [&str; 15] = [
    "model",
    "dtype",
    "device",
    "threads",
    "batch",
    "prompt_tokens",
    "new_tokens",
    "implementation",
    "compile",
    "load_s",
    "prefill_tok_per_s",
    "decode_tok_per_s",
    "decode_gb_per_s",
    "limit_gb_per_s",
    "peak_memory_bytes",
];

#[test]
fn the_embedded_model_has_a_row_for_each_backend_batch_and_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.json");
    let words = ["bench", "model", "--prompt-tokens", "3,5", "--new-tokens", "4", "--batch", "1,2"];
    let rest = ["--repetitions", "1", "--threads", "1", "--json", file.to_str().unwrap()];
    let run = Program::new(&[&words[..], &rest].concat()).run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert!(run.stdout.contains("\nmodel     rust-book-moe (in the program), bf16, loaded in "));

    let rows = rows(&file, &MODEL_KEYS);
    assert_eq!(rows.len(), 2 * 2 * BACKENDS.len());
    let cells = [("1", "3"), ("1", "5"), ("2", "3"), ("2", "5")];
    let cells = cells.iter().flat_map(|cell| BACKENDS.map(|backend| (cell, backend)));
    for ((&(batch, prompt), backend), row) in cells.zip(&rows) {
        assert_eq!(
            (&row["model"], &row["dtype"]),
            (&"rust-book-moe (in the program)".into(), &"bf16".into())
        );
        assert_eq!((&row["implementation"], &row["compile"]), (&backend.into(), &"none".into()));
        assert_eq!(
            (row["batch"].to_string(), row["prompt_tokens"].to_string()),
            (batch.into(), prompt.into())
        );
        assert_eq!((&row["new_tokens"], &row["threads"]), (&4.into(), &1.into()));
        for key in
            ["load_s", "prefill_tok_per_s", "decode_tok_per_s", "decode_gb_per_s", "limit_gb_per_s"]
        {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key}: {row}");
        }
        if cfg!(target_os = "linux") {
            assert!(row["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
        }
    }
    for backend in BACKENDS {
        let lines = table(&run.stdout, backend);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[3][1..5], ["none", "2", "5", "4"]);
    }
}

#[test]
fn a_model_measures_only_what_fits_its_context() {
    let words = ["bench", "model", "--prompt-tokens", "1,250", "--new-tokens", "7"];
    let run = Program::with_model(&words).run();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        run.stderr,
        "error: 250 prompt tokens and 7 new ones do not fit the model's context of 256\n\
         hint: lower --prompt-tokens or --new-tokens\n"
    );
    let run = Program::new(&["bench", "model", "--new-tokens", "1"]).run();
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("expected a number, at least 2"), "{}", run.stderr);
}

const VISION_KEYS: [&str; 15] = [
    "model",
    "dtype",
    "device",
    "threads",
    "image",
    "patches",
    "implementation",
    "compile",
    "prepare_ms",
    "median_ms",
    "p10_ms",
    "p90_ms",
    "gflop_per_s",
    "limit_gflop_per_s",
    "fraction_of_limit",
];

fn vision(words: &[&str]) -> Program {
    let small = ["bench", "vision", "--time", "0.001", "--threads", "1"];
    Program::new(&[&small[..], words].concat())
}

#[test]
fn a_vision_tower_has_a_row_for_each_image() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vision.json");
    let words = ["--image-size", "32x24,48x48", "--model", VISION, "--compile", "none,default"];
    let run = vision(&[&words[..], &["--json", file.to_str().unwrap()]].concat()).run();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert!(run.stdout.contains("\ntower     4 layers of 24, 2 deepstack mergers, f32\n"));

    let rows = rows(&file, &VISION_KEYS);
    let images = [("32x24", 8 * 6), ("48x48", 12 * 12)];
    let expected: Vec<_> = images
        .into_iter()
        .flat_map(|image| ["none", "default"].map(|compile| (image, compile)))
        .collect();
    assert_eq!(rows.len(), expected.len());
    for (((image, patches), compile), row) in expected.into_iter().zip(&rows) {
        assert_eq!((&row["image"], &row["patches"]), (&image.into(), &patches.into()));
        assert_eq!((&row["model"], &row["dtype"]), (&VISION.into(), &"f32".into()));
        assert_eq!((&row["device"], &row["threads"]), (&"cpu".into(), &1.into()));
        assert_eq!(
            (&row["implementation"], &row["compile"]),
            (&"moexperts".into(), &compile.into())
        );
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("prepare_ms") > 0.0);
        assert!(number("p10_ms") <= number("median_ms"));
        assert!(number("median_ms") <= number("p90_ms"));
        let (n, block, merger) = (f64::from(patches), 4 * 24 * 24 + 2 * 24 * 40, 96 * (96 + 32));
        let per_patch = f64::from(24 * 96 + 4 * block);
        let of_weights = n * per_patch + n / 4.0 * f64::from(3 * merger);
        let flops = 2.0 * of_weights + 4.0 * 4.0 * n * n * 24.0;
        let close = |got: f64, expected: f64| (got / expected - 1.0).abs() < 1e-4;
        assert!(close(number("gflop_per_s"), flops / number("median_ms") / 1e6));
        let fraction = number("gflop_per_s") / number("limit_gflop_per_s");
        assert!(close(number("fraction_of_limit"), fraction));
        let lines = table(&run.stdout, image);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().any(|line| line[1] == compile && line[2] == patches.to_string()));
    }
}

#[test]
fn a_tower_converts_as_it_is_asked_to() {
    let words = ["--image-size", "16x16", "--model", VISION, "--dtype", "bf16"];
    let text = vision(&words).stdout();
    assert!(text.contains(" deepstack mergers, bf16\n"), "{text}");
}

#[test]
fn only_a_model_that_sees_has_a_vision_tower() {
    let run = vision(&[]).run();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.starts_with("error: model `rust-book-moe"), "{}", run.stderr);
    for size in ["1024", "0x32", "32x", "32x32x32", "8193x1"] {
        let run = vision(&["--image-size", size, "--model", VISION]).run();
        assert_eq!(run.code, Some(2));
        let expected = "expected WIDTHxHEIGHT, each from 1 to 8192";
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
}
