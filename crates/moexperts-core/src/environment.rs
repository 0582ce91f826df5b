//! Environment variables as data: a crate lists those that it reads, and reads them through the list.

use std::{env, ffi::OsString};

/// An environment variable that a crate reads.
///
/// Each crate has one list of them, `VARIABLES`, and reads no other: so `moexperts inspect` shows all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it does, and after a semicolon what holds without it.
    pub meaning: &'static str,
    /// Whether its value must not be shown.
    pub is_secret: bool,
}

/// The value of an environment variable, as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VariableValue {
    /// The variable is not set.
    NotSet,
    /// It is set, and secret.
    Secret,
    /// Its value; what is not UTF-8 is replaced.
    Text(String),
}

impl Variable {
    /// Describes a variable whose value may be shown.
    pub const fn new(name: &'static str, meaning: &'static str) -> Self {
        Self { name, meaning, is_secret: false }
    }

    /// The same variable, as a secret.
    #[must_use]
    pub const fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }

    /// Reads the variable; `None` if it is not set.
    pub fn get(&self) -> Option<OsString> {
        env::var_os(self.name)
    }

    /// Reads a variable that the value of another names, as `$NAME` in a path.
    pub fn get_named(name: &str) -> Option<OsString> {
        env::var_os(name)
    }

    /// Reads the variable to show it.
    pub fn shown(&self) -> VariableValue {
        match self.get() {
            None => VariableValue::NotSet,
            Some(_) if self.is_secret => VariableValue::Secret,
            Some(value) => VariableValue::Text(value.to_string_lossy().into_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Tests may not set variables: cargo sets the first, nothing sets the second.
    const SET: Variable = Variable::new("CARGO_MANIFEST_DIR", "");
    const NOT_SET: Variable = Variable::new("MOEXPERTS_NEVER_SET", "");

    #[test]
    fn the_value_of_a_secret_is_not_shown() {
        let folder = env!("CARGO_MANIFEST_DIR").to_owned();
        assert_eq!(SET.shown(), VariableValue::Text(folder));
        assert_eq!(SET.secret().shown(), VariableValue::Secret);
        assert_eq!(NOT_SET.shown(), VariableValue::NotSet);
        assert_eq!(NOT_SET.secret().shown(), VariableValue::NotSet);
        assert_eq!(NOT_SET.get(), None);
    }
}
