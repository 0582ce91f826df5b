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
//!
//! Stop strings are looked for in what the model reads: they may be special tokens, which the text
//! leaves out, and may begin in the prompt.

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
    /// The last token of the prompt, until there is text, where stop strings are looked for.
    before: Option<u32>,
}

impl<'a> TextStream<'a> {
    /// The empty text after a prompt. It ends where one of the stop strings begins that ends in a
    /// token of the text.
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`] if the tokenizer cannot decode the prompt's end.
    pub fn new(tokenizer: &'a Tokenizer, stop_strings: &[String], prompt: &[u32]) -> Result<Self> {
        let mut stops = Stops::new(stop_strings);
        // With a token to spare: a decoder may drop the space that begins the first.
        let longest = stop_strings.iter().map(String::len).max().unwrap_or(0);
        let end = &prompt[prompt.len().saturating_sub(longest)..];
        if !end.is_empty() {
            stops.hold(&tokenizer.decode(end, false)?);
        }
        let before = end.last().copied();
        Ok(Self { tokenizer, window: Vec::new(), border: 0, emitted: 0, held: 0, stops, before })
    }

    /// Adds a token.
    ///
    /// Text that may be the beginning of a stop string waits for the next token. After a stop
    /// string nothing more is added.
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`] if the tokenizer cannot decode.
    pub fn push(&mut self, token: u32) -> Result<Step> {
        if !self.tokenizer.has_text(token) {
            let written = self.tokenizer.token(token).unwrap_or_default();
            return Ok(self.stops.pass(&written, Kind::LeftOut));
        }
        if self.stops.stopped {
            return Ok(Step { text: String::new(), stopped: true });
        }
        self.window.push(token);
        let text = self.tokenizer.decode(&self.window, true)?;
        let settled = text.trim_end_matches(REPLACEMENT).len();
        if settled > 0 && self.drops_a_blank(&text)? {
            let step = self.stops.pass(" ", Kind::LeftOut);
            if step.stopped {
                return Ok(step);
            }
        }
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
        Ok(self.stops.pass(&new, Kind::Text))
    }

    /// Ends the text: what was held back, unless a stop string came up.
    #[must_use]
    pub fn finish(mut self) -> String {
        let rest: String = std::iter::repeat_n(REPLACEMENT, self.held).collect();
        let mut text = self.stops.pass(&rest, Kind::Text).text;
        text.push_str(&self.stops.take(self.stops.held.len()));
        text
    }

    /// Whether a decoder drops the blank that begins the text, although it is not the first that the
    /// model reads.
    fn drops_a_blank(&mut self, text: &str) -> Result<bool> {
        let Some(before) = self.before.take() else { return Ok(false) };
        let alone = self.tokenizer.decode(&[before], false)?;
        let read = self.tokenizer.decode(&[&[before], self.window.as_slice()].concat(), false)?;
        let after = read.strip_prefix(alone.as_str()).and_then(|after| after.strip_prefix(' '));
        Ok(after == Some(text))
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

/// What a character that the model read is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Part of the text.
    Text,
    /// What a stop string may contain beside the text: the prompt, special tokens and the blank that a
    /// decoder drops at the beginning.
    LeftOut,
}

/// The search for stop strings.
#[derive(Debug)]
struct Stops {
    strings: Vec<String>,
    /// What may be the beginning of a stop string.
    held: String,
    /// What each of its characters is.
    kinds: Vec<Kind>,
    stopped: bool,
}

impl Stops {
    fn new(strings: &[String]) -> Self {
        let strings = strings.to_vec();
        Self { strings, held: String::new(), kinds: Vec::new(), stopped: false }
    }

    /// Begins with what was read before the text.
    fn hold(&mut self, read: &str) {
        self.append(read, Kind::LeftOut);
        self.take(self.held.len() - self.beginning_len());
    }

    /// Hands on what can no longer be part of a stop string.
    fn pass(&mut self, new: &str, kind: Kind) -> Step {
        if self.stopped {
            return Step { text: String::new(), stopped: true };
        }
        let searched = self.held.len();
        self.append(new, kind);
        let found = self.strings.iter().filter_map(|stop| self.find(stop, searched)).min();
        self.stopped = found.is_some();
        let certain = found.unwrap_or_else(|| self.held.len() - self.beginning_len());
        let text = self.take(certain);
        if self.stopped {
            self.take(self.held.len());
        }
        Step { text, stopped: self.stopped }
    }

    fn append(&mut self, new: &str, kind: Kind) {
        self.held.push_str(new);
        self.kinds.extend(new.chars().map(|_| kind));
    }

    /// Where a stop string begins that ends after the bytes that were `searched` before.
    fn find(&self, stop: &str, searched: usize) -> Option<usize> {
        let unsearched = from_boundary(&self.held, (searched + 1).saturating_sub(stop.len()));
        let start = self.held.len() - unsearched.len();
        unsearched.find(stop).map(|at| start + at)
    }

    /// The longest end of what is held that begins a stop string.
    fn beginning_len(&self) -> usize {
        let begins = |stop: &String, end: &str| stop.len() > end.len() && stop.starts_with(end);
        let begins_a_stop = |end: &&str| self.strings.iter().any(|stop| begins(stop, end));
        let mut ends = self.held.char_indices().map(|(start, _)| &self.held[start..]);
        ends.find(begins_a_stop).map_or(0, str::len)
    }

    /// Drops the first bytes; returns the text among them.
    fn take(&mut self, bytes: usize) -> String {
        let rest = self.held.split_off(bytes);
        let taken = std::mem::replace(&mut self.held, rest);
        let kinds = self.kinds.drain(..taken.chars().count());
        let text = taken.chars().zip(kinds).filter(|(_, kind)| *kind == Kind::Text);
        text.map(|(character, _)| character).collect()
    }
}

#[cfg(test)]
#[cfg(feature = "tokenizer")]
mod tests;
