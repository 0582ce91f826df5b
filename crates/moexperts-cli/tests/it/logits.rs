//! `moexperts logits`.

use std::{fs, path::Path};

use safetensors::{Dtype, SafeTensors};

use crate::program::{BACKENDS, MODEL, Program};

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
    let file = SafeTensors::deserialize(file).unwrap();
    let tensor = file.tensor("input_ids").unwrap();
    let ids = tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(",")
}

#[test]
fn every_backend_writes_the_logits_of_transformers() {
    let golden = fs::read(Path::new(MODEL).join("golden.safetensors")).unwrap();
    let (shape, expected) = f32s(&golden, "logits");
    let allowed = TOLERANCE * expected.iter().fold(0.0, |max: f32, value| max.max(value.abs()));
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("logits.safetensors");
    for backend in BACKENDS {
        let ids = input_ids(&golden);
        let words = ["logits", "--token-ids", &ids, "--experts-implementation", backend];
        let words =
            [&words[..], &["--dtype", "f32", "--output", output.to_str().unwrap()]].concat();
        assert_eq!(Program::with_model(&words).stdout(), "");
        let (got_shape, got) = f32s(&fs::read(&output).unwrap(), "logits");
        assert_eq!(got_shape, shape);
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert!(
                (got - expected).abs() <= allowed,
                "{backend}: value {index} is {got}, expected {expected} within {allowed}"
            );
        }
    }
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap()).collect();
    assert_eq!(files.len(), 1, "nothing is left beside the output: {files:?}");
}
