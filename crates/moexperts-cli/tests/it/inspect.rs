//! `moexperts inspect`.

use std::fs;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::program::{BACKENDS, MODEL, Program, Run};

fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let from = text.find(&format!("{title}\n")).unwrap_or_else(|| panic!("{title}: {text}"));
    text[from..].split("\n\n").next().unwrap()
}

#[test]
fn shows_every_section() {
    let text = Program::with_model(&["inspect", "--threads", "1"])
        .env("MOEXPERTS_ISA", "portable")
        .env("HF_TOKEN", "hf_secret")
        .stdout();
    let machine = section(&text, "Machine");
    assert!(machine.contains("\n  instruction set  portable of portable"));
    assert!(machine.contains("GB/s, measured with 1 thread over "));

    let devices: Vec<&str> = section(&text, "Devices").lines().collect();
    assert!(devices[1].starts_with("  cpu*  "), "{devices:?}");
    assert!(devices[1].ends_with(": eager, batched_mm, grouped_mm"), "{devices:?}");
    assert!(devices[2].starts_with("  cuda  none: "), "{devices:?}");
    assert_eq!(devices[3..], ["  * in use"]);

    let backends = section(&text, "Experts backends on CPU");
    assert!(backends.lines().nth(1).unwrap().split_whitespace().eq(BACKENDS));
    let answers = |name: &str| {
        let line = backends.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        line.trim_start()[name.len()..].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for property in ["bf16", "no gate", "biases"] {
        assert_eq!(answers(property), ["yes", "yes", "yes"], "{property}");
    }

    let kernels = section(&text, "Kernels by dtype of the weights, the best first");
    assert!(kernels.contains("portable*"));

    let environment = section(&text, "Environment");
    let says = |variable: &str, words: &str| {
        let line =
            environment.lines().find(|line| line.split_whitespace().next() == Some(variable));
        assert!(line.unwrap().contains(words), "{line:?}");
    };
    says("MOEXPERTS_ISA", " `portable`: lowers");
    says("HF_TOKEN", " set, not shown: access token");
    assert!(!text.contains("hf_secret"));
}

#[test]
fn describes_the_model() {
    let text = Program::with_model(&["inspect", "--dtype", "bf16"]).stdout();
    let model = section(&text, "Model");
    for (name, value) in [
        ("family", "qwen2_moe"),
        ("layers", "3, 2 with experts"),
        ("hidden size (H)", "32"),
        ("expert width (I)", "20, the shared one 36"),
        ("experts (E)", "8"),
        ("experts a token (K)", "2"),
        ("heads", "4 for queries, 2 for keys and values, 8 wide"),
        ("vocabulary (V)", "128"),
        ("context", "256 tokens"),
        ("experts backend", "grouped_mm"),
    ] {
        assert!(model.contains(&format!("\n  {name:19}  {value}\n")), "{name}: {model}");
    }
    assert!(model.contains(" of bf16\n"), "{model}");
    assert!(model.contains(" tok/s for one sequence, all weights read from memory"), "{model}");
}

#[test]
fn describes_a_vision_tower() {
    let choice = ["--experts-implementation", "text_config=batched_mm,vision_config=eager"];
    let text = Program::with_vision(&[&["inspect"], &choice[..]].concat()).stdout();
    let model = section(&text, "Model");
    for (name, value) in [
        ("family", "qwen3_vl_moe"),
        ("layers", "3, 2 with experts"),
        ("vocabulary (V)", "298"),
        ("experts backend", "text_config=batched_mm, vision_config=eager"),
        ("vision_config", "4 blocks, 24 wide, 2 heads, no experts"),
        ("patches", "4 x 4 pixels of 2 frames, 2 x 2 to a token"),
        ("deepstack", "after blocks 0, 2"),
        ("parameters", "117.3 k, 37.3 k active for a token"),
        ("weights", "396 kB used in place, 73.7 kB converted"),
    ] {
        assert!(model.contains(&format!("\n  {name:19}  {value}\n")), "{name}: {model}");
    }
}

/// The tiny model with a changed config, in a folder.
fn changed(change: impl FnOnce(&mut Map<String, Value>)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(MODEL).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let file = folder.path().join("config.json");
    let mut config = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    change(&mut config);
    fs::write(&file, Value::Object(config).to_string()).unwrap();
    folder
}

fn inspect(folder: &TempDir) -> Run {
    Program::new(&["inspect", "--model", folder.path().to_str().unwrap()]).run()
}

#[test]
fn the_context_is_shown_with_and_without_rope_scaling() {
    let folder = changed(|config| {
        config.remove("rope_parameters");
        let yarn =
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256});
        config.insert("rope_scaling".to_owned(), yarn);
        config.insert("made_up".to_owned(), 1.into());
    });
    let text = inspect(&folder).stdout;
    let model = section(&text, "Model");
    assert!(model.contains("  256 tokens, 1024 with rope scaling\n"), "{model}");
    assert!(section(&text, "Warnings").contains("`made_up`"), "{text}");
}

#[test]
fn what_is_superfluous_and_what_loading_needs_is_shown() {
    let folder = changed(|config| {
        config.insert("num_hidden_layers".to_owned(), 1.into());
    });
    let text = inspect(&folder).stdout;
    let checkpoint = section(&text, "Checkpoint");
    assert!(checkpoint.contains("  quantised  no"), "{checkpoint}");
    assert!(checkpoint.contains(": F32 91"), "{checkpoint}");
    let loading = section(&text, "Loading");
    assert!(loading.contains("\n  missing      none\n"), "{loading}");
    assert!(loading.contains("model.layers.1.input_layernorm.weight, "), "{loading}");
    let needs = loading.lines().nth(1).unwrap();
    let (_, in_place) = needs.split_once("needs").unwrap();
    let (in_place, _) = in_place.trim().split_once(" in place").unwrap();
    let used = format!("  {in_place} used in place, ");
    assert!(section(&text, "Model").contains(&used), "{text}");
}

#[test]
fn a_model_that_cannot_be_loaded_is_described_and_refused() {
    let folder = changed(|config| {
        config.insert("num_hidden_layers".to_owned(), 9.into());
        config.remove("layer_types");
    });
    let run = inspect(&folder);
    assert_eq!(run.code, Some(1));
    let loading = section(&run.stdout, "Loading");
    assert!(loading.contains("model.layers.3.input_layernorm.weight, "), "{loading}");
    assert!(run.stderr.contains("missing tensor `model.layers.3."), "{}", run.stderr);

    let folder = changed(|config| {
        config.insert("quantization_config".to_owned(), json!({"quant_method": "fp8"}));
    });
    let run = inspect(&folder);
    assert_eq!(run.code, Some(1));
    assert!(section(&run.stdout, "Checkpoint").contains("\n  quantised  fp8"), "{}", run.stdout);
    assert!(run.stderr.contains("the weights are quantised by `fp8`"), "{}", run.stderr);
}
