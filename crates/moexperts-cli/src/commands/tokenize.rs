//! `moexperts tokenize`.

use moexperts::{LanguageModel, Message, Tokenizer};
use moexperts_bench::output::print;
use serde_json::{Value, json};

use super::{check_tokenizer, conversation::ChatSetup, encode_messages, load_model};
use crate::{args::TokenizeArgs, error::CliError};

pub(super) fn run(args: &TokenizeArgs) -> Result<(), CliError> {
    let (setup, prompt) = ChatSetup::with_text(&args.prompt)?;
    let model = load_model(args.model.load.device.find()?, &args.model)?;
    check_tokenizer(&model)?;
    let Some(tokenizer) = model.tokenizer() else { return Ok(()) };
    let tokens = tokens(&model, setup, prompt, args)?;
    let shown = match args.json {
        true => format!("{:#}\n", json(tokenizer, &tokens)?),
        false => lines(tokenizer, &tokens)?,
    };
    Ok(print(&shown)?)
}

/// The tokens of a text, or of a conversation as the template writes it.
fn tokens(
    model: &LanguageModel,
    ChatSetup { mut messages, options }: ChatSetup,
    prompt: Option<String>,
    args: &TokenizeArgs,
) -> Result<Vec<u32>, CliError> {
    match prompt {
        Some(text) if !args.prompt.is_chat() => return Ok(model.encode(&text)?),
        Some(text) => messages.push(Message::text("user", text)),
        None => {}
    }
    Ok(encode_messages(model, &messages, &[], &options)?.tokens().to_vec())
}

/// A token as the vocabulary writes it, and the text it stands for where it is alone.
fn piece(tokenizer: &Tokenizer, id: u32) -> Result<(String, String), CliError> {
    let text = tokenizer.decode(&[id], false)?;
    Ok((tokenizer.token(id).unwrap_or_default(), text))
}

/// A line for each token: its id, its piece, and its text if that differs.
fn lines(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<String, CliError> {
    let mut lines = String::new();
    for &id in tokens {
        let (piece, text) = piece(tokenizer, id)?;
        lines.push_str(&match piece == text {
            true => format!("{id:>8}  {piece}\n"),
            false => format!("{id:>8}  {piece}  {text:?}\n"),
        });
    }
    Ok(lines)
}

fn json(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<Value, CliError> {
    let mut list = Vec::new();
    for &id in tokens {
        let (piece, text) = piece(tokenizer, id)?;
        list.push(json!({ "id": id, "piece": piece, "text": text }));
    }
    Ok(json!({ "text": tokenizer.decode(tokens, false)?, "tokens": list }))
}
