//! `moexperts generate`.

use std::{
    io::{IsTerminal as _, Read as _, stdin},
    time::Instant,
};

use moexperts::{AnyDevice, Image, LanguageModel, Message, Prompt, Visual};
use moexperts_bench::output::print;

use super::{
    check_tokenizer, compile, encode, encode_messages, load_model, open_images, prepare_images,
};
use crate::{args::GenerateArgs, error::CliError, summary::Summary};

/// Of a video whose frames come without.
const FRAMES_PER_SECOND: f64 = 2.0;

pub(super) fn run(args: &GenerateArgs) -> Result<(), CliError> {
    let prompt = read_prompt(args.prompt.as_deref())?;
    // A wrong name should not cost the loading of a model.
    let images = open_images(&args.pictures.image)?;
    let frames = open_images(&args.pictures.frame)?;
    let input = Input { prompt, images, frames };
    let start = Instant::now();
    generate(args, input, args.model.load.device.find()?, start)
}

/// What is to be continued.
pub(super) struct Input {
    pub(super) prompt: String,
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

    let Input { prompt, images, frames } = input;
    check_tokenizer(&model)?;
    let mut visuals = prepare_images(&model, &images)?;
    if !frames.is_empty() {
        let fps = args.pictures.fps.unwrap_or(FRAMES_PER_SECOND);
        let timestamps: Vec<f64> = (0..frames.len()).map(|frame| frame as f64 / fps).collect();
        visuals.push(model.prepare_video(&frames, &timestamps)?);
    }
    let prompt = encode_prompt(&model, &prompt, &visuals, args.chat)?;
    compile(&model, &args.compile, vec![1], vec![prompt.tokens().len()])?;
    let options = args.generation.options();
    let mut generation = model.generate_tokens(vec![prompt], &options)?;
    for event in generation.by_ref() {
        print(&event?.text)?;
    }
    print("\n")?;
    let (stats, decode_switch) = (generation.stats(), options.decode_switch);
    eprint!("{}", Summary { model: &model, load, stats, decode_switch });
    Ok(())
}

/// The prompt as it is where it has its own placeholders, or no pictures go with it; else in the
/// chat template, if there is one.
fn encode_prompt(
    model: &LanguageModel,
    prompt: &str,
    visuals: &[Visual],
    chat: bool,
) -> Result<Prompt, CliError> {
    let placeholders = visuals.iter().map(|visual| model.placeholder(visual));
    let placeholders = placeholders.collect::<Result<Vec<_>, _>>()?;
    let has_own = placeholders.iter().any(|placeholder| prompt.contains(placeholder.as_str()));
    let templated = chat || (!visuals.is_empty() && !has_own && model.has_chat_template());
    if templated {
        return encode_messages(model, &[Message::with_visuals("user", visuals, prompt)], visuals);
    }
    encode(model, prompt, visuals)
}

fn read_prompt(argument: Option<&str>) -> Result<String, CliError> {
    match argument {
        Some("-") => {}
        Some(prompt) => return Ok(prompt.to_owned()),
        None if stdin().is_terminal() => return Err(CliError::NoPrompt),
        None => {}
    }
    let mut text = String::new();
    stdin().read_to_string(&mut text).map_err(CliError::Input)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let prompt = line.strip_suffix('\r').unwrap_or(line);
    if prompt.is_empty() { Err(CliError::NoPrompt) } else { Ok(prompt.to_owned()) }
}
