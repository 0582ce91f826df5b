//! What can go wrong in the program, and how it is said.

use std::{error::Error, io};

use moexperts_bench::{BenchError, model_hint, output::text::printable};

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Model(#[from] moexperts::Error),
    /// Of `bench`, or of what it shares with the other commands.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// A file with an image that cannot be read or decoded.
    #[error(transparent)]
    Picture(moexperts::Error),
    #[error("no prompt")]
    NoPrompt,
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    #[error("cannot use the terminal")]
    Terminal(#[source] Box<dyn Error + Send + Sync>),
    #[error("model `{origin}` has no chat template")]
    NoChatTemplate { origin: String },
    #[error("model `{origin}` has no tokenizer, and text needs one")]
    NoTokenizer { origin: String },
    /// A file with a conversation or tools.
    #[error("{file}: {problem}")]
    Conversation { file: String, problem: String },
    #[error("{variable} is `{got}`, expected a level (`debug`) or TARGET=LEVEL,TARGET=LEVEL")]
    Log { variable: &'static str, got: String, source: tracing_subscriber::filter::ParseError },
}

impl CliError {
    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Model(error) => model_hint(error),
            Self::Bench(error) => error.hint(),
            Self::Picture(error) => error.hint(),
            Self::NoPrompt => Some(
                "give it as an argument, moexperts generate \"The borrow checker\", or on \
                 standard input"
                    .to_owned(),
            ),
            Self::NoChatTemplate { .. } => Some(
                "leave out --chat and the options of a conversation to continue the prompt as plain \
                 text"
                    .to_owned(),
            ),
            Self::NoTokenizer { .. } => {
                Some("put its tokenizer.json into the model's folder".to_owned())
            }
            _ => None,
        }
    }
}

/// An error with its causes and a hint, a line each.
pub(crate) fn report(error: &dyn Error, hint: Option<String>) -> String {
    let mut lines = format!("error: {error}\n");
    let mut cause = error.source();
    while let Some(error) = cause {
        lines.push_str(&format!("caused by: {error}\n"));
        cause = error.source();
    }
    if let Some(hint) = hint {
        lines.push_str(&format!("hint: {hint}\n"));
    }
    printable(&lines)
}
