//! Conversations and tools from files and flags.

use std::{
    fs,
    io::{IsTerminal as _, Read as _, stdin},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use moexperts::{ChatOptions, Error, Image, Message};
use moexperts_bench::output::note;
use serde_json::{Map, Value};

use crate::{
    args::{PromptArgs, TemplateArgs},
    error::CliError,
};

const SYSTEM: &str = "system";
const MESSAGES: &str = "messages";
/// Variables of the template, as servers name them.
const TEMPLATE_ARGS: &str = "chat_template_kwargs";

/// What was said before the prompt, and what the template is given beside it.
#[derive(Debug, Default)]
pub(super) struct ChatSetup {
    pub(super) messages: Vec<Message>,
    pub(super) options: ChatOptions,
    /// The file of the messages, for errors.
    file: String,
}

impl ChatSetup {
    /// Reads a conversation, and the text that continues it: none if that is given by no argument
    /// beside a conversation.
    pub(super) fn with_text(args: &PromptArgs) -> Result<(Self, Option<String>), CliError> {
        let mut setup = Self::read(args.messages.as_deref(), &args.template)?;
        setup.options = setup.options.continue_final_message(args.continue_final_message);
        let text = match (&args.text, &args.messages) {
            (None, Some(_)) => None,
            (text, _) => Some(read_text(text.as_deref())?),
        };
        Ok((setup, text))
    }

    /// Reads the files that the command line names; `-` is standard input.
    pub(super) fn read(messages: Option<&Path>, args: &TemplateArgs) -> Result<Self, CliError> {
        let Written { messages: mut said, mut tools, mut documents, template_args } =
            messages.map(Written::read).transpose()?.unwrap_or_default();
        for (key, file, list) in
            [("tools", &args.tools, &mut tools), ("documents", &args.documents, &mut documents)]
        {
            if let Some(file) = file {
                *list = Some(listed(key, file, read_json(file)?)?);
            }
        }
        if let Some(system) = &args.system {
            if let (Some(file), Some(first)) = (messages, said.first())
                && first.role() == Some(SYSTEM)
            {
                return Err(refused(file, "has a system message already, and --system gives one"));
            }
            said.insert(0, Message::text(SYSTEM, system));
        }
        let options = ChatOptions::new().tools(tools).documents(documents);
        let mut options = options.template_name(args.chat_template.clone());
        for (key, value) in template_args.into_iter().chain(args.template_arg.iter().cloned()) {
            options = options.template_arg(key, value);
        }
        let file = messages.map(name).unwrap_or_default();
        Ok(Self { messages: said, options, file })
    }

    /// The images of the messages, in order, and the rest of `given`: those are the images of the parts
    /// that name none.
    pub(super) fn images(&self, given: Vec<Image>) -> Result<(Vec<Image>, Vec<Image>), CliError> {
        let mut given = given.into_iter();
        let mut images = Vec::new();
        for (index, message) in self.messages.iter().enumerate() {
            let Some(Value::Array(parts)) = message.get("content") else { continue };
            for part in parts {
                let within = |what| format!("{}: the {what} in message {}", self.file, index + 1);
                match PicturePart::of(part) {
                    Some(PicturePart::Image(source)) => {
                        images.push(read_image(&within("image"), source)?);
                    }
                    Some(PicturePart::Given) => images.extend(given.next()),
                    Some(PicturePart::Video(source)) => {
                        let problem = format!("`{source}` is not read, give its frames: --frame");
                        return Err(no_picture(&within("video"), problem));
                    }
                    None => {}
                }
            }
        }
        Ok((images, given.collect()))
    }
}

/// A part of a message that is a picture, and what it names as its source.
enum PicturePart<'a> {
    Image(&'a str),
    Video(&'a str),
    /// An image without a source.
    Given,
}

impl<'a> PicturePart<'a> {
    /// Reads the dialects of transformers (`image`, `url`, `path` or `base64` beside the type) and of
    /// servers (`image_url`).
    fn of(part: &'a Value) -> Option<Self> {
        let source = |keys: &[&str]| {
            let value = keys.iter().find_map(|key| part.get(key))?;
            value.get("url").unwrap_or(value).as_str()
        };
        match part.get("type")?.as_str()? {
            "image" => {
                let source = source(&["image", "url", "path", "base64"]);
                Some(source.map_or(Self::Given, Self::Image))
            }
            "image_url" => Some(source(&["image_url"]).map_or(Self::Given, Self::Image)),
            "video" => source(&["video", "url", "path"]).map(Self::Video),
            "video_url" => source(&["video_url"]).map(Self::Video),
            _ => None,
        }
    }
}

fn no_picture(name: &str, problem: String) -> CliError {
    CliError::Picture(Error::Image { name: name.to_owned(), problem })
}

/// Reads an image that a conversation names: a file, its bytes in base64, or a `data:` address.
fn read_image(name: &str, source: &str) -> Result<Image, CliError> {
    let refused = |problem: String| no_picture(name, problem);
    if source.starts_with("http://") || source.starts_with("https://") {
        return Err(refused(format!(
            "`{source}` is not fetched, expected a file or a `data:` address: download it and name \
             the file"
        )));
    }
    let decode = |text: &str| STANDARD.decode(text.trim());
    if let Some(data) = source.strip_prefix("data:") {
        let (_, bytes) = data
            .split_once(";base64,")
            .ok_or_else(|| refused("expected `data:image/TYPE;base64,BYTES`".to_owned()))?;
        let bytes = decode(bytes).map_err(|error| refused(format!("broken base64: {error}")))?;
        return Image::decode(name, &bytes).map_err(CliError::Picture);
    }
    let path = Path::new(source.strip_prefix("file://").unwrap_or(source));
    if !path.is_file()
        && let Ok(bytes) = decode(source)
        && let Ok(image) = Image::decode(name, &bytes)
    {
        return Ok(image);
    }
    Image::open(path).map_err(CliError::Picture)
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

/// What a file with a conversation says.
#[derive(Debug, Default)]
struct Written {
    messages: Vec<Message>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    template_args: Map<String, Value>,
}

impl Written {
    /// Reads a list of messages, or the body of a request to a server.
    fn read(file: &Path) -> Result<Self, CliError> {
        let mut body = match read_json(file)? {
            Value::Object(body) => body,
            messages => Map::from_iter([(MESSAGES.to_owned(), messages)]),
        };
        let mut list = |key: &str| {
            let list = body.remove(key).filter(|list| !list.is_null());
            list.map(|list| listed(key, file, list)).transpose()
        };
        let (tools, documents, messages) = (list("tools")?, list("documents")?, list(MESSAGES)?);
        let messages = messages.ok_or_else(|| not_listed(MESSAGES, file))?;
        let message = |(index, message): (usize, Value)| {
            serde_json::from_value(message)
                .map_err(|error| refused(file, format!("message {}: {error}", index + 1)))
        };
        let messages = messages.into_iter().enumerate().map(message).collect::<Result<_, _>>()?;
        let template_args = match body.remove(TEMPLATE_ARGS).unwrap_or_default() {
            Value::Object(args) => args,
            Value::Null => Map::new(),
            _ => return Err(refused(file, format!("expected an object as `{TEMPLATE_ARGS}`"))),
        };
        for key in body.keys() {
            note(format_args!(
                "{}: key `{key}` is not read, flags of the command say how to generate",
                name(file)
            ));
        }
        Ok(Self { messages, tools, documents, template_args })
    }
}

/// A list of objects, or the one under `key` of an object.
fn listed(key: &str, file: &Path, json: Value) -> Result<Vec<Value>, CliError> {
    let list = match json {
        Value::Object(mut object) => object.remove(key).unwrap_or_default(),
        other => other,
    };
    match list {
        Value::Array(list) if list.iter().all(Value::is_object) => Ok(list),
        _ => Err(not_listed(key, file)),
    }
}

fn not_listed(key: &str, file: &Path) -> CliError {
    refused(file, format!("expected a list of {key}, or an object with `{key}`"))
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
    CliError::Conversation { file: name(file), problem: problem.into() }
}

fn name(file: &Path) -> String {
    match file == Path::new("-") {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    }
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
            ..TemplateArgs::default()
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
