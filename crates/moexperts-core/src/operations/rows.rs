//! Rows of a matrix or a tensor that are chosen by their index.

use crate::{
    error::{Error, Result},
    shapes::{count, indices, shape, shape_is},
};

/// Whether `y` has a row for each of some `rows` of `x`: `put_rows`, `add_rows`.
///
/// # Errors
/// [`Error::Shape`], [`Error::OutOfRange`].
pub fn check_rows_of(x: [usize; 2], rows: &[usize], y: [usize; 2]) -> Result<()> {
    shape("y", y, [rows.len(), x[1]])?;
    indices("row", rows.iter().copied(), x[0])
}

/// How many bags of `taps` rows there are, each row with a weight and below `limit`:
/// `embedding_bag`.
///
/// # Errors
/// [`Error::Count`], [`Error::OutOfRange`].
pub fn check_bags(rows: &[u32], weights: &[f32], taps: usize, limit: usize) -> Result<usize> {
    let bags = rows.len().checked_div(taps).unwrap_or(0);
    if rows.len() != bags * taps {
        return Err(Error::count("rows for bags", format!("a multiple of {taps}"), rows.len()));
    }
    count("weights for the rows of bags", weights.len(), rows.len())?;
    indices("row", rows.iter().map(|&row| row as usize), limit)?;
    Ok(bags)
}

/// The rows of a tensor [rows, cols] with rows of another length: `reshape`.
///
/// # Errors
/// [`Error::Shape`] if the values do not fill whole rows.
pub fn check_reshape([rows, cols]: [usize; 2], new_cols: usize) -> Result<usize> {
    let values = rows * cols;
    let new_rows = values.checked_div(new_cols).unwrap_or(0);
    shape_is(new_rows * new_cols == values, "tensor to reshape", || {
        [format!("rows that fill rows of {new_cols}"), format!("[{rows}, {cols}]")]
    })?;
    Ok(new_rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_exist_and_have_a_value_each() {
        let text = |result: Result<()>| result.unwrap_err().to_string();
        assert_eq!(
            text(check_rows_of([3, 2], &[0, 1], [2, 3])),
            "y has shape [2, 3], expected [2, 2]"
        );
        assert_eq!(
            text(check_rows_of([3, 2], &[0, 3], [2, 2])),
            "row 3 is out of range, expected less than 3"
        );
    }

    #[test]
    fn a_reshape_fills_its_rows() {
        assert_eq!(check_reshape([4, 6], 8), Ok(3));
        assert_eq!(check_reshape([0, 6], 8), Ok(0));
        assert_eq!(check_reshape([4, 0], 0), Ok(0));
        assert_eq!(
            check_reshape([4, 6], 5).unwrap_err().to_string(),
            "tensor to reshape has shape [4, 6], expected rows that fill rows of 5"
        );
        assert!(check_reshape([4, 6], 0).is_err());
    }

    #[test]
    fn bags_are_whole_and_weighted() {
        let text = |result: Result<usize>| result.unwrap_err().to_string();
        assert_eq!(check_bags(&[0, 2, 1, 1], &[0.0; 4], 2, 3), Ok(2));
        assert_eq!(check_bags(&[], &[], 0, 0), Ok(0));
        assert!(check_bags(&[1], &[1.0], 0, 2).is_err());
        assert_eq!(
            text(check_bags(&[0; 5], &[0.0; 5], 2, 1)),
            "expected a multiple of 2 rows for bags, got 5"
        );
        assert_eq!(
            text(check_bags(&[0; 4], &[0.0; 3], 2, 1)),
            "expected 4 weights for the rows of bags, got 3"
        );
    }
}
