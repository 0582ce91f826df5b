//! Rows of a matrix or a tensor that are chosen by their index.

use crate::{
    error::{Error, Result},
    shapes::{count, indices, shape},
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
