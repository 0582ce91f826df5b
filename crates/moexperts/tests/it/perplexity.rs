//! The embedded model on text it has not seen: the quality of every backend and dtype.

use std::path::PathBuf;

use moexperts::{AutoModelForCausalLm, DType, LoadOptions};
use serde_json::Value;

use crate::common::BACKENDS;

/// Mean loss of a token over consecutive windows, each starting fresh.
fn mean_loss(model: &moexperts::LanguageModel, ids: &[u32], window: usize) -> (f64, usize) {
    let vocab = model.spec().vocab_size;
    let (mut total, mut count) = (0.0, 0);
    for window in ids.chunks_exact(window) {
        let logits = model.logits(window).unwrap();
        for (logits, &next) in logits.chunks_exact(vocab).zip(&window[1..]) {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
            total += sum.ln() + f64::from(max - logits[next as usize]);
            count += 1;
        }
    }
    (total / count as f64, count)
}

#[test]
fn the_held_out_loss_is_transformers_with_every_backend_and_dtype() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/rust-book-moe");
    let text = std::fs::read_to_string(folder.join("heldout.txt")).unwrap();
    let expected = std::fs::read_to_string(folder.join("heldout.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let theirs = expected["nll_mean_f32"].as_f64().unwrap();
    let window = expected["window_tokens"].as_u64().unwrap() as usize;
    for dtype in DType::ALL {
        let options = LoadOptions::new().dtype(dtype);
        let model =
            AutoModelForCausalLm::from_pretrained(folder.to_str().unwrap(), options).unwrap();
        let ids = model.tokenizer().unwrap().encode(&text, false).unwrap();
        // The weights are stored in bf16 and exact in f32; f16 and bf16 inputs round a little.
        let allowed = if dtype == DType::F32 { 1e-4 } else { 0.01 };
        for backend in BACKENDS {
            model.set_experts_implementation(backend).unwrap();
            let (loss, count) = mean_loss(&model, &ids, window);
            assert_eq!(count as u64, expected["predicted_tokens"].as_u64().unwrap());
            assert!(
                (loss - theirs).abs() < allowed,
                "{dtype} {backend}: {loss} against {theirs} nats a token"
            );
        }
    }
}
