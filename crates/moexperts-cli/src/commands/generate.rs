//! `moexperts generate`.

use std::{
    io::{IsTerminal as _, Read as _, stdin},
    time::Instant,
};

use moexperts::{Image, LanguageModel, Message, Prompt, Visual};

use super::{check_tokenizer, encode, encode_messages, load_model, print, read_image};
use crate::{
    args::{GenerateArgs, PictureArgs},
    error::CliError,
    summary::Summary,
};

pub(super) fn run(args: &GenerateArgs) -> Result<(), CliError> {
    let prompt = read_prompt(args.prompt.as_deref())?;
    let start = Instant::now();
    let model = load_model(&args.model)?;
    let load = start.elapsed();

    check_tokenizer(&model)?;
    let visuals = read_pictures(&model, &args.pictures)?;
    let prompt = encode_prompt(&model, &prompt, &visuals, args.chat)?;
    let mut generation = model.generate_tokens(vec![prompt], &args.generation.options())?;
    for event in generation.by_ref() {
        print(&event?.text)?;
    }
    print("\n")?;
    eprint!("{}", Summary { model: &model, load, stats: generation.stats() });
    Ok(())
}

/// The images, then the video.
fn read_pictures(model: &LanguageModel, args: &PictureArgs) -> Result<Vec<Visual>, CliError> {
    let images = args.image.iter().map(|path| read_image(model, path));
    let mut visuals = images.collect::<Result<Vec<_>, _>>()?;
    if !args.frame.is_empty() {
        model.require_vision()?;
        let frames = args.frame.iter().map(|path| Image::open(path));
        let frames = frames.collect::<Result<Vec<_>, _>>()?;
        let timestamps: Vec<f64> = (0..frames.len()).map(|frame| frame as f64 / args.fps).collect();
        visuals.push(model.prepare_video(&frames, &timestamps)?);
    }
    Ok(visuals)
}

/// The prompt as it is where it has placeholders of its own, or no pictures go with it; else in the
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
    let templated = chat || (!visuals.is_empty() && !has_own && model.chat_template().is_some());
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
