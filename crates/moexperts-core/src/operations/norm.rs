//! Normalisation of rows: layer norm (Ba, Kiros, Hinton 2016) and RMS norm (Zhang, Sennrich 2019).

use crate::{
    error::Result,
    shapes::{length, shape_is},
};

/// Whether weight and bias of a layer norm are as long as the rows of `x`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape).
pub fn check_layer_norm(x: [usize; 2], weight: usize, bias: usize) -> Result<()> {
    length("weight of a norm", weight, x[1])?;
    length("bias of a norm", bias, x[1])
}

/// Whether the rows of `x` are heads as long as the weight of an RMS norm.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape).
pub fn check_rms_norm(x: [usize; 2], weight: usize) -> Result<()> {
    shape_is(weight > 0 && x[1].is_multiple_of(weight), "row to normalise", || {
        [format!("a multiple of [{weight}]"), format!("[{}]", x[1])]
    })
}

/// `(x - mean(x)) / sqrt(mean((x - mean(x))²) + eps) · weight + bias` for one row.
///
/// # Panics
/// If lengths disagree.
pub fn layer_norm(x: &[f64], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f64> {
    assert!(x.len() == weight.len() && x.len() == bias.len(), "lengths");
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let deviation = (variance + f64::from(eps)).sqrt();
    let value = |((x, &weight), &bias): ((&f64, &f32), &f32)| {
        (x - mean) / deviation * f64::from(weight) + f64::from(bias)
    };
    x.iter().zip(weight).zip(bias).map(value).collect()
}

/// `x / sqrt(mean(x²) + eps) · weight` for one row, or one head of it.
///
/// # Panics
/// If lengths disagree.
pub fn rms_norm(x: &[f64], weight: &[f32], eps: f32) -> Vec<f64> {
    assert_eq!(x.len(), weight.len(), "lengths");
    let squares: f64 = x.iter().map(|x| x.powi(2)).sum();
    let root = (squares / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(x, &weight)| x / root * f64::from(weight)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_as_long_as_rows_or_heads() {
        let text = |result: Result<()>| result.unwrap_err().to_string();
        assert_eq!(
            text(check_layer_norm([2, 3], 3, 4)),
            "bias of a norm has shape [4], expected [3]"
        );
        assert_eq!(
            text(check_rms_norm([1, 6], 4)),
            "row to normalise has shape [6], expected a multiple of [4]"
        );
        assert_eq!(check_rms_norm([1, 6], 3), Ok(()));
        assert!(check_rms_norm([1, 0], 0).is_err(), "by nothing");
    }

    #[test]
    fn norms_by_hand() {
        // The squares of 3 and 1 have a mean of 5; around their mean of 2, both are 1 away.
        let near = |got: Vec<f64>, expected: [f64; 2]| {
            got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-15)
        };
        assert!(near(rms_norm(&[3.0, 1.0], &[1.0, 2.0], 4.0), [1.0, 2.0 / 3.0]));
        assert!(near(layer_norm(&[3.0, 1.0], &[1.0, 2.0], &[0.5, 0.0], 3.0), [1.0, -1.0]));
    }
}
