//! `moexperts generate`.

use std::time::Instant;

use moexperts::{
    AnyDevice, FinishReason, Image, LanguageModel, Message, Prompt, TokenLogprobs, Visual,
};
use moexperts_bench::output::{note, print};
use serde_json::{Value, json};

use super::{
    check_tokenizer, compile, conversation::ChatSetup, encode, encode_messages, load_model,
    open_images, prepare_images,
};
use crate::{
    args::GenerateArgs,
    error::CliError,
    summary::{Summary, executed},
};

/// Of a video whose frames come without.
const FRAMES_PER_SECOND: f64 = 2.0;

pub(super) fn run(args: &GenerateArgs) -> Result<(), CliError> {
    let (setup, prompt) = ChatSetup::with_text(&args.prompt)?;
    // A wrong name should not cost the loading of a model.
    let (said, images) = setup.images(open_images(&args.pictures.image)?)?;
    let frames = open_images(&args.pictures.frame)?;
    let input = Input { prompt, setup, said, images, frames };
    let start = Instant::now();
    generate(args, input, args.model.load.device.find()?, start)
}

/// What is to be continued.
#[derive(Default)]
pub(super) struct Input {
    /// The text or, in a conversation, the user's next message; none if the conversation is in `setup`.
    pub(super) prompt: Option<String>,
    pub(super) setup: ChatSetup,
    /// The images of its messages.
    pub(super) said: Vec<Image>,
    /// Those that go with the prompt.
    pub(super) images: Vec<Image>,
    pub(super) frames: Vec<Image>,
}

/// - `start`: when loading began
pub(super) fn generate(
    args: &GenerateArgs,
    input: Input,
    device: AnyDevice,
    start: Instant,
) -> Result<(), CliError> {
    let model = load_model(device, &args.model)?;
    let load = start.elapsed();

    check_tokenizer(&model)?;
    let said = prepare_images(&model, &input.said)?;
    let mut visuals = prepare_images(&model, &input.images)?;
    let frames = &input.frames;
    if !frames.is_empty() {
        let fps = args.pictures.fps.unwrap_or(FRAMES_PER_SECOND);
        let timestamps: Vec<f64> = (0..frames.len()).map(|frame| frame as f64 / fps).collect();
        visuals.push(model.prepare_video(frames, &timestamps)?);
    }
    let prompt = encode_prompt(&model, input, said, &visuals, args.prompt.is_chat())?;
    compile(&model, &args.compile, vec![1], vec![prompt.tokens().len()])?;
    let options = args.options();
    let prompt_tokens = prompt.tokens().len();
    let mut generation = model.generate_tokens(vec![prompt], &options)?;
    let mut answer = Answer::default();
    for event in generation.by_ref() {
        let event = event?;
        if !args.json {
            print(&event.text)?;
        }
        answer.text.push_str(&event.text);
        answer.finish = event.finish;
        answer.logprobs.extend(event.logprobs.map(|logprobs| (event.token, logprobs)));
    }
    let (stats, decode_switch) = (generation.stats(), options.decode_switch);
    let summary = Summary { model: &model, load, stats, finish: answer.finish, decode_switch };
    if args.json {
        let tokens = &generation.tokens(0)[prompt_tokens..];
        return Ok(print(&format!("{:#}\n", json(&answer, tokens, prompt_tokens, &summary)))?);
    }
    print("\n")?;
    note(summary);
    Ok(())
}

/// What the model wrote.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    finish: Option<FinishReason>,
    /// Of each token, where they are chosen.
    logprobs: Vec<(u32, TokenLogprobs)>,
}

/// The object that `--json` writes; times are in seconds.
fn json(answer: &Answer, tokens: &[u32], prompt_tokens: usize, summary: &Summary<'_>) -> Value {
    let Summary { model, load, stats, decode_switch, .. } = summary;
    json!({
        "model": model.origin(),
        "text": answer.text,
        "token_ids": tokens,
        "logprobs": logprobs(model, answer),
        "finish_reason": answer.finish.map(finish_reason),
        "prompt_tokens": prompt_tokens,
        "load_s": load.as_secs_f64(),
        "vision_s": stats.vision.as_secs_f64(),
        "prefill_s": stats.prefill.as_secs_f64(),
        "decoded_tokens": stats.decoded_tokens,
        "decode_s": stats.decode.as_secs_f64(),
        "device": model.device_name(),
        "experts_implementation": executed(model, *decode_switch),
    })
}

/// The log-probabilities of each token, and of the most likely ones in its place; null if they are not
/// chosen.
fn logprobs(model: &LanguageModel, answer: &Answer) -> Value {
    let entry = |id: u32, logprob: f32| {
        let token = model.tokenizer().and_then(|tokenizer| tokenizer.token(id));
        json!({ "id": id, "token": token, "logprob": logprob })
    };
    let of_token = |(id, logprobs): &(u32, TokenLogprobs)| {
        let mut chosen = entry(*id, logprobs.logprob);
        let top = logprobs.top.iter().map(|&(id, logprob)| entry(id, logprob));
        chosen["top"] = top.collect();
        chosen
    };
    match answer.logprobs.as_slice() {
        [] => Value::Null,
        list => list.iter().map(of_token).collect(),
    }
}

/// Why a text ended, for programs.
fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfSequence => "eos_token",
        FinishReason::StopString => "stop_string",
        FinishReason::MaxNewTokens => "max_new_tokens",
        FinishReason::MaxLength => "max_length",
        FinishReason::MaxTime => "max_time",
        FinishReason::Context => "context",
        _ => "limit",
    }
}

/// The prompt as it is where it has its own placeholders, or no pictures go with it; else in the
/// chat template, if there is one. A conversation always goes through the template.
fn encode_prompt(
    model: &LanguageModel,
    Input { prompt, setup, .. }: Input,
    mut said: Vec<Visual>,
    visuals: &[Visual],
    is_chat: bool,
) -> Result<Prompt, CliError> {
    let ChatSetup { mut messages, options, .. } = setup;
    let Some(prompt) = prompt else {
        said.extend_from_slice(visuals);
        return encode_messages(model, &messages, said, &options);
    };
    let placeholders = visuals.iter().map(|visual| model.placeholder(visual));
    let placeholders = placeholders.collect::<Result<Vec<_>, _>>()?;
    let has_own = placeholders.iter().any(|placeholder| prompt.contains(placeholder.as_str()));
    let templated = is_chat || (!visuals.is_empty() && !has_own && model.chat_template().is_some());
    if templated {
        messages.push(Message::with_visuals("user", visuals, &prompt));
        said.extend_from_slice(visuals);
        return encode_messages(model, &messages, said, &options);
    }
    encode(model, &prompt, visuals)
}
