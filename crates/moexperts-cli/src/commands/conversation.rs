//! Conversations and tools from files and flags.

use std::{
    fs,
    io::{IsTerminal as _, Read as _, stdin},
    path::Path,
};

use moexperts::{ChatOptions, Error, Message};
use serde_json::Value;

use crate::{
    args::{PromptArgs, TemplateArgs},
    error::CliError,
};

const SYSTEM: &str = "system";

/// What was said before the prompt, and what the template is given beside it.
#[derive(Debug, Default)]
pub(super) struct ChatSetup {
    pub(super) messages: Vec<Message>,
    pub(super) options: ChatOptions,
}

impl ChatSetup {
    /// Reads a conversation, and the text that continues it: none if that is given by no argument
    /// beside a conversation.
    pub(super) fn with_text(args: &PromptArgs) -> Result<(Self, Option<String>), CliError> {
        let setup = Self::read(args.messages.as_deref(), &args.template)?;
        let text = match (&args.text, &args.messages) {
            (None, Some(_)) => None,
            (text, _) => Some(read_text(text.as_deref())?),
        };
        Ok((setup, text))
    }

    /// Reads the files that the command line names; `-` is standard input.
    pub(super) fn read(messages: Option<&Path>, args: &TemplateArgs) -> Result<Self, CliError> {
        let (mut said, mut tools) = match messages {
            Some(file) => conversation(file)?,
            None => (Vec::new(), None),
        };
        if let Some(file) = &args.tools {
            tools = Some(listed("tools", file, read_json(file)?)?);
        }
        if let Some(system) = &args.system {
            if let (Some(file), Some(first)) = (messages, said.first())
                && first.role() == Some(SYSTEM)
            {
                return Err(refused(file, "has a system message already, and --system gives one"));
            }
            said.insert(0, Message::text(SYSTEM, system));
        }
        let mut options = ChatOptions::new().tools(tools);
        for (key, value) in &args.template_arg {
            options = options.template_arg(key, value.clone());
        }
        Ok(Self { messages: said, options })
    }
}

/// The text of a command: its argument, or else standard input less a last line break.
fn read_text(argument: Option<&str>) -> Result<String, CliError> {
    match argument {
        Some("-") => {}
        Some(prompt) => return Ok(prompt.to_owned()),
        None if stdin().is_terminal() => return Err(CliError::NoPrompt),
        None => {}
    }
    let mut text = String::new();
    stdin().read_to_string(&mut text).map_err(CliError::Input)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let prompt = line.strip_suffix('\r').unwrap_or(line);
    if prompt.is_empty() { Err(CliError::NoPrompt) } else { Ok(prompt.to_owned()) }
}

/// The messages of a file, and the tools if it has any.
fn conversation(file: &Path) -> Result<(Vec<Message>, Option<Vec<Value>>), CliError> {
    let mut json = read_json(file)?;
    let tools = json.get_mut("tools").map(Value::take).filter(|tools| !tools.is_null());
    let tools = tools.map(|tools| listed("tools", file, tools)).transpose()?;
    let message = |(index, message): (usize, Value)| {
        serde_json::from_value(message)
            .map_err(|error| refused(file, format!("message {}: {error}", index + 1)))
    };
    let messages = listed("messages", file, json)?.into_iter().enumerate().map(message);
    Ok((messages.collect::<Result<_, _>>()?, tools))
}

/// A list of objects, or the one under `key` of an object.
fn listed(key: &str, file: &Path, json: Value) -> Result<Vec<Value>, CliError> {
    let list = match json {
        Value::Object(mut object) => object.remove(key).unwrap_or_default(),
        other => other,
    };
    match list {
        Value::Array(list) if list.iter().all(Value::is_object) => Ok(list),
        _ => Err(refused(file, format!("expected a list of {key}, or an object with `{key}`"))),
    }
}

fn read_json(file: &Path) -> Result<Value, CliError> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        stdin().read_to_string(&mut text).map_err(CliError::Input)?;
        text
    } else {
        fs::read_to_string(file)
            .map_err(|source| CliError::Model(Error::Io { path: file.to_owned(), source }))?
    };
    // Editors on Windows write a byte-order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    serde_json::from_str(text).map_err(|error| refused(file, format!("broken JSON: {error}")))
}

fn refused(file: &Path, problem: impl Into<String>) -> CliError {
    let file = match file == Path::new("-") {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    };
    CliError::Conversation { file, problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    fn read(json: &str, args: &TemplateArgs) -> Result<ChatSetup, CliError> {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("conversation.json");
        fs::write(&file, json).unwrap();
        ChatSetup::read(Some(&file), args)
    }

    /// What is wrong with a file, without its name.
    fn problem(json: &str) -> String {
        let error = read(json, &TemplateArgs::default()).unwrap_err().to_string();
        error.split_once("conversation.json: ").unwrap().1.to_owned()
    }

    #[test]
    fn a_conversation_is_a_list_or_an_object_with_one() {
        let hello = Message::text("user", "Hello");
        for json in [
            r#"[{"role": "user", "content": "Hello"}]"#,
            "\u{feff}[{\"role\": \"user\",\r\n\"content\": \"Hello\"}]",
            r#"{"model": "any", "messages": [{"role": "user", "content": "Hello"}]}"#,
        ] {
            let conversation = read(json, &TemplateArgs::default()).unwrap();
            assert_eq!(conversation.messages, std::slice::from_ref(&hello));
            assert_eq!(conversation.options, ChatOptions::new());
        }
    }

    #[test]
    fn tools_and_variables_go_to_the_template() {
        let args = TemplateArgs {
            system: Some("Be brief.".to_owned()),
            template_arg: vec![("enable_thinking".to_owned(), json!(false))],
            tools: None,
        };
        let json = r#"{"messages": [], "tools": [{"type": "function"}]}"#;
        let conversation = read(json, &args).unwrap();
        assert_eq!(conversation.messages, [Message::text("system", "Be brief.")]);
        let expected = ChatOptions::new()
            .tools(vec![json!({"type": "function"})])
            .template_arg("enable_thinking", false);
        assert_eq!(conversation.options, expected);
    }

    #[test]
    fn one_system_message_is_enough() {
        let args = TemplateArgs { system: Some("a".to_owned()), ..TemplateArgs::default() };
        let error = read(r#"[{"role": "system", "content": "b"}]"#, &args).unwrap_err();
        assert!(
            error.to_string().ends_with("has a system message already, and --system gives one")
        );
    }

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let expected = "expected a list of messages, or an object with `messages`";
        for json in ["{}", "3", "[3]", r#"{"messages": null}"#] {
            assert_eq!(problem(json), expected, "{json}");
        }
        assert!(problem("[").starts_with("broken JSON: EOF"));
        assert_eq!(
            problem(r#"{"messages": [], "tools": 1}"#),
            "expected a list of tools, or an object with `tools`"
        );
    }
}
