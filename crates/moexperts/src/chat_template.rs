//! The template that writes a conversation as the model was trained to read it.
//!
//! Templates are Jinja for Python; `jinja` runs them with what `apply_chat_template` of transformers
//! gives them.

use std::fmt;

use serde::{Deserialize, Serialize};

#[cfg(feature = "chat-template")]
use self::jinja::compile;
use crate::{config::Config, error::Result, prompt::Visual};

#[cfg(feature = "chat-template")]
mod jinja;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`.
    pub role: String,
    /// What they say and show.
    pub content: Content,
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Content {
    /// Only text.
    Text(String),
    /// Text and pictures, in the order they are meant to be read.
    Parts(Vec<Part>),
}

/// A part of a message. Pictures themselves go beside the text, see
/// [`LanguageModel::prompt`](crate::LanguageModel::prompt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Part {
    /// A text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    Image,
    /// A video.
    Video,
}

impl Message {
    /// A turn of text.
    pub fn text(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(text.into()) }
    }

    /// A turn of pictures and a text about them.
    pub fn with_visuals(role: impl Into<String>, visuals: &[Visual], text: &str) -> Self {
        if visuals.is_empty() {
            return Self::text(role, text);
        }
        let part = |visual: &Visual| match visual.timestamps() {
            Some(_) => Part::Video,
            None => Part::Image,
        };
        let text = Part::Text { text: text.to_owned() };
        let parts = visuals.iter().map(part).chain([text]).collect();
        Self { role: role.into(), content: Content::Parts(parts) }
    }
}

/// A chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    engine: Box<dyn Engine>,
}

/// What runs a template. The one implementation is that of the feature `chat-template`.
trait Engine: fmt::Debug + Send + Sync {
    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String>;
}

impl ChatTemplate {
    /// Compiles a template; it sees the special tokens that `tokenizer_config.json` names.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) with the line if the template is broken,
    /// [`Error::Config`](crate::Error::Config) if a special token is neither text nor an object with
    /// `content`; [`Error::NotBuilt`](crate::Error::NotBuilt) without the feature `chat-template`.
    pub fn new(template: &str, tokenizer_config: Option<&Config>) -> Result<Self> {
        Ok(Self { engine: compile(template, tokenizer_config)? })
    }

    /// Writes a conversation, with the beginning of the model's turn if `add_generation_prompt`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) with the line, and the template's own words if
    /// it refuses the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.engine.render(messages, add_generation_prompt)
    }
}

#[cfg(not(feature = "chat-template"))]
fn compile(_template: &str, _tokenizer_config: Option<&Config>) -> Result<Box<dyn Engine>> {
    Err(crate::error::Error::not_built("a chat template", "chat-template"))
}

#[cfg(test)]
#[cfg(feature = "chat-template")]
mod tests;
