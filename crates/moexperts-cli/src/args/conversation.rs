//! The command line of a conversation.

use std::path::PathBuf;

use serde_json::Value;

/// What the model reads: a text, or a conversation.
#[derive(Debug, clap::Args)]
pub(crate) struct PromptArgs {
    /// The text; standard input, less a last line break, if absent or `-`.
    #[arg(value_name = "PROMPT")]
    pub(crate) text: Option<String>,

    /// Puts the text as a user's message into the model's chat template; off by default.
    /// The options of a conversation turn it on.
    #[arg(long)]
    chat: bool,

    /// A JSON file with a conversation, or `-` for standard input: a list of messages with `role` and
    /// `content`, or an object that has one as `messages`, as the APIs of servers take them. A text
    /// goes after it as the user's next message. Images are files or `data:` addresses, or else those
    /// of --image.
    #[arg(long, value_name = "FILE.json|-", help_heading = "Conversation")]
    pub(crate) messages: Option<PathBuf>,

    /// Continues the last message instead of answering it; off by default.
    #[arg(long, help_heading = "Conversation")]
    pub(crate) continue_final_message: bool,

    #[command(flatten)]
    pub(crate) template: TemplateArgs,
}

impl PromptArgs {
    /// Whether it goes through the model's chat template.
    pub(crate) fn is_chat(&self) -> bool {
        let PromptArgs { text: _, chat, messages, continue_final_message, template } = self;
        *chat || messages.is_some() || *continue_final_message || template.is_given()
    }
}

/// What goes into the model's chat template beside the messages.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Conversation")]
pub(crate) struct TemplateArgs {
    /// What the model is told before the conversation, as the message of the role `system`.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// A variable of the chat template; a value that is not JSON is text. May be given several times:
    /// --template-arg enable_thinking=false.
    #[arg(long, value_name = "KEY=VALUE", value_parser = template_arg)]
    pub(crate) template_arg: Vec<(String, Value)>,

    /// A JSON file with the tools that the model may call, a list of functions as the APIs of servers
    /// take them. A call comes back as text; no tool is run.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) tools: Option<PathBuf>,

    /// A JSON file with the documents that the model may quote, a list of objects with `title` and
    /// `text`.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) documents: Option<PathBuf>,

    /// Which of the model's chat templates writes the conversation; `tool_use` for one with tools if
    /// the model has it, else `default`.
    #[arg(long, value_name = "NAME")]
    pub(crate) chat_template: Option<String>,
}

impl TemplateArgs {
    /// Whether the prompt has to go through the chat template.
    pub(crate) fn is_given(&self) -> bool {
        let TemplateArgs { system, template_arg, tools, documents, chat_template } = self;
        let files = [tools, documents].into_iter().any(Option::is_some);
        system.is_some() || !template_arg.is_empty() || files || chat_template.is_some()
    }
}

fn template_arg(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            Ok((key.to_owned(), value))
        }
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_json_or_text() {
        for (text, key, value) in [
            ("enable_thinking=false", "enable_thinking", json!(false)),
            ("n=1.5", "n", json!(1.5)),
            ("names=[\"a\", 2]", "names", json!(["a", 2])),
            ("effort=high", "effort", json!("high")),
            ("quoted=\"7\"", "quoted", json!("7")),
            ("equation=a=b", "equation", json!("a=b")),
            ("empty=", "empty", json!("")),
        ] {
            assert_eq!(template_arg(text).unwrap(), (key.to_owned(), value), "{text}");
        }
        for text in ["enable_thinking", "=false", ""] {
            assert_eq!(template_arg(text).unwrap_err(), "expected KEY=VALUE", "{text}");
        }
    }
}
