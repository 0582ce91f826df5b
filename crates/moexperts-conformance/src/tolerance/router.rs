//! The allowed distance of a routing from the reference.

use moexperts_core::{PickOn, RouterSpec, Score, reference};

use crate::tolerance::{EVALUATION, ROUNDING, SMALLEST};

/// The routings of one token that f32 allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouterTolerance {
    /// Whether its experts are certain: no rounding changes them.
    pub decides: bool,
    /// The largest error of a weight, relative to it.
    relative: f64,
    /// The largest error beside the relative one, where scores underflow.
    vanished: f64,
}

impl RouterTolerance {
    /// For the router logits \[E\] of a token and a pick bias \[E\].
    ///
    /// # Panics
    /// If `checks::router` refuses the router, or lengths disagree.
    pub fn new(spec: &RouterSpec, logits: &[f64], pick_bias: Option<&[f64]>) -> Self {
        let reach = largest_magnitude(logits);
        let score = ROUNDING * (EVALUATION + 4.0 * reach);
        let all = spec.score == Score::Softmax && spec.normalise != Some(0.0);
        let terms = if all { logits.len() } else { spec.top_k };
        let relative = 2.0 * score + (terms + 4) as f64 * ROUNDING;
        let vanished = 16.0 * SMALLEST * f64::from(spec.scale).abs();

        let mut picked_on = reference::picked_on(logits, spec, pick_bias);
        let rounding = 2.0 * ROUNDING * largest_magnitude(&picked_on);
        let error = match (pick_bias, spec.groups, spec.pick_on) {
            // A larger logit has a larger score, and nothing is rounded.
            (None, None, _) => 0.0,
            (_, _, PickOn::Logits) => rounding,
            _ => {
                let scores = reference::scores(logits, spec.score);
                let sums = (logits.len() + 1) as f64 * ROUNDING;
                (2.0 * score + sums) * largest_magnitude(&scores) + rounding
            }
        };
        let mut decides = true;
        if let Some(groups) = &spec.groups {
            let scores = reference::group_scores(&picked_on, groups);
            decides = is_decided(&scores, groups.keep, 2.0 * error + rounding);
            reference::mask_groups(&mut picked_on, groups);
        }
        decides &= is_decided(&picked_on, spec.top_k, error);
        Self { decides, relative, vanished }
    }

    /// The allowed distance of a weight from the expected one.
    pub fn weight(&self, expected: f64) -> f64 {
        self.relative * expected.abs() + self.vanished
    }
}

fn largest_magnitude(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// Whether the `count` largest of some values, each known up to `error`, are in a known order: next
/// to each other they are equal or further apart, down to one that is less than the last of them.
fn is_decided(values: &[f64], count: usize, error: f64) -> bool {
    let mut values = values.to_vec();
    values.sort_by(|a, b| b.total_cmp(a));
    for (index, pair) in values.windows(2).enumerate() {
        let is_apart = pair[0] - pair[1] > 2.0 * error;
        if is_apart && index + 1 >= count {
            break;
        }
        if !is_apart && pair[0] != pair[1] {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_a_known_order_where_they_are_equal_or_apart() {
        let values = [0.0, 5.0, 3.0, 3.0, 3.1, f64::NEG_INFINITY, f64::NEG_INFINITY];
        for (count, error, expected) in [
            (1, 0.9, true),
            (1, 1.0, false),
            (2, 0.04, true),
            (2, 0.06, false),
            (3, 0.04, true),
            (4, 1.4, false),
            (5, 0.04, true),
            (7, 0.0, true),
            (0, 0.0, true),
        ] {
            assert_eq!(is_decided(&values, count, error), expected, "{count}, {error}");
        }
    }
}
