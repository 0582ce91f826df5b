use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Byte-level BPE: token `b` is byte `b`, 256 is a special token, and then come merged ones.
fn byte_level(merged: &[&[u8]]) -> Tokenizer {
    let written: Vec<String> = byte_alphabet();
    let spell = |bytes: &[u8]| -> String {
        bytes.iter().map(|&byte| written[byte as usize].as_str()).collect()
    };
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255 {
        vocab.insert(spell(&[byte]), byte.into());
    }
    vocab.insert("<|end|>".into(), 256.into());
    for (place, bytes) in merged.iter().enumerate() {
        vocab.insert(spell(bytes), (257 + place).into());
    }
    tokenizer(json!({
        "added_tokens": [special(256, "<|end|>")],
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }))
}

/// The letters GPT-2 writes for the 256 bytes: printable ones as they are, others from U+0100 on.
fn byte_alphabet() -> Vec<String> {
    let mut others = 0x100_u32..;
    (0..=255_u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => others.next().and_then(char::from_u32).unwrap(),
        })
        .map(String::from)
        .collect()
}

/// As Mixtral's: token `b` is `<0xbb>`, 256 is special, then these words with `▁` for spaces.
fn byte_fallback(words: &[&str]) -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255_u32 {
        vocab.insert(format!("<0x{byte:02X}>"), byte.into());
    }
    vocab.insert("</s>".into(), 256.into());
    for (place, word) in words.iter().enumerate() {
        vocab.insert((*word).into(), (257 + place).into());
    }
    tokenizer(json!({
        "added_tokens": [special(256, "</s>")],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true},
    }))
}

fn special(id: u32, content: &str) -> serde_json::Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true})
}

fn tokenizer(file: serde_json::Value) -> Tokenizer {
    Tokenizer::from_bytes("tokenizer.json", file.to_string().as_bytes()).unwrap()
}

/// The texts of the steps, and after them what was held back.
fn stream(tokenizer: &Tokenizer, stops: &[&str], tokens: &[u32]) -> (Vec<Step>, String) {
    stream_after(tokenizer, stops, &[], tokens)
}

fn stream_after(
    tokenizer: &Tokenizer,
    stops: &[&str],
    prompt: &[u32],
    tokens: &[u32],
) -> (Vec<Step>, String) {
    let stops: Vec<String> = stops.iter().map(|&stop| stop.into()).collect();
    let mut stream = TextStream::new(tokenizer, &stops, prompt).unwrap();
    let steps = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
    (steps, stream.finish())
}

#[track_caller]
fn check(tokenizer: &Tokenizer, tokens: &[u32], steps: &[&str], rest: &str) {
    let (got, got_rest) = stream(tokenizer, &[], tokens);
    let got: Vec<&str> = got.iter().map(|step| step.text.as_str()).collect();
    assert_eq!((got.as_slice(), got_rest.as_str()), (steps, rest));
    assert_eq!(steps.concat() + rest, tokenizer.decode(tokens, true).unwrap());
}

#[test]
fn a_character_comes_whole() {
    let euro = [0xE2, 0x82, 0xAC];
    let face = [0xF0, 0x9F, 0x98, 0x80];
    for tokenizer in [byte_level(&[]), byte_fallback(&[])] {
        check(&tokenizer, &euro, &["", "", "€"], "");
        check(&tokenizer, &[&euro[..], &face].concat(), &["", "", "€", "", "", "", "😀"], "");
    }
}

#[test]
fn a_token_may_end_one_character_and_begin_the_next() {
    let tokenizer = byte_level(&[b"a\xE2", b"\x82\xAC\xF0\x9F", b"\x98\x80z"]);
    check(&tokenizer, &[257, 258, 259], &["a", "€", "😀z"], "");
}

#[test]
fn a_character_that_is_never_finished_comes_at_the_end() {
    check(&byte_level(&[]), &[b'a'.into(), 0xE2, 0x82], &["a", "", ""], "\u{FFFD}");
    check(&byte_level(&[]), &[0xE2, b'a'.into()], &["", "\u{FFFD}a"], "");
    check(&byte_fallback(&["é"]), &[0xE2, 0x82, 257], &["", "", "\u{FFFD}\u{FFFD}é"], "");
}

#[test]
fn only_the_first_word_loses_its_space() {
    let words = byte_fallback(&["▁Hi", "▁you", "▁", "!"]);
    check(&words, &[257, 258, 260, 258], &["Hi", " you", "!", " you"], "");
    check(&words, &[259, 259, 258, 259, 257], &["", " ", " you", " ", " Hi"], "");
    let between_specials = [256, 257, 256, 0xC3, 256, 0xA9, 258];
    check(&words, &between_specials, &["", "Hi", "", "", "", "é", " you"], "");
}

#[test]
fn special_tokens_and_unknown_ids_have_no_text() {
    let tokens = [vec![104, 256, 9999], vec![256; 100], vec![105]].concat();
    let (steps, rest) = stream(&byte_level(&[]), &[], &tokens);
    assert_eq!(steps.iter().map(|step| step.text.as_str()).collect::<String>() + &rest, "hi");
}

#[test]
fn the_window_stays_short_whatever_comes() {
    let tokenizer = byte_level(&[b"\xAC\xE2\x82"]);
    let straddling = [vec![0xE2, 0x82], vec![257; 1000]].concat();
    for tokens in [vec![0xFF; 1000], vec![0xE2; 1000], vec![256; 1000], straddling] {
        let mut stream = TextStream::new(&tokenizer, &[], &[]).unwrap();
        let mut text = String::new();
        for &token in &tokens {
            text += &stream.push(token).unwrap().text;
            assert!(stream.window.len() < LONGEST_WINDOW);
        }
        assert_eq!(text + &stream.finish(), tokenizer.decode(&tokens, true).unwrap());
    }
}

/// The text up to a stop string, and the step at which it came up.
fn stopped_at(stops: &[&str], text: &str) -> (String, Option<usize>) {
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    let (steps, rest) = stream(&byte_level(&[]), stops, &tokens);
    let step = steps.iter().position(|step| step.stopped);
    (steps.iter().map(|step| step.text.as_str()).collect::<String>() + &rest, step)
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    assert_eq!(stopped_at(&["END"], "an END of it"), ("an ".into(), Some(5)));
    assert_eq!(stopped_at(&["END"], "an ENvelope, EN"), ("an ENvelope, EN".into(), None));
    assert_eq!(stopped_at(&["aab"], "aaaabc"), ("aa".into(), Some(4)));
    assert_eq!(stopped_at(&["€"], "1 €"), ("1 ".into(), Some(4)));
    assert_eq!(stopped_at(&["xyz", "y"], "wxyz"), ("wx".into(), Some(2)));
    assert_eq!(stopped_at(&["b", "ab"], "cab"), ("c".into(), Some(2)));
    assert_eq!(stopped_at(&["\u{FFFD}"], "ab"), ("ab".into(), None));
}

#[test]
fn a_stop_string_within_a_token_ends_the_text_before_it() {
    let tokenizer = byte_level(&[b"one, two", b"; three"]);
    let (steps, rest) = stream(&tokenizer, &["two; t"], &[257, 258, 257]);
    let stopped = |text: &str| Step { text: text.into(), stopped: true };
    assert_eq!(steps, [Step { text: "one, ".into(), stopped: false }, stopped(""), stopped("")]);
    assert_eq!(rest, "");
}

#[test]
fn a_possible_beginning_of_a_stop_string_waits() {
    let tokens: Vec<u32> = "a<|b".bytes().map(u32::from).collect();
    let (steps, rest) = stream(&byte_level(&[]), &["<|end|>", "|>"], &tokens);
    let texts: Vec<&str> = steps.iter().map(|step| step.text.as_str()).collect();
    assert_eq!((texts.as_slice(), rest.as_str()), (&["a", "", "", "<|b"][..], ""));
}

#[test]
fn a_stop_string_may_come_up_at_the_end() {
    let (steps, rest) = stream(&byte_level(&[]), &["\u{FFFD}"], &[b'a'.into(), 0xE2]);
    assert!(steps.iter().all(|step| !step.stopped));
    assert_eq!(rest, "");
}

#[test]
fn a_stop_string_may_be_or_contain_a_special_token() {
    let ids = |text: &str| -> Vec<u32> {
        text.chars().map(|c| if c == '$' { 256 } else { c.into() }).collect()
    };
    for (stop, text, expected, at) in [
        ("<|end|>", "a$b", "a", Some(1)),
        ("a", "a$", "", Some(0)),
        ("d", "ab$c", "ab", Some(2)),
        ("b<|end|>c", "ab$c", "a", Some(3)),
        ("|><|", "ab$$c", "ab", Some(3)),
        ("b<|end|>d", "ab$c", "abc", None),
        ("b<|end|>d", "ab$", "ab", None),
    ] {
        let (steps, rest) = stream(&byte_level(&[]), &[stop], &ids(text));
        let got = steps.iter().map(|step| step.text.as_str()).collect::<String>() + &rest;
        let stopped = steps.iter().position(|step| step.stopped);
        assert_eq!((got.as_str(), stopped), (expected, at), "{stop}: {text}");
    }
}

#[test]
fn a_stop_string_may_begin_in_the_prompt() {
    let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    for (stops, prompt, text, expected, at) in [
        (&["ab"][..], "a", "bc", "", Some(0)),
        (&["ab"], "ab", "cab", "c", Some(2)),
        (&["aa"], "aa", "ab", "", Some(0)),
        (&["aa", "aab"], "aa", "b", "", Some(0)),
        (&["abc"], "xab", "dabc", "d", Some(3)),
        (&["abc"], "ab", "ab", "ab", None),
        (&["€ 1"], "5 €", " 1", "", Some(1)),
        (&["a<|end|>"], "a", "a", "a", None),
    ] {
        let (steps, rest) = stream_after(&byte_level(&[]), stops, &ids(prompt), &ids(text));
        let got = steps.iter().map(|step| step.text.as_str()).collect::<String>() + &rest;
        let stopped = steps.iter().position(|step| step.stopped);
        assert_eq!((got.as_str(), stopped), (expected, at), "{stops:?}: {prompt}|{text}");
    }
    // The blanks before words are there, also where a decoder drops them at the beginning of a text.
    let words = byte_fallback(&["▁Hi", "▁you", "▁"]);
    for (stop, prompt, text, at) in [
        (" you Hi", &[257, 258][..], &[257][..], Some(0)),
        (" Hi", &[258], &[257], Some(0)),
        ("you  Hi", &[258], &[257], None),
        (" ", &[258], &[257], Some(0)),
        ("  Hi", &[258, 259], &[257], Some(0)),
        ("   Hi", &[258, 259], &[257], None),
        ("  b", &[258, 259], &[u32::from(b'b')], None),
        (" b", &[258, 259], &[u32::from(b'b')], Some(0)),
    ] {
        let (steps, _) = stream_after(&words, &[stop], prompt, text);
        assert_eq!(steps.iter().position(|step| step.stopped), at, "{stop}: {prompt:?}|{text:?}");
    }
}

/// Cuts bytes into tokens of a byte-level vocabulary that has a token for every piece.
fn cut(bytes: &[u8], lengths: &[usize]) -> (Tokenizer, Vec<u32>) {
    let mut pieces: Vec<&[u8]> = Vec::new();
    let mut rest = bytes;
    for &len in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(len.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    let mut merged: Vec<&[u8]> = pieces.iter().copied().filter(|piece| piece.len() > 1).collect();
    merged.sort_unstable();
    merged.dedup();
    let id = |piece: &&[u8]| match piece {
        [byte] => u32::from(*byte),
        _ => 257 + merged.binary_search(piece).unwrap() as u32,
    };
    (byte_level(&merged), pieces.iter().map(id).collect())
}

fn streamed(tokenizer: &Tokenizer, stops: &[&str], tokens: &[u32]) -> String {
    let (steps, rest) = stream(tokenizer, stops, tokens);
    steps.into_iter().map(|step| step.text).collect::<String>() + &rest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_stream_is_the_text_of_all_tokens(
        text in "[a-c é€😀語\u{FFFD}]{0,40}",
        lengths in prop::collection::vec(1_usize..6, 1..8),
    ) {
        let (tokenizer, tokens) = cut(text.as_bytes(), &lengths);
        prop_assert_eq!(&streamed(&tokenizer, &[], &tokens), &text);
        let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
        let fallback = byte_fallback(&[]);
        prop_assert_eq!(
            streamed(&fallback, &[], &bytes),
            fallback.decode(&bytes, true).unwrap()
        );
    }

    #[test]
    fn random_bytes_are_the_same_too(
        bytes in prop::collection::vec(
            prop::sample::select(b"a \x80\xAC\xC3\xE2\x82\xF0\x9F\x98\xFF".to_vec()), 0..80),
        lengths in prop::collection::vec(1_usize..6, 1..8),
    ) {
        let (tokenizer, tokens) = cut(&bytes, &lengths);
        prop_assert_eq!(streamed(&tokenizer, &[], &tokens), String::from_utf8_lossy(&bytes));
        let fallback: Vec<u32> = bytes.iter().map(|&byte| byte.into()).collect();
        streamed(&byte_fallback(&[]), &["a"], &fallback);
    }

    #[test]
    fn the_text_ends_at_the_first_stop_string(
        text in "[ab]{0,30}", stop in "[ab]{1,4}",
        lengths in prop::collection::vec(1_usize..6, 1..8),
    ) {
        let (tokenizer, tokens) = cut(text.as_bytes(), &lengths);
        let end = text.find(&stop).unwrap_or(text.len());
        prop_assert_eq!(streamed(&tokenizer, &[&stop], &tokens), &text[..end]);
    }

    #[test]
    fn a_prompt_and_special_tokens_are_searched_as_the_text_is(
        text in "[ab]{0,8}", end in "[ab$]{0,20}", stop in "[ab<>|]{1,4}|.?<[|]end[|]>.?",
        prompt in 0_usize..8,
    ) {
        let written: Vec<char> = (text + &end).chars().collect();
        let content = |c: &char| if *c == '$' { "<|end|>".to_owned() } else { c.to_string() };
        let tokens: Vec<u32> =
            written.iter().map(|&c| if c == '$' { 256 } else { c.into() }).collect();
        let (prompt, rest) = tokens.split_at(prompt.min(tokens.len()));
        // The first token within which a stop string ends that began anywhere before.
        let found = (prompt.len()..written.len()).find_map(|last| {
            let before: String = written[..last].iter().map(content).collect();
            let read = before.clone() + &content(&written[last]);
            let starts = read.char_indices().filter(|(at, _)| {
                read[*at..].starts_with(&stop) && at + stop.len() > before.len()
            });
            starts.map(|(at, _)| (last, at)).next()
        });
        let mut at = 0;
        let expected: String = written.iter().enumerate().filter_map(|(place, c)| {
            let start = at;
            at += content(c).len();
            let hidden = place < prompt.len() || *c == '$';
            let cut = found.is_some_and(|(last, found)| place > last || start >= found);
            (!hidden && !cut).then_some(*c)
        }).collect();
        let (steps, last) = stream_after(&byte_level(&[]), &[&stop], prompt, rest);
        let stopped = steps.iter().position(|step| step.stopped);
        prop_assert_eq!(stopped, found.map(|(last, _)| last - prompt.len()));
        let got = steps.into_iter().map(|step| step.text).collect::<String>() + &last;
        prop_assert_eq!(got, expected);
    }
}
