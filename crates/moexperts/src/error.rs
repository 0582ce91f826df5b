//! What can go wrong between a user's words and a model's.

use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors, grouped by who can fix them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape, a dtype, a backend or a device.
    #[error(transparent)]
    Core(#[from] moexperts_core::Error),
    /// A file that cannot be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A JSON file of the model that does not say what it must.
    #[error("{file}: {problem}")]
    Config {
        /// The file: `config.json`.
        file: String,
        /// What is missing or wrong.
        problem: String,
    },
    /// Weights that are damaged, missing or of another shape.
    #[error("{file}: {problem}")]
    Checkpoint {
        /// The safetensors file or index.
        file: String,
        /// What is missing or wrong; names the tensor.
        problem: String,
    },
    /// A tokenizer or chat template that cannot be used.
    #[error("{file}: {problem}")]
    Tokenizer {
        /// The file: `tokenizer.json`.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// An image or video that cannot be decoded or has a size no model takes.
    #[error("{name}: {problem}")]
    Image {
        /// Its file, or `image` or `video` where it has none.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// An option with a value it cannot have.
    #[error("option `{option}` is {got}, expected {expected}")]
    Option {
        /// The option, as in `generation_config.json`.
        option: &'static str,
        /// Its value.
        got: String,
        /// The values it may have.
        expected: String,
    },
    /// A key of an `experts_implementation` map that names no part of the model.
    #[error("experts implementation: the model has no sub-config `{key}`, expected one of {known}")]
    UnknownBackbone {
        /// The key.
        key: String,
        /// The keys there are; `""` is the model itself.
        known: String,
    },
    /// An operation that cannot be part of an unbroken graph, where `fullgraph` demands one.
    #[error(
        "fullgraph: experts implementation `{backend}` breaks the graph at {operation}: it {reason}"
    )]
    GraphBreak {
        /// The backend.
        backend: String,
        /// The operation.
        operation: String,
        /// What it does there.
        reason: &'static str,
    },
    /// A path, an address or a folder that is no model which can be loaded.
    #[error("`{model}` is {problem}")]
    NotAModel {
        /// As it was given.
        model: String,
        /// Its kind, and what to give instead.
        problem: String,
    },
    /// A model that another loader loads.
    #[error("{file}: model_type `{model_type}` is loaded by {loader}")]
    OtherLoader {
        /// The file: `config.json`.
        file: String,
        /// Its `model_type`.
        model_type: String,
        /// What loads it.
        loader: &'static str,
    },
    /// A picture for a model that reads text only.
    #[error("model `{origin}` ({model_type}) reads text alone, not images")]
    TextOnly {
        /// The folder or file the model came from.
        origin: String,
        /// Its `model_type`.
        model_type: String,
        /// Each `model_type` that reads images.
        multimodal: Vec<&'static str>,
    },
    /// A prompt with more or fewer placeholders than its pictures need.
    #[error(
        "the prompt has {got} placeholder{} {what}, expected {expected}, one for each {each}",
        if *got == 1 { "" } else { "s" }
    )]
    Placeholders {
        /// The placeholder.
        what: String,
        /// How many there are.
        got: usize,
        /// How many there should be.
        expected: usize,
        /// What each stands for.
        each: &'static str,
    },
    /// More tokens than positions can be counted.
    #[error("the prompt has {tokens} tokens, a sequence can have {context}")]
    ContextExceeded {
        /// Tokens of the prompt.
        tokens: usize,
        /// The most tokens of a sequence.
        context: usize,
    },
    /// What a Cargo feature would do, in a program that was built without it.
    #[error("{what} needs the feature `{feature}` of moexperts, which is not built in")]
    NotBuilt {
        /// What was requested.
        what: String,
        /// The feature.
        feature: &'static str,
    },
    /// The model's repository could not be fetched.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
}

impl Error {
    /// The error of something that needs a feature which is not built in.
    pub(crate) fn not_built(what: impl Into<String>, feature: &'static str) -> Self {
        Self::NotBuilt { what: what.into(), feature }
    }

    /// What the reader can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            #[cfg(feature = "hub")]
            Self::Hub(error) => error.hint(),
            Self::ContextExceeded { context, .. } => {
                Some(format!("shorten the prompt to fewer than {context} tokens"))
            }
            Self::GraphBreak { .. } => Some(
                "compile without fullgraph, or use a backend that does not: `batched_mm`, \
                 `grouped_mm`"
                    .to_owned(),
            ),
            Self::TextOnly { multimodal, .. } => {
                let names: Vec<_> = multimodal.iter().map(|name| format!("`{name}`")).collect();
                Some(format!("images need a multimodal model, of model_type {}", names.join(", ")))
            }
            Self::NotBuilt { feature, .. } => {
                Some(format!("build moexperts with `--features {feature}`"))
            }
            Self::Placeholders { each, .. } if each.starts_with("row") => Some(
                "repeat the placeholder for each row, or give the prompt as a text, where one for \
                 each picture is enough"
                    .to_owned(),
            ),
            Self::Placeholders { what, got, expected, each } => Some(match got > expected {
                true => format!("take {what} out of the prompt, or give as many {each}s"),
                false => format!("write {what} into the prompt where each {each} belongs"),
            }),
            _ => None,
        }
    }
}
