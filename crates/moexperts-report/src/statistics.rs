//! What is said of several measurements.

use serde::Serialize;

/// The middle of some measurements and the range most of them lie in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// Their sum, divided by their number.
    pub mean: f64,
    /// As many are below as above.
    pub median: f64,
    /// A tenth is below.
    pub p10: f64,
    /// A tenth is above.
    pub p90: f64,
}

impl Statistics {
    /// Of these measurements.
    ///
    /// # Panics
    /// If there are none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quantile = |q: f64| quantile(&sorted, q);
        let mean = mean(values.iter().copied());
        Self { mean, median: quantile(0.5), p10: quantile(0.1), p90: quantile(0.9) }
    }

    /// All of them times a factor.
    pub fn scaled(self, factor: f64) -> Self {
        let Self { mean, median, p10, p90 } = self;
        let [mean, median, p10, p90] = [mean, median, p10, p90].map(|value| value * factor);
        Self { mean, median, p10, p90 }
    }

    /// Whether the ranges from p10 to p90 have a value in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.p10 <= other.p90 && other.p10 <= self.p90
    }
}

/// The value that a fraction `q` of the values is below, between two neighbours where it has to be.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The middle of some values; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| Statistics::of(values).median)
}

/// The mean; of nothing it is 0.
pub fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let of = |values: &[f64]| {
            let Statistics { mean, median, p10, p90 } = Statistics::of(values);
            [p10, median, p90, mean]
        };
        assert_eq!(of(&[3.0]), [3.0, 3.0, 3.0, 3.0]);
        assert_eq!(of(&[4.0, 2.0]), [2.2, 3.0, 3.8, 3.0]);
        let tens = [9.0, 0.0, 10.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        assert_eq!(of(&tens), [1.0, 5.0, 9.0, 5.0]);
    }

    #[test]
    fn an_outlier_moves_neither_the_median_nor_the_range() {
        let mut values = vec![1.0; 20];
        values.push(1000.0);
        let Statistics { mean, median, p10, p90 } = Statistics::of(&values);
        assert_eq!([median, p10, p90], [1.0; 3]);
        assert!(mean > 40.0);
        assert_eq!(Statistics::of(&[1.0]).scaled(2.0), Statistics::of(&[2.0]));
    }

    #[test]
    fn ranges_overlap_where_they_touch() {
        let range = |p10, p90| Statistics { mean: p10, median: p10, p10, p90 };
        assert!(range(1.0, 2.0).overlaps(&range(2.0, 3.0)));
        assert!(range(0.0, 9.0).overlaps(&range(2.0, 3.0)));
        assert!(!range(1.0, 1.9).overlaps(&range(2.0, 3.0)));
        assert!(!range(2.0, 3.0).overlaps(&range(1.0, 1.9)));
    }

    #[test]
    fn the_median_of_nothing_is_none() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[4.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 2.0]), Some(3.0));
    }

    #[test]
    fn the_mean_of_nothing_is_nothing() {
        assert_eq!(mean([].into_iter()), 0.0);
        assert_eq!(mean([1.0, 2.0].into_iter()), 1.5);
    }
}
