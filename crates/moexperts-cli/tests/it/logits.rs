//! `moexperts logits`.

use std::{fs, path::Path};

use safetensors::{Dtype, SafeTensors};

use crate::program::{BACKENDS, MODEL, Program, golden, i64s, picture};

/// Of the largest logit; the sums run in another order than in the golden file.
const TOLERANCE: f32 = 1e-4;

fn f32s(file: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = SafeTensors::deserialize(file).unwrap();
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32);
    let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (tensor.shape().to_vec(), values.collect())
}

fn input_ids(file: &[u8]) -> String {
    let (_, ids) = i64s(file, "input_ids");
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// Fails unless a tensor has the shape of the golden one and values close to its.
#[track_caller]
fn assert_close(what: &str, got: &[u8], golden: &[u8], name: &str) {
    let ((shape, got), (golden_shape, expected)) = (f32s(got, name), f32s(golden, name));
    assert_eq!(shape, golden_shape, "{what}: {name}");
    let allowed = TOLERANCE * expected.iter().fold(0.0, |max: f32, value| max.max(value.abs()));
    for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert!(
            (got - expected).abs() <= allowed,
            "{what}: value {index} of {name} is {got}, expected {expected} within {allowed}"
        );
    }
}

#[test]
fn every_backend_writes_the_logits_of_transformers() {
    let golden = fs::read(Path::new(MODEL).join("golden.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("logits.safetensors");
    for backend in BACKENDS {
        let ids = input_ids(&golden);
        let words = ["logits", "--token-ids", &ids, "--experts-implementation", backend];
        let words =
            [&words[..], &["--dtype", "f32", "--output", output.to_str().unwrap()]].concat();
        assert_eq!(Program::with_model(&words).stdout(), "");
        assert_close(backend, &fs::read(&output).unwrap(), &golden, "logits");
    }
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap()).collect();
    assert_eq!(files.len(), 1, "nothing is left beside the output: {files:?}");
}

fn names(file: &[u8]) -> Vec<String> {
    let mut names: Vec<String> =
        SafeTensors::deserialize(file).unwrap().names().iter().map(|s| (*s).to_owned()).collect();
    names.sort();
    names
}

/// Runs `logits` on the model that reads images, and reads the file and the notice it writes.
fn see(words: &[&str]) -> (Vec<u8>, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("logits.safetensors");
    let path = output.to_str().unwrap();
    let run = Program::with_vision(&[&["logits", "--output", path], words].concat()).run();
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{}", run.stderr);
    let notice = run.stderr.replace(path, "FILE");
    (fs::read(output).unwrap(), notice)
}

const MIDDLE: &str = "Look: <|vision_start|><|image_pad|><|vision_end|> the end here";
const ONE: &str = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>the winter ?\
                   <|im_end|>\n<|im_start|>assistant\n";
const TWO: &str = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|vision_start|>\
                   <|image_pad|><|vision_end|>in sun was<|im_end|>\n<|im_start|>assistant\n";

#[test]
fn a_text_with_images_has_the_logits_of_transformers() {
    for (name, prompt, images, notice) in [
        (
            "middle",
            MIDDLE,
            &["frame1.png"][..],
            "logits [26, 298], input_ids [26], pixel_values [36, 96], image_grid_thw [1, 3]",
        ),
        (
            "one",
            ONE,
            &["gray.png"],
            "logits [35, 298], input_ids [35], pixel_values [60, 96], image_grid_thw [1, 3]",
        ),
        (
            "two",
            TWO,
            &["tall.webp", "alpha.png"],
            "logits [38, 298], input_ids [38], pixel_values [76, 96], image_grid_thw [2, 3]",
        ),
    ] {
        let golden = golden(name);
        let images: Vec<String> = images.iter().map(|image| picture(image)).collect();
        let images: Vec<&str> = images.iter().flat_map(|path| ["--image", path]).collect();
        let ids = input_ids(&golden);
        for input in [["--prompt", prompt], ["--token-ids", &ids]] {
            let (file, said) = see(&[&input[..], &images].concat());
            assert_eq!(said, format!("wrote FILE: {notice}\n"));
            assert_eq!(names(&file), ["image_grid_thw", "input_ids", "logits", "pixel_values"]);
            assert_close(name, &file, &golden, "logits");
            assert_close(name, &file, &golden, "pixel_values");
            assert_eq!(i64s(&file, "input_ids"), i64s(&golden, "input_ids"));
            assert_eq!(i64s(&file, "image_grid_thw"), i64s(&golden, "grid_thw"));
        }
    }
}

#[test]
fn a_text_alone_is_read_as_it_is() {
    let golden = golden("text");
    let (file, said) = see(&["--prompt", "The inn is a inn sings"]);
    assert_eq!(said, "wrote FILE: logits [15, 298], input_ids [15]\n");
    assert_eq!(names(&file), ["input_ids", "logits"]);
    assert_close("text", &file, &golden, "logits");
    assert_eq!(i64s(&file, "input_ids"), i64s(&golden, "input_ids"));
}
