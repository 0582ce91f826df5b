use std::{path::PathBuf, sync::atomic::Ordering};

use half::{bf16, f16};
use moexperts_core::Elements;

use super::*;

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Storage for Bytes {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A file of the given header and data, its JSON padded so that the data starts at a multiple of
/// eight bytes plus `shift`.
fn file(json: &str, data: &[u8], shift: usize) -> Arc<dyn Storage> {
    let length = json.len().next_multiple_of(8) + shift;
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend(format!("{json:length$}").bytes());
    bytes.extend(data);
    Arc::new(Bytes(bytes))
}

fn checkpoint(shift: usize) -> Checkpoint {
    let json = r#"{
        "__metadata__": {"format": "pt"},
        "matrix": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "fused": {"dtype": "BF16", "shape": [2, 1, 2], "data_offsets": [8, 16]},
        "norm": {"dtype": "F16", "shape": [2], "data_offsets": [16, 20]},
        "ids": {"dtype": "I64", "shape": [1], "data_offsets": [20, 28]}
    }"#;
    let mut data: Vec<u8> = [1.0_f32, -2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
    let fused = [1.0, 2.0, 3.0, 4.0].map(bf16::from_f32);
    data.extend(fused.iter().flat_map(|x| x.to_le_bytes()));
    data.extend([0.5, 7.0].map(f16::from_f32).iter().flat_map(|x| x.to_le_bytes()));
    data.extend([0; 8]);
    Checkpoint::from_storage("model.safetensors", file(json, &data, shift)).unwrap()
}

fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn lists_its_tensors_by_name() {
    let checkpoint = checkpoint(0);
    let expected: [(&str, &[usize], DType); 3] = [
        ("fused", &[2, 1, 2], DType::Bf16),
        ("matrix", &[2, 1], DType::F32),
        ("norm", &[2], DType::F16),
    ];
    assert_eq!(checkpoint.tensors().collect::<Vec<_>>(), expected);
    assert!(checkpoint.contains("ids") && !checkpoint.contains("__metadata__"));
    assert_eq!(checkpoint.shape("ids"), Some([1].as_slice()));
    assert_eq!(checkpoint.shape("absent"), None);
    assert_eq!(checkpoint.size_bytes(), checkpoint.shards[0].storage.bytes().len() as u64);
}

#[test]
fn gives_tensors_in_place() {
    let checkpoint = checkpoint(0);
    let matrix = checkpoint.matrix("matrix", [2, 1]).unwrap();
    assert_eq!(matrix.to_f32(), [1.0, -2.5]);
    let stack = checkpoint.stack("fused", [2, 1, 2]).unwrap();
    assert_eq!((stack.rows(), stack.cols(), stack.format()), (2, 2, DType::Bf16.into()));
    assert_eq!(stack.row(1).to_f32(), [3.0, 4.0]);
    assert_eq!(checkpoint.vector("norm", 2).unwrap(), [0.5, 7.0]);

    let Elements::F32(values) = matrix.elements() else { panic!("not f32") };
    let bytes = checkpoint.shards[0].storage.bytes().as_ptr_range();
    assert!(bytes.contains(&values.as_ptr().cast()));
    assert!(!checkpoint.shards[0].copies_reported.load(Ordering::Relaxed));
}

#[test]
fn copies_tensors_that_are_not_aligned() {
    let checkpoint = checkpoint(1);
    assert_eq!(checkpoint.matrix("matrix", [2, 1]).unwrap().to_f32(), [1.0, -2.5]);
    assert_eq!(checkpoint.stack("fused", [2, 1, 2]).unwrap().to_f32(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(checkpoint.vector("norm", 2).unwrap(), [0.5, 7.0]);
    assert!(checkpoint.shards[0].copies_reported.load(Ordering::Relaxed));
}

#[test]
fn refuses_a_tensor_of_another_rank() {
    let checkpoint = checkpoint(0);
    assert_eq!(
        text(checkpoint.vector("matrix", 2)),
        "model.safetensors: tensor `matrix` has shape [2, 1], expected [2]"
    );
    assert_eq!(
        text(checkpoint.matrix("fused", [2, 2])),
        "model.safetensors: tensor `fused` has shape [2, 1, 2], expected [2, 2]"
    );
    assert_eq!(
        text(checkpoint.stack("matrix", [usize::MAX, 2, 1])),
        format!(
            "model.safetensors: tensor `matrix` has shape [2, 1], expected [{}, 2, 1]",
            usize::MAX
        )
    );
}

#[test]
fn empty_tensors_have_no_elements() {
    let json = r#"{"none": {"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]},
                   "wide": {"dtype": "F32", "shape": [4611686018427387904, 0, 2],
                            "data_offsets": [0, 0]}}"#;
    for shift in [0, 1] {
        let checkpoint = Checkpoint::from_storage("f", file(json, &[], shift)).unwrap();
        assert!(checkpoint.matrix("none", [0, 4]).unwrap().to_f32().is_empty());
        assert!(checkpoint.stack("wide", [1 << 62, 0, 2]).unwrap().to_f32().is_empty());
    }
}

#[test]
fn explains_every_lie_of_a_header() {
    let tensor = |name: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}": {{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    // Each is possible; their sum is the largest multiple of eight bytes that can be written.
    let size = (1_u64 << 61) - 1;
    let enormous: Vec<String> = (0..8)
        .map(|i| tensor(&i.to_string(), &format!("[{size}]"), i * size, (i + 1) * size))
        .map(|tensor| tensor.replace("F32", "U8"))
        .collect();
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    for (json, problem) in [
        ("[]".to_owned(), "the header is not a JSON object"),
        ("".to_owned(), "broken JSON in the header: EOF while parsing a value at line 1 column 0"),
        (
            r#"{"a": {"dtype": "F7", "shape": [], "data_offsets": [0, 1]}}"#.to_owned(),
            "tensor `a`: unknown variant `F7`, expected one of `BOOL`, `F4`, `F6_E2M3`, `F6_E3M2`, \
             `U8`, `I8`, `F8_E5M2`, `F8_E4M3`, `F8_E8M0`, `F8_E4M3FNUZ`, `F8_E5M2FNUZ`, `I16`, \
             `U16`, `F16`, `BF16`, `I32`, `U32`, `F32`, `C64`, `F64`, `I64`, `U64`",
        ),
        (r#"{"a": {"dtype": "F32"}}"#.to_owned(), "tensor `a`: missing field `shape`"),
        (
            r#"{"__metadata__": {"format": 1}}"#.to_owned(),
            "unusable header: invalid type: integer `1`, expected a string at line 1 column 29",
        ),
        (
            two(tensor("a", "[1]", 0, 4), tensor("b", "[1]", 2, 6)),
            "tensor `b` starts at byte 2, inside `a` that ends at byte 4",
        ),
        (
            two(tensor("a", "[1]", 0, 4), tensor("b", "[1]", 8, 12)),
            "tensor `b` starts at byte 8, but the bytes from 4 on belong to no tensor",
        ),
        (
            format!("{{{}}}", tensor("a", "[1]", 4, 0)),
            "tensor `a` starts at byte 4 and ends at byte 0",
        ),
        (
            format!("{{{}}}", tensor("a", "[3, 2]", 0, 20)),
            "tensor `a` of shape [3, 2] and dtype F32 needs 24 bytes, its offsets hold 20",
        ),
        (
            format!("{{{}}}", tensor("a", "[4294967296, 4294967296]", 0, 4)),
            "tensor `a` has the impossible shape [4294967296, 4294967296]",
        ),
        (
            r#"{"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}"#.to_owned(),
            "tensor `a` of shape [3] and dtype F4 does not fill its last byte",
        ),
        (
            format!("{{{}}}", enormous.join(",")),
            "truncated: the header describes 18446744073709551608 bytes of tensors, the file has 0",
        ),
    ] {
        let storage = {
            let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
            bytes.extend(json.bytes());
            Arc::new(Bytes(bytes))
        };
        assert_eq!(text(Checkpoint::from_storage("f", storage)), format!("f: {problem}"), "{json}");
    }
}

#[test]
fn reads_the_goldens_sharded_or_not() {
    let testdata = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    for (model, embedding) in
        [("mixtral", "model.embed_tokens.weight"), ("qwen3_moe", "model.embed_tokens.weight")]
    {
        let checkpoint = Checkpoint::open(&testdata.join(model)).unwrap();
        let shape = checkpoint.shape(embedding).unwrap().to_vec();
        let matrix = checkpoint.matrix(embedding, [shape[0], shape[1]]).unwrap();
        assert!(matrix.to_f32().iter().all(|value| value.is_finite()), "{model}");
    }
}
