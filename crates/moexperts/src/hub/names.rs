//! Which repository ids, revisions and file names are safe to put in a URL and in a path.

use std::fmt::Write as _;

use super::error::HubError;
use crate::checkpoint::index::is_inner_path;

/// The file that every model has, requested first: what the hub says of it, it says of the revision.
pub(super) const CONFIG: &str = "config.json";

/// Refuses what the hub would refuse, and everything that could leave the cache folder.
pub(super) fn check_repo_id(repo_id: &str) -> Result<(), HubError> {
    let parts: Vec<&str> = repo_id.split('/').collect();
    let valid = parts.len() <= 2 && parts.iter().all(|part| is_repo_name(part));
    if valid {
        return Ok(());
    }
    Err(HubError::InvalidId {
        what: "repository id",
        got: repo_id.to_owned(),
        expected: "`name` or `organisation/name` of letters, digits, `-`, `_` and `.`",
    })
}

/// Refuses revisions that no git ref can have or that could leave the cache folder.
pub(super) fn check_revision(revision: &str) -> Result<(), HubError> {
    let odd = |c: char| c.is_control() || c.is_whitespace() || "\\:~^?*[".contains(c);
    if is_inner_path(revision) && !revision.contains(odd) {
        return Ok(());
    }
    Err(HubError::InvalidId {
        what: "revision",
        got: revision.to_owned(),
        expected: "a branch, a tag or a commit hash",
    })
}

/// Whether an answer's `ETag` or commit can name a file.
pub(super) fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether a revision is a full commit hash, which never moves.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Percent-encodes all but the unreserved characters of RFC 3986 and those in `keep`.
pub(super) fn encode(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) {
            out.push(c);
        } else {
            write!(out, "%{byte:02X}").expect("a String takes all writes");
        }
    }
    out
}

/// The hub's rule, as in huggingface_hub's `validate_repo_id`.
fn is_repo_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty()
        && name.len() <= 96
        && name.bytes().all(allowed)
        && !name.contains("..")
        && !name.contains("--")
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_fills_one_url_segment() {
        assert_eq!(encode("refs/pr/1 é", ""), "refs%2Fpr%2F1%20%C3%A9");
        assert_eq!(encode("a b/c", "/"), "a%20b/c");
    }
}
