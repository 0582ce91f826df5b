//! What the program does differently from what a model's files say.

use std::fmt::{self, Display};

/// Sentences for the person who loads a model: a key that is not obeyed, a file that cannot be read,
/// a contradiction and how it was resolved. Each is there once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Warnings(Vec<String>);

impl Warnings {
    /// Adds a sentence, unless it is there already.
    pub fn push(&mut self, warning: impl Display) {
        let warning = warning.to_string();
        if !self.0.contains(&warning) {
            self.0.push(warning);
        }
    }

    /// Adds all of another list.
    pub fn extend(&mut self, other: Self) {
        other.0.into_iter().for_each(|warning| self.push(warning));
    }

    /// The sentences, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Display for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|warning| writeln!(f, "{warning}"))
    }
}
