//! From tokens to text, as they come.
//!
//! A token need not be whole characters, and what it decodes to can depend on its neighbours, so
//! the text is always read from a *window*: the tokens since the last border between characters
//! and those that made the text before it. The window's text grows at its end; what was already
//! handed on is skipped. [`char::REPLACEMENT_CHARACTER`] at the end may still become a character
//! and is held back.
//!
//! Invariant: `emitted` bytes of the window's text were handed on, and after them come `held`
//! replacement characters and nothing else.

use crate::{error::Result, tokenizer::Tokenizer};

const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Tokens at which a window is halved that shows no border between characters: random bytes, a row
/// of genuine replacement characters, or tokens that all end within a character. Well above the 4
/// tokens that one character can take.
const LONGEST_WINDOW: usize = 64;

/// What one token added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Text that is settled; often empty.
    pub text: String,
    /// Whether a stop string came up; nothing follows.
    pub stopped: bool,
}

/// The text of a growing sequence of tokens.
///
/// Special tokens are left out. All texts and that of [`TextStream::finish`] together are
/// `tokenizer.decode(tokens, true)` up to the first stop string. One case differs: a tokenizer
/// that writes bytes as tokens like `<0xE2>` takes a whole row of them for damaged where the last
/// character is cut off; here the characters before it stand.
///
/// The work per token does not grow with the sequence.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    window: Vec<u32>,
    /// Tokens of the window up to the last border.
    border: usize,
    emitted: usize,
    held: usize,
    stops: Stops,
}

impl<'a> TextStream<'a> {
    /// An empty text that ends where one of the stop strings begins.
    pub fn new(tokenizer: &'a Tokenizer, stop_strings: &[String]) -> Self {
        Self {
            tokenizer,
            window: Vec::new(),
            border: 0,
            emitted: 0,
            held: 0,
            stops: Stops { strings: stop_strings.to_vec(), held: String::new(), stopped: false },
        }
    }

    /// Adds a token.
    ///
    /// Text that may be the beginning of a stop string waits for the next token. After a stop
    /// string nothing more is added.
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`] if the tokenizer cannot decode.
    pub fn push(&mut self, token: u32) -> Result<Step> {
        if self.stops.stopped || !self.tokenizer.has_text(token) {
            return Ok(Step { text: String::new(), stopped: self.stops.stopped });
        }
        self.window.push(token);
        let text = self.tokenizer.decode(&self.window, true)?;
        let settled = text.trim_end_matches(REPLACEMENT).len();
        let new = from_boundary(&text[..settled], self.emitted);
        self.emitted = self.emitted.max(settled);
        self.held = text.len().saturating_sub(self.emitted) / REPLACEMENT.len_utf8();
        if self.held == 0 && !new.is_empty() {
            self.pass_border()?;
        }
        let mut new = new.to_owned();
        if self.window.len() >= LONGEST_WINDOW {
            let given_up = self.halve()?;
            new.extend(std::iter::repeat_n(REPLACEMENT, given_up));
        }
        Ok(self.stops.pass(&new))
    }

    /// Ends the text: what was held back, unless a stop string came up.
    #[must_use]
    pub fn finish(mut self) -> String {
        let rest: String = std::iter::repeat_n(REPLACEMENT, self.held).collect();
        let mut text = self.stops.pass(&rest).text;
        text.push_str(&self.stops.held);
        text
    }

    /// Drops the tokens before the last border but one.
    ///
    /// Those between the two stay: a decoder treats the beginning of a text differently
    /// (SentencePiece drops its space), and the next token is not the beginning.
    fn pass_border(&mut self) -> Result<()> {
        self.window.drain(..self.border);
        self.border = self.window.len();
        self.emitted = self.tokenizer.decode(&self.window, true)?.len();
        Ok(())
    }

    /// Drops the first half of the window; returns how many replacement characters stood for it.
    fn halve(&mut self) -> Result<usize> {
        self.window.drain(..self.window.len() / 2);
        self.border = 0;
        let text = self.tokenizer.decode(&self.window, true)?;
        let unsettled = text.chars().rev().take_while(|&c| c == REPLACEMENT).count();
        let given_up = self.held.saturating_sub(unsettled);
        self.held -= given_up;
        self.emitted = text.len() - self.held * REPLACEMENT.len_utf8();
        Ok(given_up)
    }
}

/// The text from the first border between characters at or after `start`.
fn from_boundary(text: &str, start: usize) -> &str {
    let start = (start..text.len()).find(|&at| text.is_char_boundary(at));
    start.map_or("", |start| &text[start..])
}

#[derive(Debug)]
struct Stops {
    strings: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

impl Stops {
    /// Hands on what can no longer be part of a stop string.
    fn pass(&mut self, text: &str) -> Step {
        if self.stopped {
            return Step { text: String::new(), stopped: true };
        }
        self.held.push_str(text);
        let found = self.strings.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(start) = found {
            self.stopped = true;
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return Step { text, stopped: true };
        }
        let beginning = self.held.split_off(self.held.len() - self.beginning_len());
        Step { text: std::mem::replace(&mut self.held, beginning), stopped: false }
    }

    /// The longest end of the held text that begins a stop string.
    fn beginning_len(&self) -> usize {
        let begins_a_stop = |end: &&str| self.strings.iter().any(|stop| stop.starts_with(end));
        let mut ends = self.held.char_indices().map(|(start, _)| &self.held[start..]);
        ends.find(begins_a_stop).map_or(0, str::len)
    }
}

#[cfg(test)]
#[cfg(feature = "tokenizer")]
mod tests;
