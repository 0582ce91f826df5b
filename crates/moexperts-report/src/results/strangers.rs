//! Files that strangers wrote: whatever they hold is shown or refused, and never a panic.

use proptest::{collection::vec, option, prelude::*};
use serde_json::json;

use super::*;
use crate::{Named, changes, csv, markdown, page, summaries};

/// A number as a file may hold it: small, large, negative, or at the edge of what can be read.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (0_u64..4).prop_map(Value::from),
        2 => any::<u64>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        2 => any::<f64>().prop_map(Value::from),
        4 => (1e-3..1e3_f64).prop_map(Value::from),
        1 => Just(Value::from(f64::MAX)),
        1 => Just(Value::from(f64::MIN_POSITIVE)),
    ]
}

/// One of few words, so that combinations meet, or any.
fn word() -> impl Strategy<Value = Value> {
    prop_oneof![8 => Just(json!("cpu")), 1 => Just(json!("<script>|`\u{1b}[2J")), 1 => any::<String>().prop_map(Value::from)]
}

fn work() -> impl Strategy<Value = Value> {
    [number(), number(), number()].prop_map(
        |[forwards, flops, bytes]| json!({ "forwards": forwards, "flops": flops, "bytes": bytes }),
    )
}

fn target() -> impl Strategy<Value = Value> {
    let rates = || vec(number(), 0..3);
    (word(), word(), option::of(number()), number(), rates(), rates(), vec(word(), 0..2)).prop_map(
        |(device, dtype, threads, load, bandwidths, peaks, notes)| {
            json!({
                "device": device, "dtype": dtype, "hardware": "some", "threads": threads,
                "load_s": load, "bytes_per_second": bandwidths, "flops_per_second": peaks,
                "operations": "some", "notes": notes,
            })
        },
    )
}

fn cell() -> impl Strategy<Value = Value> {
    let times = || vec(number(), 1..3);
    let key = (word(), word(), [number(), number(), number()], word(), word());
    (key, [times(), times(), times()], work(), work(), option::of(number())).prop_map(
        |(key, [generation, prefill, decode], prefill_work, decode_work, peak)| {
            let (device, dtype, [batch, sequence, new_tokens], compile, implementation) = key;
            json!({
                "device": device, "dtype": dtype, "batch": batch, "sequence": sequence,
                "new_tokens": new_tokens, "compile": compile, "implementation": implementation,
                "decode_implementation": "some", "generation_ms": generation,
                "prefill_ms": prefill, "decode_ms": decode, "prefill": prefill_work,
                "decode": decode_work, "peak_memory_bytes": peak,
            })
        },
    )
}

/// Something like a file of results.
fn results() -> impl Strategy<Value = Value> {
    let lists = (vec(target(), 0..3), vec(cell(), 0..4));
    (lists, word(), [number(), number(), number()]).prop_map(
        |((targets, cells), word, [seed, repetitions, planned])| {
            json!({
                "format": FORMAT, "version": VERSION, "program": { "version": word },
                "command": word, "date": word, "model": word, "seed": seed,
                "repetitions": repetitions, "planned": planned, "machine": [[word, word]],
                "targets": targets, "cells": cells,
                "skipped": [{ "device": word, "batch": seed.as_u64(), "reason": word }],
            })
        },
    )
}

/// Reads it, and shows it in every way if it can be read.
fn read_and_show(bytes: &[u8]) {
    let Ok(results) = Results::parse(bytes, Path::new("results.json")) else { return };
    let shown = summaries(&results);
    let _ = (changes(&shown, &shown), csv(&results), markdown(&results));
    let named = || Named { file: "results.json", results: &results };
    let _ = (page(named(), None, true), page(named(), Some(named()), false));
    let again = Results::parse(results.to_json().as_bytes(), Path::new("results.json"));
    assert_eq!(again.expect("what was read can be written"), results);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        read_and_show(&bytes);
    }

    #[test]
    fn any_numbers_and_words_are_shown_or_refused(results in results()) {
        read_and_show(results.to_string().as_bytes());
    }

    #[test]
    fn damaged_results_are_shown_or_refused(place in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = made_up::results().to_json().into_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        read_and_show(&bytes);
    }
}
