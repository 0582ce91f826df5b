//! The environment variables the program reads.

use moexperts::inspect::{self, Variable, VariableValue};

use crate::LOG_VARIABLE;

/// A line a variable: its value, what it does, and its default.
pub(super) fn variables() -> String {
    let own = "what is logged to standard error, as moexperts=debug; warn";
    let own = Variable::read(LOG_VARIABLE, own);
    let line = |Variable { name, meaning, value }| {
        let value = match value {
            VariableValue::NotSet => "not set".to_owned(),
            VariableValue::Secret => "set, not shown".to_owned(),
            VariableValue::Text(text) => format!("`{text}`"),
        };
        (name, format!("{value}: {meaning}"))
    };
    super::table(inspect::environment().into_iter().chain([own]).map(line))
}
