//! Rotary position embeddings (Su et al. 2021): values of a head are turned in pairs.

use crate::{
    error::Result,
    shapes::{shape, shape_is},
};

/// Which two values of a head a rotary embedding turns together, of the R that turn.
///
/// Exhaustive: a device turns every pairing, so that a third has to be added to each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopePairing {
    /// Value i and value i + R / 2, as GPT-NeoX and Llama have it (`rotate_half`).
    Halves,
    /// Value 2i and value 2i + 1, as the paper has it.
    Neighbours,
}

impl RopePairing {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Halves, Self::Neighbours];

    /// The places in a head of the two values of pair `index`, of `pairs`.
    pub const fn places(self, index: usize, pairs: usize) -> [usize; 2] {
        match self {
            Self::Halves => [index, index + pairs],
            Self::Neighbours => [2 * index, 2 * index + 1],
        }
    }
}

/// Whether each row of `x` has its angles, and each head is wide enough to be turned by them.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape).
pub fn check(x: [usize; 2], head_dim: usize, cos: [usize; 2], sin: [usize; 2]) -> Result<()> {
    shape("sin", sin, cos)?;
    shape("cos", cos, [x[0], cos[1]])?;
    let turned = 2 * cos[1];
    let whole = head_dim > 0 && x[1].is_multiple_of(head_dim) && turned <= head_dim;
    shape_is(whole, "row to rotate", || {
        [format!("heads of at least {turned}"), format!("[{}] in heads of {head_dim}", x[1])]
    })
}

/// Turns one head by the angle of each pair: `a, b = a · cos(angle) - b · sin(angle), b ·
/// cos(angle) + a · sin(angle)`. Values beyond the last pair stay.
///
/// # Panics
/// If the head has fewer values than the pairs.
pub fn formula(head: &mut [f64], pairing: RopePairing, angles: &[f64]) {
    for (pair, angle) in angles.iter().enumerate() {
        let [first, second] = pairing.places(pair, angles.len());
        let ((sin, cos), a, b) = (angle.sin_cos(), head[first], head[second]);
        (head[first], head[second]) = (a * cos - b * sin, b * cos + a * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_as_wide_as_what_turns() {
        assert_eq!(
            check([2, 8], 4, [2, 3], [2, 3]).unwrap_err().to_string(),
            "row to rotate has shape [8] in heads of 4, expected heads of at least 6"
        );
        assert_eq!(check([2, 8], 4, [2, 1], [2, 1]), Ok(()));
        assert!(check([2, 0], 0, [2, 0], [2, 0]).is_err(), "heads of nothing");
    }

    #[test]
    fn a_quarter_turn_by_hand() {
        let quarter = std::f64::consts::FRAC_PI_2;
        for (pairing, expected) in [
            (RopePairing::Halves, [-3.0, 2.0, 1.0, 4.0, 5.0]),
            (RopePairing::Neighbours, [-2.0, 1.0, 3.0, 4.0, 5.0]),
        ] {
            let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
            formula(&mut head, pairing, &[quarter, 0.0]);
            let near = head.iter().zip(expected).all(|(got, is)| (got - is).abs() < 1e-15);
            assert!(near, "{pairing:?}: {head:?}");
        }
    }
}
