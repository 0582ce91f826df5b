//! The commands, a file each.

mod bench;
mod chat;
mod generate;
mod inspect;
mod logits;

use std::io::{Write as _, stdout};

use moexperts::{AutoModelForCausalLm, CausalLm, LoadOptions, Message, Tokenizer};

use crate::{
    args::{Command, ModelArgs},
    embedded,
    error::CliError,
    progress,
};

/// Runs a command.
pub(crate) fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bench(command) => bench::run(&command),
    }
}

fn load_model(args: &ModelArgs) -> Result<CausalLm, CliError> {
    let options = args.load.options();
    let options = match &args.experts_implementation {
        Some(choice) => options.experts_implementation(choice.clone()),
        None => options,
    };
    load(args.load.model.as_deref(), options)
}

/// The model of this name, or the one in the program.
fn load(model: Option<&str>, options: LoadOptions) -> Result<CausalLm, CliError> {
    let model = match model {
        Some(model) => {
            AutoModelForCausalLm::from_pretrained(model, options.progress(progress::downloads()))
        }
        None => AutoModelForCausalLm::from_files(embedded::files()?, options),
    };
    Ok(model?)
}

fn tokenizer(model: &CausalLm) -> Result<&Tokenizer, CliError> {
    let missing = || CliError::NoTokenizer { origin: model.origin().to_owned() };
    model.tokenizer().ok_or_else(missing)
}

/// The tokens of a conversation with the beginning of the model's turn. The template writes the
/// special tokens itself.
fn encode_messages(model: &CausalLm, messages: &[Message]) -> Result<Vec<u32>, CliError> {
    let missing = || CliError::NoChatTemplate { origin: model.origin().to_owned() };
    let template = model.chat_template().ok_or_else(missing)?;
    Ok(tokenizer(model)?.encode(&template.render(messages, true)?, false)?)
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

/// Writes to standard output at once.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::output)
}
