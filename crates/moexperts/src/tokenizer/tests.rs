use proptest::prelude::*;
use serde_json::Value;

use super::*;

mod goldens;

const GOLDEN: &str = include_str!("../../../../testdata/qwen2_moe/tokenizer_golden.json");
const TOKENIZER: &[u8] = include_bytes!("../../../../testdata/qwen2_moe/tokenizer.json");

fn golden() -> (Tokenizer, Value) {
    let tokenizer = Tokenizer::from_bytes("tokenizer.json", TOKENIZER).unwrap();
    (tokenizer, serde_json::from_str(GOLDEN).unwrap())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn agrees_with_transformers_on_texts() {
    let (tokenizer, golden) = golden();
    for case in golden["texts"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let tokens = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokens, ids(&case["ids"]), "{text}");
        assert_eq!(tokenizer.decode(&tokens, true).unwrap(), case["decoded_skip_special"]);
    }
}

#[test]
fn special_tokens_are_shown_or_left_out() {
    let (tokenizer, _) = golden();
    let tokens = tokenizer.encode("<|im_start|>hi<|im_end|>", true).unwrap();
    assert_eq!(tokenizer.decode(&tokens, false).unwrap(), "<|im_start|>hi<|im_end|>");
    assert_eq!(tokenizer.decode(&tokens, true).unwrap(), "hi");
    assert!(!tokenizer.has_text(1) && tokenizer.has_text(43) && !tokenizer.has_text(128));
}

#[test]
fn knows_its_vocabulary() {
    let (tokenizer, _) = golden();
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.token_id("<|im_out|>"), None);
    assert_eq!(tokenizer.vocab_size(), 128);
}

#[test]
fn an_id_that_is_no_token_has_no_text() {
    let (tokenizer, _) = golden();
    assert_eq!(tokenizer.decode(&[43, 128, u32::MAX, 72], false).unwrap(), "He");
}

#[test]
fn prompts_are_neither_cut_nor_padded() {
    let mut file: Value = serde_json::from_slice(TOKENIZER).unwrap();
    file["truncation"] = serde_json::json!({
        "max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right",
    });
    file["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "</s>",
    });
    let tokenizer = Tokenizer::from_bytes("tokenizer.json", file.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.encode("Hello, world!", true).unwrap().len(), 10);
}

#[test]
fn a_broken_file_is_refused() {
    let refused = |bytes: &[u8]| Tokenizer::from_bytes("tokenizer.json", bytes).unwrap_err();
    assert_eq!(
        refused(b"{\"version\": ").to_string(),
        "tokenizer.json: EOF while parsing a value at line 1 column 12"
    );
    assert!(matches!(refused(b"{}"), Error::Tokenizer { .. }));
    // Within a decoder, which the crate unwraps.
    let text = String::from_utf8(TOKENIZER.to_vec()).unwrap();
    let start = text.find("\"decoder\"").unwrap();
    let broken = text[..start].to_owned() + &text[start..].replacen("true", "-rue", 1);
    assert!(refused(broken.as_bytes()).to_string().contains("invalid number at line 44"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_damaged_file_is_a_tokenizer_or_an_error(
        at in 0..TOKENIZER.len(),
        byte in prop::sample::select(b"0-9\"{}[],:nx".to_vec()),
    ) {
        let mut bytes = TOKENIZER.to_vec();
        bytes[at] = byte;
        if let Ok(tokenizer) = Tokenizer::from_bytes("tokenizer.json", &bytes) {
            let ids = tokenizer.encode("Hello, world", true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, false);
        }
    }
}
