//! What can go wrong in the program, and how it is said.

use std::{error::Error, io, path::PathBuf};

use crate::summary::printable;

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Model(#[from] moexperts::Error),
    /// A file with an image that cannot be read or decoded.
    #[error(transparent)]
    Picture(moexperts::Error),
    #[error("no prompt")]
    NoPrompt,
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    #[error("cannot write standard output")]
    Output(#[source] io::Error),
    /// The reader of standard output is gone.
    #[error("standard output is closed")]
    BrokenPipe,
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot use the terminal")]
    Terminal(#[source] Box<dyn Error + Send + Sync>),
    #[error("model `{origin}` has no chat template")]
    NoChatTemplate { origin: String },
    #[error("model `{origin}` has no tokenizer, and text needs one")]
    NoTokenizer { origin: String },
    #[error("{what}, expected at most {limit}, half the available memory")]
    Memory { what: String, limit: String, hint: &'static str },
    #[error(
        "shape `{shape}` is of no model family that can be loaded, expected one of {known} or \
         four numbers H,I,E,K"
    )]
    NoFamily { shape: String, known: String },
    #[error(
        "{prompt} prompt tokens and {new} new ones do not fit the model's context of {context}"
    )]
    BenchContext { prompt: usize, new: usize, context: usize },
    #[error("`{}` has results already", path.display())]
    SweepExists { path: PathBuf },
    #[error("`{}` has results of another {what}: `{there}`, this is `{here}`", path.display())]
    SweepDiffers { path: PathBuf, what: &'static str, there: String, here: String },
    #[error("none of the combinations can run: {reason}")]
    SweepEmpty { reason: String },
    /// Ctrl-C came.
    #[error(
        "interrupted: {complete} of {planned} combinations are complete in {}; --resume goes on",
        path.display()
    )]
    Interrupted { complete: usize, planned: usize, path: PathBuf },
    #[error("the page cannot be `{}`, which has the results", path.display())]
    ReportOverResults { path: PathBuf },
    #[error(transparent)]
    Report(#[from] moexperts_report::ReportError),
    #[error("{variable} is `{got}`, expected a level (`debug`) or TARGET=LEVEL,TARGET=LEVEL")]
    Log { variable: &'static str, got: String, source: tracing_subscriber::filter::ParseError },
}

impl CliError {
    /// An error of writing to standard output.
    pub(crate) fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Output(error),
        }
    }

    /// What the user can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Model(moexperts::Error::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Some(
                    "--model takes a folder with config.json and safetensors weights, or the id \
                     of a model on the hub"
                        .to_owned(),
                )
            }
            Self::Model(error) | Self::Picture(error) => error.hint(),
            Self::NoPrompt => Some(
                "give it as an argument, moexperts generate \"The borrow checker\", or on \
                 standard input"
                    .to_owned(),
            ),
            Self::NoChatTemplate { .. } => {
                Some("leave --chat out to continue the prompt as plain text".to_owned())
            }
            Self::NoTokenizer { .. } => {
                Some("put its tokenizer.json into the model's folder".to_owned())
            }
            Self::Memory { hint, .. } => Some((*hint).to_owned()),
            Self::NoFamily { shape, .. } => {
                Some(format!("`moexperts bench layer --shape {shape}` measures the layer alone"))
            }
            Self::SweepExists { .. } => {
                Some("--resume goes on with them; another --out starts anew".to_owned())
            }
            Self::ReportOverResults { .. } => Some("choose another --out".to_owned()),
            Self::SweepDiffers { .. } => Some("choose another --out".to_owned()),
            Self::Report(error) => error.hint(),
            Self::BenchContext { .. } => Some("lower --prompt-tokens or --new-tokens".to_owned()),
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
