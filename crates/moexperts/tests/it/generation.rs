//! From prompts to tokens and text.

use moexperts::{CpuOptions, DType, Error, Event, FinishReason, GenerateOptions, LanguageModel};

use crate::common::{CASES, Golden, greedy, load_on, shared};

fn sampled(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        do_sample: Some(true),
        temperature: Some(1.5),
        seed: Some(7),
        ..greedy(max_new_tokens)
    }
}

fn run(model: &LanguageModel, prompts: &[&[u32]], options: &GenerateOptions) -> Vec<Vec<u32>> {
    let mut tokens = vec![Vec::new(); prompts.len()];
    let prompts = prompts.iter().map(|prompt| prompt.to_vec()).collect();
    for event in model.generate_tokens(prompts, options).unwrap() {
        let Event { sequence, token, .. } = event.unwrap();
        tokens[sequence].push(token);
    }
    tokens
}

#[test]
fn a_prompt_step_by_step_gives_the_logits_of_the_whole() {
    for case in CASES {
        let ids = Golden::open(case).ids("input_ids");
        let model = shared(case, None);
        let vocab = model.spec().vocab_size;
        let whole = model.logits(&ids).unwrap();
        let mut session = model.session(1).unwrap();
        for position in 0..ids.len() {
            // One token more of the same prompt: all but it are in the session.
            let prompt = ids[..=position].to_vec();
            let options = greedy(1);
            let mut generation = model.continue_tokens(session, vec![prompt], &options).unwrap();
            let token = generation.next().unwrap().unwrap().token;
            assert_eq!(generation.stats().prompt_tokens, 1, "{case}");
            let logits = &whole[position * vocab..(position + 1) * vocab];
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(logits[token as usize], best, "{case} at {position}");
            session = generation.into_session();
        }
    }
}

#[test]
fn a_sequence_in_a_batch_is_what_it_is_alone() {
    for case in CASES {
        let ids = Golden::open(case).ids("input_ids");
        let model = shared(case, None);
        let prompts = [&ids[..], &ids[3..5], &ids[..7]];
        assert_eq!(
            run(model, &prompts, &greedy(8)),
            prompts.map(|prompt| run(model, &[prompt], &greedy(8)).concat()),
            "{case}"
        );
    }
}

#[test]
fn a_sampled_sequence_repeats_and_does_not_depend_on_threads() {
    let ids = Golden::open("qwen2_moe").ids("input_ids");
    let runs = [1, 2, 3].map(|threads| {
        let cpu = CpuOptions { threads: std::num::NonZero::new(threads), isa: None };
        let model = load_on("qwen2_moe", cpu, DType::Bf16);
        run(&model, &[&ids, &ids], &sampled(16))
    });
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0], runs[2]);
    assert_ne!(runs[0][0], runs[0][1], "each sequence has a separate random stream");
}

#[test]
fn logits_do_not_depend_on_threads() {
    for case in CASES {
        let ids = Golden::open(case).ids("input_ids");
        let logits = [1, 2, 3].map(|threads| {
            let cpu = CpuOptions { threads: std::num::NonZero::new(threads), isa: None };
            load_on(case, cpu, DType::Bf16).logits(&ids).unwrap()
        });
        assert_eq!(logits[0], logits[1], "{case}");
        assert_eq!(logits[0], logits[2], "{case}");
    }
}

#[test]
fn a_conversation_computes_what_is_new_alone() {
    let ids = Golden::open("qwen2_moe").ids("input_ids");
    let model = shared("qwen2_moe", None);
    let mut first = model.generate_tokens(vec![ids.clone()], &greedy(5)).unwrap();
    for event in first.by_ref() {
        event.unwrap();
    }
    let mut prompt = first.tokens(0).to_vec();
    prompt.extend_from_slice(&ids[..3]);
    let mut second =
        model.continue_tokens(first.into_session(), vec![prompt.clone()], &greedy(5)).unwrap();
    let continued: Vec<u32> = second.by_ref().map(|event| event.unwrap().token).collect();
    assert_eq!(second.stats().prompt_tokens, 4, "the last new token and three of the prompt");
    assert_eq!(continued, run(model, &[&prompt], &greedy(5)).concat());
}

#[test]
fn a_generation_ends_for_the_reason_it_says() {
    let golden = Golden::open("qwen2_moe");
    let (ids, greedy_ids) = (golden.ids("input_ids"), golden.ids("greedy_ids"));
    let model = shared("qwen2_moe", Some(DType::F32));
    let last = |options: &GenerateOptions| {
        let events = model.generate_tokens(vec![ids.clone()], options).unwrap();
        events.map(Result::unwrap).last().unwrap()
    };
    assert_eq!(last(&greedy(3)).finish, Some(FinishReason::MaxNewTokens));

    let eos = GenerateOptions {
        ignore_eos: false,
        eos_token_id: Some(vec![greedy_ids[4]]),
        ..greedy(20)
    };
    let event = last(&eos);
    assert_eq!((event.finish, event.token), (Some(FinishReason::EndOfSequence), greedy_ids[4]));

    let total =
        GenerateOptions { max_new_tokens: None, max_length: Some(ids.len() + 2), ..greedy(1) };
    assert_eq!(last(&total).finish, Some(FinishReason::MaxLength));
    let refused = GenerateOptions { max_length: Some(ids.len()), ..total };
    let refused = model.generate_tokens(vec![ids.clone()], &refused).unwrap_err().to_string();
    assert_eq!(
        refused,
        format!(
            "option `max_length` is {0}, expected more than the prompt's {0} tokens; \
             `max_new_tokens` counts those after it",
            ids.len()
        )
    );
    let at_once = GenerateOptions { max_time: Some(0.0), ..greedy(20) };
    let events: Vec<Event> =
        model.generate_tokens(vec![ids.clone()], &at_once).unwrap().map(Result::unwrap).collect();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].finish, Some(FinishReason::MaxTime));
}

/// The number of a configuration is no limit: a prompt and new tokens past it are computed, as by
/// transformers. The default number of new tokens alone stays within it.
#[test]
fn the_length_that_a_model_was_trained_for_is_no_limit() {
    let ids = Golden::open("qwen2_moe").ids("input_ids");
    let model = shared("qwen2_moe", Some(DType::F32));
    let trained = model.spec().trained_length();
    let prompt = |tokens: usize| -> Vec<u32> { ids.iter().copied().cycle().take(tokens).collect() };
    let events = |tokens: usize, options: &GenerateOptions| -> Vec<Event> {
        let events = model.generate_tokens(vec![prompt(tokens)], options).unwrap();
        events.map(Result::unwrap).collect()
    };
    let across = events(trained - 1, &greedy(5));
    assert_eq!(across.len(), 5);
    assert_eq!(across[4].finish, Some(FinishReason::MaxNewTokens));
    let mut whole = prompt(trained - 1);
    whole.extend(across.iter().map(|event| event.token));
    let logits = model.logits(&whole).unwrap();
    let vocab = model.spec().vocab_size;
    for (row, event) in logits.chunks_exact(vocab).skip(trained - 2).zip(&across) {
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(best - row[event.token as usize] < 1e-3, "{event:?}");
    }

    let default = GenerateOptions { max_new_tokens: None, ..greedy(1) };
    let within = events(trained - 2, &default);
    assert_eq!(within.len(), 2);
    assert_eq!(within[1].finish, Some(FinishReason::Context));
    let past = events(trained + 3, &GenerateOptions { max_time: Some(0.0), ..default });
    assert_eq!(past[0].finish, Some(FinishReason::MaxTime));
}

#[test]
fn tokens_that_a_model_does_not_have_are_refused() {
    let model = shared("qwen2_moe", None);
    let refused = |options: GenerateOptions| {
        model.generate_tokens(vec![vec![1]], &options).unwrap_err().to_string()
    };
    let words = GenerateOptions { bad_words_ids: Some(vec![vec![1, 128]]), ..greedy(1) };
    assert_eq!(
        refused(words),
        "option `bad_words_ids` is 128, expected token ids less than the model's 128"
    );
    let forced = GenerateOptions { forced_eos_token_id: Some(vec![999]), ..greedy(1) };
    assert_eq!(
        refused(forced),
        "option `forced_eos_token_id` is 999, expected token ids less than the model's 128"
    );
}

#[test]
fn what_is_ruled_out_is_not_generated() {
    let golden = Golden::open("qwen2_moe");
    let (ids, greedy_ids) = (golden.ids("input_ids"), golden.ids("greedy_ids"));
    let model = shared("qwen2_moe", Some(DType::F32));
    let tokens = |options: &GenerateOptions| run(model, &[&ids], options).concat();
    let suppressed =
        GenerateOptions { suppress_tokens: Some(greedy_ids[..2].to_vec()), ..greedy(12) };
    assert!(tokens(&suppressed).iter().all(|token| !greedy_ids[..2].contains(token)));
    let once = GenerateOptions { no_repeat_ngram_size: Some(1), ..greedy(12) };
    let mut all = ids.clone();
    all.extend(tokens(&once));
    for (index, token) in all.iter().enumerate().skip(ids.len()) {
        assert!(!all[..index].contains(token), "{all:?}");
    }
    let forced = GenerateOptions { forced_eos_token_id: Some(vec![9]), ..greedy(4) };
    assert_eq!(tokens(&forced)[3], 9);
    let eos = GenerateOptions {
        ignore_eos: false,
        eos_token_id: Some(vec![greedy_ids[0]]),
        min_new_tokens: Some(3),
        ..greedy(12)
    };
    assert!(!tokens(&eos)[..3].contains(&greedy_ids[0]));
}

#[test]
fn log_probabilities_are_those_of_the_models_logits() {
    let ids = Golden::open("qwen2_moe").ids("input_ids");
    let model = shared("qwen2_moe", Some(DType::F32));
    assert!(
        model
            .generate_tokens(vec![ids.clone()], &greedy(2))
            .unwrap()
            .all(|event| event.unwrap().logprobs.is_none())
    );
    let options = GenerateOptions { logprobs: Some(3), repetition_penalty: Some(5.0), ..greedy(2) };
    let event = model.generate_tokens(vec![ids.clone()], &options).unwrap().next().unwrap();
    let event = event.unwrap();
    let logits = model.logits(&ids).unwrap();
    let logits = &logits[logits.len() - model.spec().vocab_size..];
    let sum = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln() as f32;
    let logprobs = event.logprobs.unwrap();
    assert!((logprobs.logprob - (logits[event.token as usize] - sum)).abs() < 1e-4);
    assert_eq!(logprobs.top.len(), 3);
    let best = logits.iter().copied().fold(f32::MIN, f32::max);
    assert!((logprobs.top[0].1 - (best - sum)).abs() < 1e-4);
    assert!(logprobs.top[0].1 >= logprobs.top[1].1 && logprobs.top[1].1 >= logprobs.top[2].1);
}

#[cfg(feature = "tokenizer")]
#[test]
fn a_stop_string_ends_the_text_before_it() {
    let ids = Golden::open("qwen2_moe").ids("input_ids");
    let model = shared("qwen2_moe", Some(DType::F32));
    let text = |options: &GenerateOptions| -> String {
        let events = model.generate_tokens(vec![ids.clone()], options).unwrap();
        events.map(|event| event.unwrap().text).collect()
    };
    let whole = text(&greedy(20));
    let middle: String = whole.chars().skip(4).take(3).collect();
    let expected = &whole[..whole.find(&middle).unwrap()];
    let stopped = GenerateOptions { stop_strings: vec![middle], ..greedy(20) };
    assert_eq!(text(&stopped), expected);
}

#[test]
fn an_impossible_prompt_is_refused() {
    let model = shared("qwen2_moe", None);
    let refused = |prompt: Vec<u32>| -> Error {
        model.generate_tokens(vec![prompt], &greedy(1)).unwrap_err()
    };
    assert_eq!(
        refused(vec![]).to_string(),
        "option `prompt` is empty, expected at least one token"
    );
    assert_eq!(
        refused(vec![1, 128]).to_string(),
        "token id 128 is out of range, expected less than 128"
    );
    assert_eq!(
        model.logits(&[128]).unwrap_err().to_string(),
        "token id 128 is out of range, expected less than 128"
    );
}

/// Layers with a window drop what no token sees any more: a prompt that goes back behind that is read
/// again, and gives what it gives alone.
#[test]
fn a_conversation_that_goes_back_behind_a_window_is_read_again() {
    for case in ["gpt_oss", "gpt_oss_hub"] {
        let model = shared(case, Some(DType::F32));
        // A layer with a window holds less than this.
        let long: Vec<u32> = (0..1300_u32).map(|index| 3 + index * 37 % 120).collect();
        let mut generation = model.generate_tokens(vec![long.clone()], &greedy(3)).unwrap();
        for event in generation.by_ref() {
            event.unwrap();
        }
        let read = generation.tokens(0).to_vec();
        let mut session = generation.into_session();
        let changed = |at: usize| {
            let mut prompt = long[..at].to_vec();
            prompt.extend([5, 9, 7]);
            prompt
        };
        // At the end, shortly before it, long before it, and at the beginning.
        let mut end = read.clone();
        end.extend([5, 9, 7]);
        for prompt in [end, changed(1299), changed(600), changed(40), changed(0)] {
            let mut again =
                model.continue_tokens(session, vec![prompt.clone()], &greedy(4)).unwrap();
            let tokens: Vec<u32> = again.by_ref().map(|event| event.unwrap().token).collect();
            assert_eq!(tokens, run(model, &[&prompt], &greedy(4))[0], "{case}: {}", prompt.len());
            assert!(again.stats().prompt_tokens >= 3, "{case}");
            session = again.into_session();
        }
    }
}
