//! Skips that are seen, and that fail where the hardware has to be there.

use std::{
    env,
    io::{self, Write},
};

/// The environment variable that names what a machine must have: `avx512,cuda`.
pub const REQUIRE_VARIABLE: &str = "MOEXPERTS_REQUIRE";

/// Says `skipped: no {what}`, past the output capture of the test harness.
///
/// # Panics
/// If `MOEXPERTS_REQUIRE` names `what`.
pub fn skipped(what: &str) {
    let required = env::var(REQUIRE_VARIABLE).unwrap_or_default();
    assert!(!names(&required, what), "{REQUIRE_VARIABLE} names `{what}`, which is missing here");
    // Nobody to tell if stderr is closed.
    let _ = writeln!(io::stderr(), "skipped: no {what}");
}

/// Whether a list like `avx512, cuda` has this word.
fn names(list: &str, what: &str) -> bool {
    list.split(',').any(|word| word.trim() == what)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_list_names_whole_words() {
        assert!(names("cuda, avx512", "avx512") && names("avx512", "avx512"));
        assert!(!names("avx512bf16,cuda", "avx512") && !names("", "avx512"));
    }
}
