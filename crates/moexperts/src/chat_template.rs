//! The template that writes a conversation as the model was trained to read it.
//!
//! Templates are Jinja for Python; `jinja` runs them with what `apply_chat_template` of transformers
//! gives them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Result},
    files::ModelFiles,
    prompt::Visual,
    special_tokens::SpecialTokens,
    warnings::Warnings,
};

#[cfg(feature = "chat-template")]
mod jinja;

/// The template of a model that has one, and of a conversation for which no other is chosen.
pub(crate) const DEFAULT: &str = "default";

/// The template of conversations with tools, where a model has one.
const TOOL_USE: &str = "tool_use";

/// One turn of a conversation: a JSON object as the chat interfaces of servers have it.
///
/// A template sees every key as it is: `role`, `content` (a text, none, or parts of any type),
/// `tool_calls`, `tool_call_id`, `name`, `reasoning_content` and others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(Map<String, Value>);

impl Message {
    /// A turn of text.
    pub fn text(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(role, text.into())
    }

    /// A turn of pictures and a text about them. Pictures themselves go beside the text, see
    /// [`LanguageModel::prompt`](crate::LanguageModel::prompt).
    pub fn with_visuals(role: impl Into<String>, visuals: &[Visual], text: &str) -> Self {
        if visuals.is_empty() {
            return Self::text(role, text);
        }
        let part = |visual: &Visual| match visual.timestamps() {
            Some(_) => json!({"type": "video"}),
            None => json!({"type": "image"}),
        };
        let text = json!({"type": "text", "text": text});
        Self::new(role, visuals.iter().map(part).chain([text]).collect::<Vec<_>>())
    }

    fn new(role: impl Into<String>, content: impl Into<Value>) -> Self {
        let role = Value::String(role.into());
        Self(Map::from_iter([("role".to_owned(), role), ("content".to_owned(), content.into())]))
    }

    /// A further key, or another value of one.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.insert(key.into(), value.into());
        self
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub fn role(&self) -> Option<&str> {
        self.get("role")?.as_str()
    }

    /// The values of all keys.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl From<Map<String, Value>> for Message {
    fn from(fields: Map<String, Value>) -> Self {
        Self(fields)
    }
}

/// What a conversation is written with, beside its messages.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatOptions {
    template_name: Option<String>,
    add_generation_prompt: bool,
    continue_final_message: bool,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    template_args: Map<String, Value>,
}

impl ChatOptions {
    /// The beginning of the model's turn, no tools and no variables.
    pub fn new() -> Self {
        Self {
            template_name: None,
            add_generation_prompt: true,
            continue_final_message: false,
            tools: None,
            documents: None,
            template_args: Map::new(),
        }
    }

    /// Which of the model's templates writes the conversation; by default `tool_use` for one with
    /// tools, where the model has it, and `default` otherwise.
    #[must_use]
    pub fn template_name(mut self, name: impl Into<Option<String>>) -> Self {
        self.template_name = name.into();
        self
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

    /// The documents that the model may quote, as objects with `title` and `text`; none by default.
    #[must_use]
    pub fn documents(mut self, documents: impl Into<Option<Vec<Value>>>) -> Self {
        self.documents = documents.into();
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

/// The chat template of a model, compiled, in all the variants that its files name.
#[derive(Debug)]
pub struct ChatTemplate(BTreeMap<String, Variant>);

#[derive(Debug)]
enum Variant {
    Compiled(Compiled),
    /// What is wrong with it, for those who use it.
    Broken(String),
}

#[derive(Debug)]
struct Compiled {
    engine: Box<dyn Engine>,
    /// Whether the template speaks of a field that may be continued.
    reads_content: bool,
}

/// What runs a template. The one implementation is that of the feature `chat-template`.
trait Engine: fmt::Debug + Send + Sync {
    fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, String>;
}

impl ChatTemplate {
    /// Compiles a template; it sees the special tokens as variables.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] with the line if the template is broken, [`Error::NotBuilt`] without the
    /// feature `chat-template`.
    pub fn new(template: &str, special_tokens: &SpecialTokens) -> Result<Self> {
        let compiled = Compiled::new(DEFAULT, template, special_tokens)?;
        Ok(Self(BTreeMap::from([(DEFAULT.to_owned(), Variant::Compiled(compiled))])))
    }

    /// Reads the templates of a model; `None` if it has none, or without the feature
    /// `chat-template`.
    ///
    /// A broken one is named in `warnings`, and an error where it is used: plain text needs none.
    ///
    /// # Errors
    /// As [`SpecialTokens::of`].
    pub fn read(files: &ModelFiles, warnings: &mut Warnings) -> Result<Option<Self>> {
        let special_tokens = SpecialTokens::of(files)?;
        let mut compile = |(name, template): (&String, &String)| {
            let variant = match Compiled::new(name, template, &special_tokens) {
                Ok(compiled) => Variant::Compiled(compiled),
                Err(Error::NotBuilt { .. }) => return None,
                Err(error) => {
                    warnings.push(format_args!(
                        "{error}: conversations are refused, plain text is not"
                    ));
                    Variant::Broken(problem(error))
                }
            };
            Some((name.clone(), variant))
        };
        let variants: BTreeMap<_, _> =
            files.chat_templates.iter().filter_map(&mut compile).collect();
        Ok((!variants.is_empty()).then_some(Self(variants)))
    }

    /// The names of the variants: `default`, `rag`, `tool_use`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Writes a conversation.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] with the line, and the template's own words if it refuses the
    /// conversation; also if there is no template of the name, it is broken, or the last message
    /// cannot be continued.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let name = match &options.template_name {
            Some(name) => name,
            None if options.tools.is_some() && self.0.contains_key(TOOL_USE) => TOOL_USE,
            None => DEFAULT,
        };
        let rendered = match self.0.get(name) {
            Some(Variant::Compiled(template)) => template.render(messages, options),
            Some(Variant::Broken(problem)) => Err(problem.clone()),
            None => {
                let names: Vec<String> = self.names().map(|name| format!("`{name}`")).collect();
                let names = names.join(", ");
                Err(format!("the model has no template `{name}`, expected one of {names}"))
            }
        };
        rendered.map_err(|problem| refused(name, problem))
    }
}

impl Compiled {
    fn new(name: &str, template: &str, special_tokens: &SpecialTokens) -> Result<Self> {
        let engine = compile(name, template, special_tokens)?;
        Ok(Self { engine, reads_content: template.contains("content") })
    }

    fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, String> {
        let mut messages: Vec<Message> = messages.iter().map(with_reasoning).collect();
        if !options.continue_final_message {
            return self.engine.render(&messages, options);
        }
        if !self.reads_content {
            return Err(no_end("the template does not read `content`"));
        }
        let last = open_end(messages.last_mut())?;
        let rendered = self.engine.render(&messages, options)?;
        cut_at_end(&rendered, &last)
    }
}

fn refused(name: &str, problem: String) -> Error {
    let file = match name {
        DEFAULT => "chat_template".to_owned(),
        other => format!("chat_template `{other}`"),
    };
    Error::Tokenizer { file, problem }
}

fn problem(error: Error) -> String {
    match error {
        Error::Tokenizer { problem, .. } => problem,
        error => error.to_string(),
    }
}

/// Marks where the last message ends; what the template writes after it is cut off.
const END: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The names under which the thoughts of a model are passed; templates read the first or second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message whose thoughts are there under both names that templates read.
fn with_reasoning(message: &Message) -> Message {
    let found = REASONING.iter().filter_map(|key| message.get(key)).find(|value| !value.is_null());
    let Some(reasoning) = found.cloned() else { return message.clone() };
    let mut fields = Map::new();
    fields.insert("thinking".to_owned(), reasoning.clone());
    fields.extend(message.0.clone());
    fields.insert("reasoning_content".to_owned(), reasoning);
    Message(fields)
}

/// Puts the mark at the end of the last text of a message; gives the text without it.
fn open_end(message: Option<&mut Message>) -> Result<String, String> {
    let message = message.ok_or_else(|| no_end("the conversation is empty"))?;
    let content = message.0.get_mut("content").filter(|content| !content.is_null());
    let text = match content.ok_or_else(|| no_end("the last message has no `content`"))? {
        Value::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        content => Some(content),
    };
    match text {
        Some(Value::String(text)) => {
            let before = text.clone();
            text.push_str(END);
            Ok(before)
        }
        _ => Err(no_end("the last message has no text")),
    }
}

fn cut_at_end(rendered: &str, last: &str) -> Result<String, String> {
    let mark = END.trim_end();
    let Some(at) = rendered.rfind(mark).filter(|_| rendered.contains(last.trim())) else {
        return Err(no_end("the template does not write the last message as it is"));
    };
    let text = &rendered[..at];
    // A template that trims the message trims the mark's blank, too.
    Ok(if rendered[at..].starts_with(END) { text } else { text.trim_end() }.to_owned())
}

fn no_end(problem: &str) -> String {
    format!("the last message cannot be continued: {problem}")
}

#[cfg(feature = "chat-template")]
fn compile(name: &str, template: &str, special_tokens: &SpecialTokens) -> Result<Box<dyn Engine>> {
    let jinja = jinja::compile(template, special_tokens);
    Ok(Box::new(jinja.map_err(|problem| refused(name, problem))?))
}

#[cfg(not(feature = "chat-template"))]
fn compile(
    _name: &str,
    _template: &str,
    _special_tokens: &SpecialTokens,
) -> Result<Box<dyn Engine>> {
    Err(Error::not_built("a chat template", "chat-template"))
}

#[cfg(test)]
#[cfg(feature = "chat-template")]
mod goldens;
#[cfg(test)]
#[cfg(feature = "chat-template")]
mod tests;
