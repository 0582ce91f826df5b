//! The command line of a conversation.

use std::path::PathBuf;

use serde_json::Value;

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
}

impl TemplateArgs {
    /// Whether the prompt has to go through the chat template.
    pub(crate) fn is_given(&self) -> bool {
        self.system.is_some() || !self.template_arg.is_empty() || self.tools.is_some()
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
