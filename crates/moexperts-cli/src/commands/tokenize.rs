//! `moexperts tokenize`.

use moexperts::{ChatTemplate, Message, Piece, Tokenizer, Warnings, files::ModelFiles};
use moexperts_bench::output::print;
use serde_json::{Value, json};

use super::{conversation::ChatSetup, open_model};
use crate::{args::TokenizeArgs, error::CliError};

pub(super) fn run(args: &TokenizeArgs) -> Result<(), CliError> {
    let (setup, prompt) = ChatSetup::with_text(&args.prompt)?;
    let files = open_model(&args.source)?;
    let mut warnings = Warnings::default();
    let pieces = pieces(&files, setup, prompt, args.prompt.is_chat(), &mut warnings);
    for warning in warnings.iter() {
        tracing::warn!("{warning}");
    }
    let (text, pieces) = pieces?;
    let shown = match args.json {
        true => format!("{:#}\n", json(&text, &pieces)),
        false => lines(&pieces),
    };
    Ok(print(&shown)?)
}

/// The pieces of a text, or of a conversation as the template writes it.
fn pieces(
    files: &ModelFiles,
    ChatSetup { mut messages, options, .. }: ChatSetup,
    text: Option<String>,
    is_chat: bool,
    warnings: &mut Warnings,
) -> Result<(String, Vec<Piece>), CliError> {
    let origin = || files.origin.clone();
    let tokenizer = Tokenizer::read(files, warnings)?;
    let tokenizer = tokenizer.ok_or_else(|| CliError::NoTokenizer { origin: origin() })?;
    match text {
        Some(text) if !is_chat => {
            let pieces = tokenizer.pieces(&text, true)?;
            return Ok((text, pieces));
        }
        Some(text) => messages.push(Message::text("user", text)),
        None => {}
    }
    let template = ChatTemplate::read(files, warnings)?;
    let template = template.ok_or_else(|| CliError::NoChatTemplate { origin: origin() })?;
    let text = template.render(&messages, &options)?;
    // The template writes the special tokens itself.
    let pieces = tokenizer.pieces(&text, false)?;
    Ok((text, pieces))
}

/// A line for each token: its id, its piece, and its text if that differs.
fn lines(pieces: &[Piece]) -> String {
    let line = |Piece { id, token, text, .. }: &Piece| match token == text {
        true => format!("{id:>8}  {token}\n"),
        false => format!("{id:>8}  {token}  {text:?}\n"),
    };
    pieces.iter().map(line).collect()
}

fn json(text: &str, pieces: &[Piece]) -> Value {
    let piece = |Piece { id, token, text, bytes, special, .. }: &Piece| {
        json!({
            "id": id, "token": token, "text": text, "bytes": [bytes.start, bytes.end],
            "special": special,
        })
    };
    json!({ "text": text, "tokens": pieces.iter().map(piece).collect::<Value>() })
}
