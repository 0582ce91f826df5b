//! What can go wrong in a benchmark.

use std::{error::Error, io, path::PathBuf};

/// An error of a benchmark, or of what it shares with the other commands.
#[expect(missing_docs, reason = "the messages say what each is")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    #[error(transparent)]
    Model(#[from] moexperts::Error),
    #[error("cannot write standard output")]
    Output(#[source] io::Error),
    /// The reader of standard output is gone.
    #[error("standard output is closed")]
    BrokenPipe,
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot use the terminal")]
    Terminal(#[source] Box<dyn Error + Send + Sync>),
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
}

impl BenchError {
    /// An error of writing to standard output.
    pub(crate) fn output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Output(error),
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Model(error) => model_hint(error),
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

/// What the user can do about an error of a model.
pub fn model_hint(error: &moexperts::Error) -> Option<String> {
    match error {
        moexperts::Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(
            "--model takes a folder with config.json and safetensors weights, or the id of a model \
             on the hub"
                .to_owned(),
        ),
        error => error.hint(),
    }
}
