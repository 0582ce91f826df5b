//! The class of transformers that a tokenizer is loaded as.
//!
//! Some classes take the vocabulary and the merges of `tokenizer.json` and split text in a way of
//! their code, whatever the file says; so the class changes the tokens.

use crate::{config::Config, error::Result, files::ModelFiles, warnings::Warnings};

/// A class of tokenizers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Class {
    /// `TokenizersBackend`, also known as `PreTrainedTokenizerFast`: `tokenizer.json` as it is.
    #[default]
    AsWritten,
    Gpt2,
    GptNeoX,
    Qwen2,
}

/// Names of `TokenizersBackend`.
const AS_WRITTEN: [&str; 4] =
    ["TokenizersBackend", "PreTrainedTokenizer", "PythonBackend", "BloomTokenizer"];

impl Class {
    /// The class that `AutoTokenizer` chooses.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if `tokenizer_class` or `model_type` is not text.
    pub(crate) fn of(files: &ModelFiles, warnings: &mut Warnings) -> Result<Self> {
        let given = |file: &Config| -> Result<Option<(String, String)>> {
            let class: Option<String> = file.optional("tokenizer_class")?;
            Ok(class.map(|class| (file.file().to_owned(), class)))
        };
        let given = match files.tokenizer_config.as_ref().map(given).transpose()?.flatten() {
            Some(class) => Some(class),
            None => given(&files.config)?,
        };
        let model_type: Option<String> = files.config.optional("model_type")?;
        let registered = Self::registered(model_type.as_deref().unwrap_or_default());
        let Some((file, written)) = given else { return Ok(registered.unwrap_or_default()) };
        let name = written.strip_suffix("Fast").unwrap_or(&written);
        if registered == Some(Self::AsWritten) || AS_WRITTEN.contains(&name) {
            return Ok(Self::AsWritten);
        }
        Ok(match name {
            "GPT2Tokenizer" => Self::Gpt2,
            "GPTNeoXTokenizer" => Self::GptNeoX,
            "Qwen2Tokenizer" => Self::Qwen2,
            "LlamaTokenizer" if files.tokenizer.as_deref().is_some_and(is_byte_level) => {
                Self::AsWritten
            }
            _ => {
                warnings.push(format_args!(
                    "{file}: `tokenizer_class` `{written}` is not known; tokenizer.json is read as \
                     it is written"
                ));
                Self::AsWritten
            }
        })
    }

    /// The class that transformers has for a model type; `None` if it has no entry.
    fn registered(model_type: &str) -> Option<Self> {
        match model_type {
            "qwen2_moe" | "qwen3_moe" | "qwen3_vl_moe" => Some(Self::Qwen2),
            "olmoe" => Some(Self::GptNeoX),
            "granitemoe" | "minimax_m2" | "mixtral" => Some(Self::AsWritten),
            _ => None,
        }
    }

    /// The token of a role that the files do not mention.
    pub(crate) fn default_role(self, role: &str) -> Option<&'static str> {
        match (self, role) {
            (Self::Qwen2, "eos_token" | "pad_token" | "unk_token")
            | (Self::Gpt2 | Self::GptNeoX, "bos_token" | "eos_token" | "unk_token") => {
                Some("<|endoftext|>")
            }
            (Self::GptNeoX, "pad_token") => Some("<|padding|>"),
            _ => None,
        }
    }

    /// Its name in transformers.
    #[cfg(feature = "tokenizer")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AsWritten => "TokenizersBackend",
            Self::Gpt2 => "GPT2Tokenizer",
            Self::GptNeoX => "GPTNeoXTokenizer",
            Self::Qwen2 => "Qwen2Tokenizer",
        }
    }
}

/// Whether a `tokenizer.json` splits text into bytes.
fn is_byte_level(tokenizer: &[u8]) -> bool {
    let name = b"\"ByteLevel\"";
    tokenizer.windows(name.len()).any(|window| window == name)
}
