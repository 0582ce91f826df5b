//! The programs by name.

/// The name of this project's program.
pub(crate) const OURS: &str = "moexperts";

/// A peer that `--skip` can leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    Transformers,
    /// transformers with this project's Python plug-in
    Plugin,
    /// transformers under torch.compile
    Compile,
    Zentorch,
    #[value(name = "llamacpp")]
    LlamaCpp,
    #[value(name = "ik-llamacpp")]
    IkLlamaCpp,
}

impl Peer {
    pub(crate) const LAYERS: [Self; 4] =
        [Self::Transformers, Self::Plugin, Self::Compile, Self::Zentorch];
    pub(crate) const MODELS: [Self; 5] =
        [Self::Transformers, Self::Plugin, Self::Compile, Self::LlamaCpp, Self::IkLlamaCpp];
    pub(crate) const VISION: [Self; 2] = [Self::Transformers, Self::Compile];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Transformers => "transformers",
            Self::Plugin => "transformers + moexperts",
            Self::Compile => "transformers, compiled",
            Self::Zentorch => "zentorch",
            Self::LlamaCpp => "llama.cpp",
            Self::IkLlamaCpp => "ik_llama.cpp",
        }
    }
}
