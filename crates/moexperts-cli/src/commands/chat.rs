//! `moexperts chat`.
//!
//! The model's words go to standard output, everything else to standard error.

use std::{
    env,
    io::{IsTerminal as _, Lines, StdinLock, stdin},
    path::PathBuf,
};

use moexperts::{
    AnyDevice, ChatOptions, Error, ExpertsImplementation, FinishReason, GenerateOptions,
    LanguageModel, Message, Prompt, Session, Visual,
};
use moexperts_bench::{
    interrupts::Interrupts,
    output::{note, print},
};
use rustyline::error::ReadlineError;

use super::{
    check_tokenizer, compile, conversation::ChatSetup, encode, encode_messages, load_model,
    open_images, prepare_images,
};
use crate::{
    args::ChatArgs,
    error::{CliError, report},
    summary::{ended, executed},
};

/// The most tokens of an answer where neither the user nor the model says: the library's limit
/// would cut most answers short.
const MAX_NEW_TOKENS: usize = 512;

const HELP: &str = "\
/image FILE    shows the model an image with your next message; several are shown in order
/experts       shows the experts backend
/experts NAME  switches it, from the next token on; NAME or KEY=NAME,KEY=NAME
/reset         forgets the conversation and its images
/help          shows this
/quit          ends, as Ctrl-D does; Ctrl-C stops an answer
";

pub(super) fn run(args: &ChatArgs) -> Result<(), CliError> {
    let setup = ChatSetup::read(args.messages.as_deref(), &args.template)?;
    chat(args, setup, args.model.load.device.find()?)
}

/// - `setup`: what was said before the first line, and how the template is called
fn chat(args: &ChatArgs, setup: ChatSetup, device: AnyDevice) -> Result<(), CliError> {
    let (said, _) = setup.images(Vec::new())?;
    let model = load_model(device, &args.model)?;
    let said = prepare_images(&model, &said)?;
    check_tokenizer(&model)?;
    compile(&model, &args.compile, vec![1], Vec::new())?;
    let mut options = args.generation.options();
    let limit = options.max_new_tokens.or(model.generation_config().max_new_tokens);
    options.max_new_tokens = Some(limit.unwrap_or(MAX_NEW_TOKENS));
    Interrupts::listen()?;

    let mut input = Input::open()?;
    let mut chat = Chat {
        conversation: Conversation::new(&model, &setup.messages, &said),
        setup,
        said,
        shown: Vec::new(),
        session: None,
        model: &model,
        options,
    };
    let (origin, backends) = (model.origin(), chat.backends());
    let device = model.device_name();
    note(format_args!("{origin} on {device}, experts {backends}; /help lists the commands"));
    if let Conversation::Text(_) = chat.conversation {
        if args.messages.is_some() || args.template.is_given() {
            return Err(CliError::NoChatTemplate { origin: origin.to_owned() });
        }
        note("the model has no chat template: your lines are continued as plain text");
    }
    while let Some(line) = input.line()? {
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => break,
            line if line.starts_with('/') => chat.command(line),
            _ => match chat.answer(&line) {
                Err(error @ CliError::Model(_)) => say(&error),
                other => other?,
            },
        }
    }
    Ok(())
}

fn say(error: &CliError) {
    note(report(error, chat_hint(error)));
}

/// What to do about an error that does not end the conversation.
fn chat_hint(error: &CliError) -> Option<String> {
    match error {
        CliError::NoChatTemplate { .. } => Some(
            "moexperts generate --image takes a prompt that has its own placeholders".to_owned(),
        ),
        error => error.hint(),
    }
}

/// A conversation in progress.
struct Chat<'a> {
    model: &'a LanguageModel,
    options: GenerateOptions,
    /// What was said before the first line, and how the template is called.
    setup: ChatSetup,
    /// The images of that.
    said: Vec<Visual>,
    conversation: Conversation,
    /// Images that go with the next message.
    shown: Vec<Visual>,
    /// Keys and values of what was said; made anew if there are none.
    session: Option<Session>,
}

/// What was said so far.
enum Conversation {
    /// By turns, for the model's chat template, and the images of all of them.
    Messages(Vec<Message>, Vec<Visual>),
    /// In one text, for models without a template.
    Text(String),
}

impl Conversation {
    fn new(model: &LanguageModel, messages: &[Message], images: &[Visual]) -> Self {
        match model.chat_template() {
            Some(_) => Self::Messages(messages.to_vec(), images.to_vec()),
            None => Self::Text(String::new()),
        }
    }

    /// Itself with the user's line and images, as a prompt.
    fn with(
        &self,
        model: &LanguageModel,
        line: &str,
        shown: &[Visual],
        options: &ChatOptions,
    ) -> Result<(Self, Prompt), CliError> {
        match self {
            Self::Messages(messages, visuals) => {
                let (mut messages, mut visuals) = (messages.clone(), visuals.clone());
                messages.push(Message::with_visuals("user", shown, line));
                visuals.extend_from_slice(shown);
                let prompt = encode_messages(model, &messages, visuals.clone(), options)?;
                Ok((Self::Messages(messages, visuals), prompt))
            }
            Self::Text(text) => {
                let text = format!("{text}{line}");
                let prompt = encode(model, &text, shown)?;
                Ok((Self::Text(text), prompt))
            }
        }
    }

    fn push_answer(&mut self, answer: &str) {
        match self {
            Self::Messages(messages, _) => messages.push(Message::text("assistant", answer)),
            Self::Text(text) => text.extend([answer, "\n"]),
        }
    }
}

impl Chat<'_> {
    /// Continues the conversation; an error leaves it as it was.
    fn answer(&mut self, line: &str) -> Result<(), CliError> {
        let (mut conversation, prompt) =
            self.conversation.with(self.model, line, &self.shown, &self.setup.options)?;
        let session = match self.session.take() {
            Some(session) => session,
            None => self.model.session(1)?,
        };
        let mut generation = self.model.continue_tokens(session, vec![prompt], &self.options)?;
        let mut answer = String::new();
        let mut finish = None;
        let interrupts = Interrupts::during_work();
        let mut failed = None;
        for event in generation.by_ref() {
            match event {
                Ok(event) => {
                    print(&event.text)?;
                    answer.push_str(&event.text);
                    finish = event.finish.or(finish);
                }
                Err(error) => failed = Some(error),
            }
            if interrupts.stopped() {
                break;
            }
        }
        drop(interrupts);
        print("\n")?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if let Some(reason) = finish.filter(|&reason| reason != FinishReason::EndOfSequence) {
            note(format_args!("(the answer ended: {})", ended(reason)));
        }
        self.session = Some(generation.into_session());
        conversation.push_answer(&answer);
        self.conversation = conversation;
        self.shown.clear();
        Ok(())
    }

    fn command(&mut self, line: &str) {
        let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (command, argument.trim()) {
            ("/image", "") => note("error: /image names no file, expected /image FILE"),
            ("/image", typed) => match self.show(file(typed)) {
                Ok(path) => note(format_args!("{}: goes with your next message", path.display())),
                Err(error) => say(&error),
            },
            ("/experts", "") => note(format_args!("experts: {}", self.backends())),
            ("/experts", name) => match self.switch(name) {
                Ok(()) => note(format_args!("experts: {}", self.backends())),
                Err(error) => note(report(&error, error.hint())),
            },
            ("/reset", "") => {
                self.conversation = Conversation::new(self.model, &self.setup.messages, &self.said);
                self.session = None;
                self.shown.clear();
                note("the conversation is forgotten");
            }
            ("/help", "") => note(HELP),
            _ => note(format_args!(
                "error: `{line}` is no command, expected one of /image FILE, /experts [NAME], /reset, \
                 /help, /quit"
            )),
        }
    }

    fn show(&mut self, path: PathBuf) -> Result<PathBuf, CliError> {
        self.model.require_vision()?;
        if matches!(self.conversation, Conversation::Text(_)) {
            return Err(CliError::NoChatTemplate { origin: self.model.origin().to_owned() });
        }
        self.shown.extend(prepare_images(self.model, &open_images(&[&path])?)?);
        Ok(path)
    }

    fn switch(&self, name: &str) -> Result<(), Error> {
        self.model.set_experts_implementation(name.parse::<ExpertsImplementation>()?)
    }

    fn backends(&self) -> String {
        executed(self.model, self.options.decode_switch)
    }
}

/// The file a user means: what was typed, or else what a shell makes of it, since terminals type
/// a file that is dropped on them with quotes or backslashes.
fn file(typed: &str) -> PathBuf {
    let path = PathBuf::from(typed);
    if path.exists() {
        return path;
    }
    let quoted = ['"', '\''].iter().find_map(|&q| typed.strip_prefix(q)?.strip_suffix(q));
    let plain = quoted.map_or_else(|| without_escapes(typed), str::to_owned);
    match (plain.strip_prefix("~/"), env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => plain.into(),
    }
}

/// Leaves out backslashes before what needs one in a shell, which no letter or digit does.
fn without_escapes(typed: &str) -> String {
    let mut plain = String::new();
    let mut characters = typed.chars().peekable();
    while let Some(character) = characters.next() {
        let escapes = character == '\\' && characters.peek().is_some_and(|c| !c.is_alphanumeric());
        plain.extend(if escapes { characters.next() } else { Some(character) });
    }
    plain
}

/// Where the lines come from.
enum Input {
    /// Edited by the user.
    Terminal(Box<rustyline::DefaultEditor>),
    Pipe(Lines<StdinLock<'static>>),
}

impl Input {
    fn open() -> Result<Self, CliError> {
        if !stdin().is_terminal() {
            return Ok(Self::Pipe(stdin().lines()));
        }
        let editor = rustyline::DefaultEditor::new().map_err(terminal)?;
        Ok(Self::Terminal(Box::new(editor)))
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Result<Option<String>, CliError> {
        let editor = match self {
            Self::Pipe(lines) => return lines.next().transpose().map_err(CliError::Input),
            Self::Terminal(editor) => editor,
        };
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    editor.add_history_entry(&line).map_err(terminal)?;
                    return Ok(Some(line));
                }
                Err(ReadlineError::Interrupted) => note("Ctrl-D or /quit ends"),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(terminal(error)),
            }
        }
    }
}

fn terminal(error: ReadlineError) -> CliError {
    CliError::Terminal(error.into())
}
