//! `moexperts tokenize`.

use moexperts::{LanguageModel, Message, Piece};
use moexperts_bench::output::print;
use serde_json::{Value, json};

use super::{check_chat_template, check_tokenizer, conversation::ChatSetup, load_model};
use crate::{args::TokenizeArgs, error::CliError};

pub(super) fn run(args: &TokenizeArgs) -> Result<(), CliError> {
    let (setup, prompt) = ChatSetup::with_text(&args.prompt)?;
    let model = load_model(args.model.load.device.find()?, &args.model)?;
    let (text, pieces) = pieces(&model, setup, prompt, args.prompt.is_chat())?;
    let shown = match args.json {
        true => format!("{:#}\n", json(&text, &pieces)),
        false => lines(&pieces),
    };
    Ok(print(&shown)?)
}

/// The pieces of a text, or of a conversation as the template writes it.
fn pieces(
    model: &LanguageModel,
    ChatSetup { mut messages, options }: ChatSetup,
    text: Option<String>,
    is_chat: bool,
) -> Result<(String, Vec<Piece>), CliError> {
    let tokenizer = check_tokenizer(model)?;
    match text {
        Some(text) if !is_chat => {
            let pieces = tokenizer.pieces(&text, true)?;
            return Ok((text, pieces));
        }
        Some(text) => messages.push(Message::text("user", text)),
        None => {}
    }
    let text = check_chat_template(model)?.render(&messages, &options)?;
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
