//! Linear layers: `y = weight · x + bias`.

use crate::{
    error::Result,
    shapes::{length, shape},
    weights::{Linear, Matrix},
};

/// Whether a layer of `weight` [out, in], with a bias of that length if it has one, takes `x`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape).
pub fn check(x: [usize; 2], weight: [usize; 2], bias: Option<usize>) -> Result<()> {
    shape("input of a linear layer", x, [x[0], weight[1]])?;
    bias.map_or(Ok(()), |bias| length("bias", bias, weight[0]))
}

/// `weight · x + bias` for one token: from `[in]` to `[out]`.
///
/// # Panics
/// If shapes disagree.
pub fn formula(linear: &Linear<Matrix, Vec<f32>>, x: &[f64]) -> Vec<f64> {
    assert_eq!(linear.weight.cols(), x.len(), "inputs");
    let output = |row: usize| {
        let weights = linear.weight.row(row);
        let sum: f64 = x.iter().enumerate().map(|(i, x)| f64::from(weights.get(i)) * x).sum();
        sum + linear.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]))
    };
    (0..linear.weight.rows()).map(output).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_and_biases_are_as_long_as_the_weight_says() {
        let text = |result: Result<()>| result.unwrap_err().to_string();
        assert_eq!(check([2, 3], [4, 3], Some(4)), Ok(()));
        assert_eq!(text(check([2, 3], [4, 3], Some(3))), "bias has shape [3], expected [4]");
        assert_eq!(
            text(check([2, 2], [4, 3], None)),
            "input of a linear layer has shape [2, 2], expected [2, 3]"
        );
    }

    #[test]
    fn a_product_with_a_bias_by_hand() {
        let weight = Matrix::from_vec(2, 2, vec![1.0_f32, 2.0, -3.0, 0.5]).unwrap();
        let layer = Linear { weight, bias: Some(vec![10.0, -1.0]) };
        assert_eq!(formula(&layer, &[2.0, 4.0]), [20.0, -5.0]);
    }
}
