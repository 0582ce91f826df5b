//! What goes wrong is said on standard error, line by line, and nowhere else.

use std::fs;

use crate::program::{MODEL, Program, picture};

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
fn a_prompt_longer_than_the_trained_length_is_a_warning() {
    let words = ["generate", "--max-new-tokens", "4"];
    let run = Program::with_model(&words).input(&"x".repeat(300)).run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let warnings: Vec<&str> = run.stderr.lines().filter(|line| line.contains(" WARN ")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("256"), "{warnings:?}");
    assert!(run.stderr.contains("\nended    the limit of --max-new-tokens\n"), "{}", run.stderr);
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
             expected one of `portable`, `avx2`, `avx512`, `avx512bf16`, `amxbf16`\n",
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

fn see(words: &[&str]) -> Program {
    Program::with_vision(&[&["generate"], words].concat())
}

/// A file of these bytes as `--image`.
#[track_caller]
fn refuses_image(file: &str, bytes: &[u8], problem: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    fails(see(&["what?", "--image", path]), &format!("error: {path}: {problem}\n"));
    let output = folder.path().join("logits.safetensors");
    let words = ["logits", "--prompt", "<|image_pad|>", "--image", path, "--output"];
    let words = [&words[..], &[output.to_str().unwrap()]].concat();
    fails(Program::with_vision(&words), &format!("error: {path}: {problem}\n"));
    assert!(!output.exists());
}

/// A black PNG; one whose size says otherwise than `rows` do is not whole.
fn png([width, height]: [u32; 2], rows: usize) -> Vec<u8> {
    let row = if rows == 0 { 0 } else { 1 + width as usize };
    let len = u16::try_from(rows * row).unwrap();
    // One block that is not compressed, and the checksum of zeros.
    let stored = [&[1][..], &len.to_le_bytes(), &(!len).to_le_bytes(), &vec![0; len.into()]];
    let data = [&[0x78, 0x01][..], &stored.concat(), &(u32::from(len) << 16 | 1).to_be_bytes()];
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let named = [kind, data].concat();
        let crc = named.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
        });
        [&(data.len() as u32).to_be_bytes()[..], &named, &(!crc).to_be_bytes()].concat()
    };
    let chunks = [chunk(b"IHDR", &header), chunk(b"IDAT", &data.concat()), chunk(b"IEND", b"")];
    [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
}

#[test]
fn files_that_are_no_images_are_refused() {
    refuses_image("note.png", b"not an image", "is not an image, expected PNG, JPEG or WebP");
    refuses_image("none.png", b"", "is not an image, expected PNG, JPEG or WebP");
    refuses_image("a.gif", b"GIF89a......", "is image/gif, expected PNG, JPEG or WebP");
}

#[test]
fn truncated_images_are_refused() {
    for file in ["gray.png", "rotated.jpg", "tall.webp"] {
        let bytes = fs::read(picture(file)).unwrap();
        let half = &bytes[..bytes.len() / 2];
        refuses_image(file, half, "is truncated, expected a whole image; save or fetch it again");
    }
}

#[test]
fn sizes_no_model_takes_are_refused() {
    let huge = "is 100000x100000 pixels, expected at most 178956970; scale it down";
    refuses_image("huge.png", &png([100_000, 100_000], 0), huge);
    let long = "is 1601x8 pixels, an aspect ratio of 200.1, expected at most 200; crop it";
    refuses_image("long.png", &png([1601, 8], 8), long);
}

#[test]
fn an_image_without_pixels_is_refused() {
    refuses_image("zero.png", &png([0, 27], 0), "is 0x27 pixels, expected at least 1x1");
}

#[test]
fn an_image_beyond_the_pixel_limit_is_refused() {
    refuses_image(
        "long.png",
        &png([1600, 8], 8),
        "is 1600x8 pixels and would be resized to 672x8, which is beyond the pixel limit of 2304; \
         crop it to be less long, or raise `size.longest_edge`",
    );
}

#[test]
fn a_missing_image_is_named_with_the_cause_before_the_model_is_loaded() {
    let cause = fs::read("no such.png").unwrap_err();
    let message = format!("error: cannot read `no such.png`\ncaused by: {cause}\n");
    fails(see(&["what?", "--image", "no such.png"]), &message);
    fails(see(&["what?", "--frame", "no such.png"]), &message);
    let nowhere = ["generate", "what?", "--image", "no such.png", "--model", "/no/such/folder"];
    fails(Program::new(&nowhere), &message);
}

#[test]
fn placeholders_and_images_have_to_be_as_many() {
    let gray = picture("gray.png");
    let error = |count: &str, what: &str, expected: usize, hint: &str| {
        format!("error: the prompt has {count} {what}, expected {expected}, {hint}\n")
    };
    let pad = "`<|image_pad|>`";
    let out = "one for each image\nhint: take `<|image_pad|>` out of the prompt, or give as many \
               images";
    let into = "one for each image\nhint: write `<|image_pad|>` into the prompt where each image \
                belongs";
    let two = "<|image_pad|> and <|image_pad|>";
    let one = "<|image_pad|> and";
    let more = error("2 placeholders", pad, 1, out);
    fails(see(&[two, "--image", &gray]), &more);
    fails(see(&[one, "--chat", "--image", &gray]), &more);
    fails(see(&[one]), &error("1 placeholder", pad, 0, out));
    let fewer = error("1 placeholder", pad, 2, into);
    fails(see(&[one, "--image", &gray, "--image", &gray]), &fewer);
    fails(
        see(&["<|image_pad|>", "--frame", &gray, "--frame", &gray, "--image", &gray]),
        "error: the prompt has 0 placeholders `<|video_pad|>`, expected 1, one for each video\n\
         hint: write `<|video_pad|>` into the prompt where each video belongs\n",
    );
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("logits.safetensors");
    let logits = |words: &[&str]| {
        let output = ["logits", "--output", output.to_str().unwrap(), "--image", &gray];
        Program::with_vision(&[&output[..], words].concat())
    };
    fails(logits(&["--prompt", two]), &more);
    fails(logits(&["--prompt", "nothing"]), &error("0 placeholders", pad, 1, into));
    let rows = "one for each row of an image\nhint: repeat the placeholder for each row, or give \
                the prompt as a text, where one for each picture is enough";
    let token = "(token 292)";
    fails(logits(&["--token-ids", "1,292"]), &error("1 placeholder", token, 15, rows));
    assert!(!output.exists());
}

#[test]
fn a_text_only_model_refuses_pictures() {
    let gray = picture("gray.png");
    let message = format!(
        "error: model `{MODEL}` (qwen2_moe) reads text alone, not images\n\
         hint: images need a multimodal model, of model_type `qwen3_vl_moe`\n"
    );
    fails(generate(&["--image", &gray]), &message);
    fails(generate(&["--frame", &gray]), &message);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("logits.safetensors");
    let words = ["logits", "--token-ids", "1", "--image", &gray, "--output"];
    fails(Program::with_model(&[&words[..], &[output.to_str().unwrap()]].concat()), &message);
}

#[test]
fn frames_that_make_no_video_are_refused() {
    let [frame, gray] = ["frame0.png", "gray.png"].map(picture);
    fails(
        see(&["hi", "--frame", &frame, "--frame", &gray]),
        &format!(
            "error: video: frame `{frame}` is 21x19 pixels and frame `{gray}` is 37x27, expected \
             frames of one size\n"
        ),
    );
    let run = see(&["hi", "--frame", &frame]).run();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.contains("expected at least 2 (`temporal_patch_size`)"), "{}", run.stderr);
}

#[test]
fn a_backend_of_a_sub_config_is_checked_without_its_having_experts() {
    fails(
        see(&["hi", "--experts-implementation", "vision_config=fast"]),
        "error: experts implementation `fast` is not registered for CPU, \
         expected one of `eager`, `batched_mm`, `grouped_mm`\n",
    );
    fails(
        see(&["hi", "--experts-implementation", "text=eager"]),
        "error: experts implementation: the model has no sub-config `text`, \
         expected one of `` (the model itself), `text_config`, `vision_config`\n",
    );
}

#[test]
fn wrong_usage_exits_with_two() {
    for words in [
        &["generate", "hi", "--fast"][..],
        &["generate", "hi", "--experts-implementation", "a=b,c"],
        &["generate", "hi", "--threads", "0"],
        &["generate", "hi", "--dtype", "f8"],
        &["logits", "--token-ids", "", "--output", "x"],
        &["logits", "--prompt", "", "--output", "x"],
        &["logits", "--prompt", "a", "--token-ids", "1", "--output", "x"],
        &["logits", "--image", "cat.png", "--output", "x"],
        &["generate", "hi", "--fps", "3"],
        &["generate", "hi", "--frame", "a.png", "--fps", "0"],
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
