//! Skips that are seen and counted, and that fail where the hardware has to be there.

use std::{
    env,
    io::{self, Write},
    thread,
};

/// The environment variable that lists what a machine must have: `cuda,nvrtc,avx512`.
pub const REQUIRE_VARIABLE: &str = "MOEXPERTS_REQUIRE";

/// Called by a test that lacks its hardware, before it returns: writes one line
///
/// ```text
/// skipped: no cuda (in attention::long_prompts_agree)
/// ```
///
/// to stderr, past the output capture of the test harness, so that `grep -c '^skipped: '` over the
/// output of a test run counts the skips. The name is that of the thread, which is the test.
///
/// # Panics
/// If `MOEXPERTS_REQUIRE` lists `what`: a machine that is there to test something must not skip it.
pub fn skipped(what: &str) {
    let thread = thread::current();
    let line = line(&env::var(REQUIRE_VARIABLE).unwrap_or_default(), what, thread.name());
    // `eprintln!` would be captured with the output of a test that passes. One write, so that lines
    // of tests on other threads stay apart. A closed stderr is no reason to fail.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The line of a skip.
///
/// # Panics
/// If `required` lists `what`.
fn line(required: &str, what: &str, test: Option<&str>) -> String {
    let is_required = required.split(',').any(|word| word.trim() == what);
    assert!(!is_required, "{REQUIRE_VARIABLE} lists `{what}`, which is missing here");
    match test {
        Some(test) => format!("skipped: no {what} (in {test})\n"),
        None => format!("skipped: no {what}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_skip_is_one_line_that_names_the_test() {
        assert_eq!(line("", "cuda", Some("a::b")), "skipped: no cuda (in a::b)\n");
        assert_eq!(line("avx512bf16, cuda", "avx512", None), "skipped: no avx512\n");
    }

    #[test]
    #[should_panic(expected = "MOEXPERTS_REQUIRE lists `avx512`, which is missing here")]
    fn a_required_skip_fails() {
        line("cuda, avx512", "avx512", Some("a::b"));
    }
}
