//! The template that writes a conversation as the model was trained to read it.
//!
//! Templates are Jinja for Python; this gives them what `apply_chat_template` of transformers
//! does: the same whitespace rules, functions, variables and Python methods.

mod json;

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context, syntax::SyntaxConfig};
use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    error::{Error, Result},
    prompt::Visual,
};

const NAME: &str = "chat_template";

/// The keys of `tokenizer_config.json` that templates see as variables.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`.
    pub role: String,
    /// What they say and show.
    pub content: Content,
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Text alone.
    Text(String),
    /// Text and pictures, in the order they are meant to be read.
    Parts(Vec<Part>),
}

impl Content {
    fn to_value(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Parts(parts) => parts.iter().map(Part::to_value).collect::<Vec<_>>().into(),
        }
    }
}

/// A part of a message. Pictures themselves go beside the text, see
/// [`LanguageModel::prompt`](crate::LanguageModel::prompt).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
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

impl Part {
    fn to_value(&self) -> Value {
        match self {
            Self::Text { text } => Value::from_pairs([("type", "text"), ("text", text)]),
            Self::Image => Value::from_pairs([("type", "image")]),
            Self::Video => Value::from_pairs([("type", "video")]),
        }
    }
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
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a template; it sees the special tokens that `tokenizer_config.json` names.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] with the line if the template is broken, [`Error::Config`] if a
    /// special token is neither text nor an object with `content`.
    pub fn new(template: &str, tokenizer_config: Option<&Config>) -> Result<Self> {
        let mut environment = Environment::new();
        for key in SPECIAL_TOKENS {
            if let Some(token) =
                tokenizer_config.map(|file| file.optional(key)).transpose()?.flatten()
            {
                let (SpecialToken::Text(text) | SpecialToken::Added { content: text }) = token;
                environment.add_global(key, text);
            }
        }
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(|error| failed(&error))?,
        );
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // A name without an extension is not escaped for HTML.
        environment.add_filter("tojson", json::to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, without_generation_tags(template))
            .map_err(|error| failed(&error))?;
        Ok(Self { environment })
    }

    /// Writes a conversation, with the beginning of the model's turn if asked for.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] with the line, and the template's own words if it refuses the
    /// conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|Message { role, content }| {
                context! { role, content => content.to_value() }
            })
            .collect();
        // Templates ask whether these two are none; transformers always passes them.
        let variables = context! {
            messages, add_generation_prompt, tools => Value::from(()), documents => Value::from(()),
        };
        let template = self.environment.get_template(NAME);
        template.and_then(|template| template.render(variables)).map_err(|error| failed(&error))
    }
}

/// A special token as `tokenizer_config.json` writes it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "invalid type, expected text or an object with `content`")]
enum SpecialToken {
    Text(String),
    Added { content: String },
}

/// Refuses a conversation in the template's words.
fn raise_exception(message: &str) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// The local time, in the format of C's `strftime`.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(|error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}"))
    })
}

/// Writes `{% generation %}`, which marks the model's words for training and prints nothing, in
/// Jinja that every engine has. Lines stay where they are.
fn without_generation_tags(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, tag)) = rest.split_once("{%") {
        let (inside, after) = tag.split_once("%}").unwrap_or((tag, ""));
        let word = inside.trim_matches(['-', '+', ' ', '\n', '\t']);
        let instead = match word {
            "generation" => inside.replace(word, "if true"),
            "endgeneration" => inside.replace(word, "endif"),
            _ => inside.to_owned(),
        };
        out.extend([before, "{%", &instead]);
        if inside.len() < tag.len() {
            out.push_str("%}");
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn failed(error: &minijinja::Error) -> Error {
    let problem = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let problem = match error.line() {
        Some(line) => format!("line {line}: {problem}"),
        None => problem,
    };
    Error::Tokenizer { file: NAME.into(), problem }
}

#[cfg(test)]
mod tests;
