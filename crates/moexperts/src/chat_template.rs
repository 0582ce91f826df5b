//! The template that writes a conversation as the model was trained to read it.
//!
//! Templates are Jinja for Python; `jinja` runs them with what `apply_chat_template` of transformers
//! gives them.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[cfg(feature = "chat-template")]
use self::jinja::compile;
use crate::{error::Result, prompt::Visual, special_tokens::SpecialTokens};

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

/// What a conversation is written with, beside its messages.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatOptions {
    add_generation_prompt: bool,
    continue_final_message: bool,
    tools: Option<Vec<Value>>,
    template_args: Map<String, Value>,
}

impl ChatOptions {
    /// The beginning of the model's turn, no tools and no variables.
    pub fn new() -> Self {
        Self {
            add_generation_prompt: true,
            continue_final_message: false,
            tools: None,
            template_args: Map::new(),
        }
    }

    /// Whether the beginning of the model's turn is written; true by default.
    #[must_use]
    pub fn add_generation_prompt(mut self, add: bool) -> Self {
        self.add_generation_prompt = add;
        self
    }

    /// Whether the last message is left open, so that the model continues it; false by default.
    #[must_use]
    pub fn continue_final_message(mut self, continues: bool) -> Self {
        self.continue_final_message = continues;
        self
    }

    /// The tools that the model may call, as JSON schemas of functions; none by default.
    #[must_use]
    pub fn tools(mut self, tools: impl Into<Option<Vec<Value>>>) -> Self {
        self.tools = tools.into();
        self
    }

    /// A variable of the template: `enable_thinking`.
    #[must_use]
    pub fn template_arg(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.template_args.insert(name.into(), value.into());
        self
    }
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    engine: Box<dyn Engine>,
}

/// What runs a template. The one implementation is that of the feature `chat-template`.
trait Engine: fmt::Debug + Send + Sync {
    fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String>;
}

impl ChatTemplate {
    /// Compiles a template; it sees the special tokens as variables.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) with the line if the template is broken,
    /// [`Error::NotBuilt`](crate::Error::NotBuilt) without the feature `chat-template`.
    pub fn new(template: &str, special_tokens: &SpecialTokens) -> Result<Self> {
        Ok(Self { engine: compile(template, special_tokens)? })
    }

    /// Writes a conversation.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) with the line, and the template's own words if
    /// it refuses the conversation.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        self.engine.render(messages, options)
    }
}

#[cfg(not(feature = "chat-template"))]
fn compile(_template: &str, _special_tokens: &SpecialTokens) -> Result<Box<dyn Engine>> {
    Err(crate::error::Error::not_built("a chat template", "chat-template"))
}

#[cfg(test)]
#[cfg(feature = "chat-template")]
mod tests;
