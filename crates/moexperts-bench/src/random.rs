//! Numbers a seed repeats.

/// The SplitMix64 generator.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed and of what it is for.
    pub(crate) fn new(seed: u64, purpose: &[u64]) -> Self {
        let mut stream = Self { state: seed };
        for &part in purpose {
            stream.state = stream.next().wrapping_add(part);
        }
        stream
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// A number above 0 and below 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    /// A number between `-limit` and `limit`.
    pub(crate) fn within(&mut self, limit: f32) -> f32 {
        (2.0 * self.fraction() - 1.0) as f32 * limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_a_purpose_makes_another_stream() {
        let first = |seed, purpose: &[u64]| Random::new(seed, purpose).next();
        assert_eq!(first(7, &[1, 2]), first(7, &[1, 2]));
        let others = [first(8, &[1, 2]), first(7, &[2, 1]), first(7, &[1]), first(7, &[])];
        assert!(others.iter().all(|&other| other != first(7, &[1, 2])), "{others:?}");
    }

    #[test]
    fn numbers_are_spread_over_their_range() {
        let mut random = Random::new(0, &[]);
        let mut counts = [0; 4];
        let mut sum = 0.0;
        for _ in 0..4000 {
            counts[random.below(4)] += 1;
            let value = random.within(0.5);
            assert!((-0.5..=0.5).contains(&value));
            sum += value;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert!(sum.abs() < 50.0, "{sum}");
    }
}
