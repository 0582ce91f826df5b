//! The commands, a file each.

mod chat;
mod conversation;
mod generate;
mod inspect;
mod logits;
#[cfg(test)]
mod tests;
mod tokenize;

use std::{ffi::OsString, path::Path};

use moexperts::{
    AnyDevice, ChatOptions, Image, LanguageModel, LoadOptions, Message, Prompt, Tokenizer, Visual,
    files::ModelFiles,
};
use moexperts_bench::{args::SourceArgs, output::note};

use crate::{
    args::{Command, CompileArgs, ModelArgs},
    embedded,
    error::CliError,
};

/// Runs a command.
///
/// - `words`: the command line it stands in
pub(crate) fn run(command: Command, words: &[OsString]) -> Result<(), CliError> {
    match command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bench(command) => Ok(moexperts_bench::run(&command, words, embedded::files)?),
    }
}

fn load_model(device: AnyDevice, args: &ModelArgs) -> Result<LanguageModel, CliError> {
    let model = args.load.source.model.as_deref();
    Ok(moexperts_bench::load(device, model, load_options(args), embedded::files)?)
}

fn load_options(args: &ModelArgs) -> LoadOptions {
    match &args.experts_implementation {
        Some(choice) => args.load.options().experts_implementation(choice.clone()),
        None => args.load.options(),
    }
}

/// The files of the model, not loaded.
fn open_model(args: &SourceArgs) -> Result<ModelFiles, CliError> {
    Ok(moexperts_bench::open(args.model.as_deref(), args.options(), embedded::files)?)
}

/// Compiles a model for some shapes if it is to be, and says what came of it.
fn compile(
    model: &LanguageModel,
    args: &CompileArgs,
    batch_sizes: Vec<usize>,
    prompt_tokens: Vec<usize>,
) -> Result<(), CliError> {
    if let Some(options) = args.options(batch_sizes, prompt_tokens) {
        note(format_args!("compiled {}", model.compile(options)?));
    }
    Ok(())
}

/// Whether text can be given to the model.
fn check_tokenizer(model: &LanguageModel) -> Result<&Tokenizer, CliError> {
    let missing = || CliError::NoTokenizer { origin: model.origin().to_owned() };
    model.tokenizer().ok_or_else(missing)
}

/// A text and the pictures its placeholders stand for.
fn encode(model: &LanguageModel, text: &str, visuals: &[Visual]) -> Result<Prompt, CliError> {
    check_tokenizer(model)?;
    Ok(model.prompt(text, visuals.to_vec(), true)?)
}

/// A conversation, as the model's template writes it.
fn encode_messages(
    model: &LanguageModel,
    messages: &[Message],
    visuals: Vec<Visual>,
    options: &ChatOptions,
) -> Result<Prompt, CliError> {
    if model.chat_template().is_none() {
        return Err(CliError::NoChatTemplate { origin: model.origin().to_owned() });
    }
    check_tokenizer(model)?;
    Ok(model.chat_prompt(messages, visuals, options)?)
}

/// Reads the files of images.
fn open_images<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<Image>, CliError> {
    let images = paths.iter().map(|path| Image::open(path.as_ref()).map_err(CliError::Picture));
    images.collect()
}

/// Makes images ready for the model.
fn prepare_images(model: &LanguageModel, images: &[Image]) -> Result<Vec<Visual>, CliError> {
    Ok(images.iter().map(|image| model.prepare_image(image)).collect::<Result<_, _>>()?)
}
