//! `moexperts generate`.

use std::{
    io::{IsTerminal as _, Read as _, stdin},
    time::Instant,
};

use super::{encode_messages, load_model, message, print, tokenizer};
use crate::{args::GenerateArgs, error::CliError, summary::Summary};

pub(super) fn run(args: &GenerateArgs) -> Result<(), CliError> {
    let prompt = read_prompt(args.prompt.as_deref())?;
    let start = Instant::now();
    let model = load_model(&args.model)?;
    let load = start.elapsed();

    let tokens = match args.chat {
        true => encode_messages(&model, &[message("user", &prompt)])?,
        false => tokenizer(&model)?.encode(&prompt, true)?,
    };
    let mut generation = model.generate_tokens(vec![tokens], &args.generation.options())?;
    for event in generation.by_ref() {
        print(&event?.text)?;
    }
    print("\n")?;
    eprint!("{}", Summary { model: &model, load, stats: generation.stats() });
    Ok(())
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
