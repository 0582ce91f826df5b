//! The environment variables the program reads.

use moexperts::inspect::{self, Variable, VariableValue};

use crate::LOG_VARIABLE;

/// A line for each variable: its value, what it does, and its default.
pub(super) fn variables() -> String {
    let line = |variable: Variable| {
        let value = match variable.shown() {
            VariableValue::NotSet => "not set".to_owned(),
            VariableValue::Text(text) => format!("`{text}`"),
            _ => "set, not shown".to_owned(),
        };
        (variable.name, format!("{value}: {}", variable.meaning))
    };
    super::table(inspect::environment().into_iter().chain([LOG_VARIABLE]).map(line))
}
