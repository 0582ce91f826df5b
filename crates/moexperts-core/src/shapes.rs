//! What every check of arguments is made of: two shapes, two counts, an index and its limit.
//!
//! Shapes are `[rows, cols]`. Nothing is allocated unless something disagrees.

use crate::error::{Error, Result};

/// Whether `what` has the shape it must have.
///
/// # Errors
/// [`Error::Shape`].
pub fn shape(what: &str, got: [usize; 2], expected: [usize; 2]) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::shape(what, expected, got)) }
}

/// Whether there are as many `what` as there must be.
///
/// # Errors
/// [`Error::Count`].
pub fn count(what: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::count(what, expected, got)) }
}

/// Whether the vector `what` has as many values as it must have.
///
/// # Errors
/// [`Error::Shape`].
pub fn length(what: &str, got: usize, expected: usize) -> Result<()> {
    shape_is(got == expected, what, || [format!("[{expected}]"), format!("[{got}]")])
}

/// Whether all `indices` of `what` are below `limit`.
///
/// # Errors
/// [`Error::OutOfRange`] for the first that is not.
pub fn indices(
    what: &'static str,
    indices: impl IntoIterator<Item = usize>,
    limit: usize,
) -> Result<()> {
    match indices.into_iter().find(|&index| index >= limit) {
        Some(index) => Err(Error::OutOfRange { what, index, limit }),
        None => Ok(()),
    }
}

/// Whether `values` values fill a tensor [rows, cols].
///
/// # Errors
/// [`Error::Shape`].
pub fn tensor_data(values: usize, shape: [usize; 2]) -> Result<()> {
    data("tensor data", values, shape)
}

/// Whether `values` values of `what` fill [rows, cols].
pub(crate) fn data(what: &str, values: usize, [rows, cols]: [usize; 2]) -> Result<()> {
    let agree = rows.checked_mul(cols) == Some(values);
    shape_is(agree, what, || [format!("[{rows}, {cols}]"), format!("[{values}]")])
}

/// `Ok` if the shape of `what` is right, else the shape that was expected and the one there is.
pub(crate) fn shape_is(
    right: bool,
    what: &str,
    expected_got: impl FnOnce() -> [String; 2],
) -> Result<()> {
    if right {
        return Ok(());
    }
    let [expected, got] = expected_got();
    Err(Error::Shape { what: what.to_owned(), expected, got })
}

/// `Ok` if the value of `what` is right, else the value that was expected and the one there is.
pub(crate) fn value_is(
    right: bool,
    what: impl Into<String>,
    expected_got: impl FnOnce() -> [String; 2],
) -> Result<()> {
    if right {
        return Ok(());
    }
    let [expected, got] = expected_got();
    Err(Error::Value { what: what.into(), expected, got })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_thing_what_was_expected_and_what_there_is() {
        let text = |result: Result<()>| result.unwrap_err().to_string();
        assert_eq!(text(tensor_data(5, [2, 3])), "tensor data has shape [5], expected [2, 3]");
        assert!(tensor_data(0, [usize::MAX, 2]).is_err());
        assert_eq!(text(count("results", 1, 2)), "expected 2 results, got 1");
        assert_eq!(text(length("bias", 3, 4)), "bias has shape [3], expected [4]");
        assert_eq!(text(indices("row", [0, 3], 3)), "row 3 is out of range, expected less than 3");
        let window = value_is(false, "sliding window", || ["at least 1".into(), "0".into()]);
        assert_eq!(text(window), "sliding window is 0, expected at least 1");
    }
}
