//! What is said of several measurements.

/// The middle of some measurements and the range most of them lie in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Statistics {
    pub(super) median: f64,
    pub(super) p10: f64,
    pub(super) p90: f64,
}

impl Statistics {
    /// # Panics
    /// If there are no measurements.
    pub(super) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quantile = |q: f64| quantile(&sorted, q);
        Self { median: quantile(0.5), p10: quantile(0.1), p90: quantile(0.9) }
    }

    /// All three times a factor.
    pub(super) fn scaled(self, factor: f64) -> Self {
        Self { median: self.median * factor, p10: self.p10 * factor, p90: self.p90 * factor }
    }
}

/// The value that a fraction `q` of the values is below, between two neighbours where it has to be.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The mean; of nothing it is 0.
pub(super) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let of = |values: &[f64]| {
            let Statistics { median, p10, p90 } = Statistics::of(values);
            [p10, median, p90]
        };
        assert_eq!(of(&[3.0]), [3.0, 3.0, 3.0]);
        assert_eq!(of(&[4.0, 2.0]), [2.2, 3.0, 3.8]);
        assert_eq!(of(&[9.0, 0.0, 10.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), [1.0, 5.0, 9.0]);
    }

    #[test]
    fn an_outlier_moves_neither_the_median_nor_the_range() {
        let mut values = vec![1.0; 20];
        values.push(1000.0);
        let one = Statistics { median: 1.0, p10: 1.0, p90: 1.0 };
        assert_eq!(Statistics::of(&values), one);
        assert_eq!(one.scaled(2.0).p90, 2.0);
    }

    #[test]
    fn the_mean_of_nothing_is_nothing() {
        assert_eq!(mean([].into_iter()), 0.0);
        assert_eq!(mean([1.0, 2.0].into_iter()), 1.5);
    }
}
