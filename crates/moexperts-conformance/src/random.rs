//! The generator of all cases.

/// SplitMix64 (Steele, Lea, Flood 2014): a seed gives the same numbers on every machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The numbers of a seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low .. high`, one of 2^24 at equal distances: as many as f32 tells apart in
    /// `0 .. 1`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1_u64 << 24) as f32;
        low + (high - low) * unit
    }

    /// An index below `limit`.
    ///
    /// # Panics
    /// If `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    /// `len` numbers in `-1 .. 1`.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.between(-1.0, 1.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_generator() {
        // The first outputs of the authors' splitmix64.c for the seed 1234567.
        let mut random = Random::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([random.bits(), random.bits()], expected);
    }

    #[test]
    fn numbers_stay_in_their_range_and_fill_it() {
        let mut random = Random::new(7);
        let values = random.values(1000);
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value)));
        assert!(
            values.iter().any(|&value| value < -0.9) && values.iter().any(|&value| value > 0.9)
        );
        let mut counts = [0; 4];
        (0..1000).for_each(|_| counts[random.below(4)] += 1);
        assert!(counts.iter().all(|count| (200..300).contains(count)), "{counts:?}");
    }
}
