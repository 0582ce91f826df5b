//! Positions as angles.

use std::f64::consts::PI;

use moexperts_core::Batch;

/// Where a token stands in time, height and width; in a text all three are its place.
pub type Position = [usize; 3];

/// How positions become angles.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// Values of a head that turn; those after them pass as they are.
    pub dims: usize,
    /// Base of the wavelengths.
    pub rope_theta: f64,
    /// `max_position_embeddings`.
    pub max_position_embeddings: usize,
    /// How wavelengths are stretched for longer contexts.
    pub scaling: RopeScaling,
    /// Pairs of a head that turn by time, height and width, interleaved from the first on; where
    /// it is absent, and beyond, all turn by time.
    pub mrope_section: Option<[usize; 3]>,
}

/// How wavelengths are stretched for longer contexts.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All by the same factor.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// By a larger base once a sequence is longer than the model was made for (NTK).
    Dynamic {
        /// Stretch.
        factor: f64,
    },
    /// Long wavelengths by the factor, short ones not, a ramp between (<https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// Stretch.
        factor: f64,
        /// Context before stretching.
        original_max_position_embeddings: f64,
        /// Rotations above which a wavelength stays.
        beta_fast: f64,
        /// Rotations below which a wavelength is stretched.
        beta_slow: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Whether the ramp's ends are rounded outwards.
        truncate: bool,
    },
    /// As Llama 3.1: a ramp between two wavelengths.
    Llama3 {
        /// Stretch.
        factor: f64,
        /// Wavelengths above context / this are stretched.
        low_freq_factor: f64,
        /// Wavelengths below context / this stay.
        high_freq_factor: f64,
        /// Context before stretching.
        original_max_position_embeddings: f64,
    },
    /// Each wavelength by a factor that was searched for it (<https://arxiv.org/abs/2402.13753>).
    LongRope {
        /// For each pair, while a sequence is within the context before stretching.
        short_factor: Vec<f64>,
        /// For each pair, once it is longer.
        long_factor: Vec<f64>,
        /// Context before stretching.
        original_max_position_embeddings: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
    /// All by the same factor, over the first pairs of a head; the others do not turn.
    Proportional {
        /// Stretch.
        factor: f64,
        /// Pairs that turn.
        pairs: usize,
    },
}

/// Cosines and sines [T, dims / 2], row-major, and the frequencies they were made with.
#[derive(Debug, Default)]
pub(crate) struct Angles {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    inv_freq: Vec<f64>,
    inv_freq_of: Option<usize>,
}

impl Rope {
    /// Radians a position, for each pair of values, for a sequence of `tokens` tokens in all.
    pub fn inv_freq(&self, tokens: usize) -> Vec<f64> {
        let plain = |theta: f64| {
            let exponent = |pair: usize| (2 * pair) as f64 / self.dims as f64;
            (0..self.dims / 2).map(move |pair| theta.powf(-exponent(pair)))
        };
        match self.scaling {
            RopeScaling::Default => plain(self.rope_theta).collect(),
            RopeScaling::Linear { factor } => {
                plain(self.rope_theta).map(|freq| freq / factor).collect()
            }
            RopeScaling::Dynamic { factor } => {
                let (max, width) = (self.max_position_embeddings as f64, self.dims as f64);
                let length = max.max(tokens as f64);
                let stretch = factor * length / max - (factor - 1.0);
                plain(self.rope_theta * stretch.powf(width / (width - 2.0))).collect()
            }
            RopeScaling::Yarn { factor, .. } => {
                let (low, high) = self.yarn_ramp();
                let blend = |(pair, freq): (usize, f64)| {
                    let stretched = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    freq / factor * stretched + freq * (1.0 - stretched)
                };
                plain(self.rope_theta).enumerate().map(blend).collect()
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            } => plain(self.rope_theta)
                .map(|freq| {
                    let rotations = original * freq / (2.0 * PI);
                    // In this order, so that factors the wrong way round give transformers' result.
                    if rotations < low_freq_factor {
                        return freq / factor;
                    }
                    if rotations > high_freq_factor {
                        return freq;
                    }
                    let kept = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - kept) * freq / factor + kept * freq
                })
                .collect(),
            RopeScaling::LongRope {
                ref short_factor,
                ref long_factor,
                original_max_position_embeddings: original,
                ..
            } => {
                let factors = if tokens as f64 > original { long_factor } else { short_factor };
                plain(self.rope_theta).zip(factors).map(|(freq, factor)| freq / factor).collect()
            }
            RopeScaling::Proportional { factor, pairs } => {
                let turn = |(pair, freq)| if pair < pairs { freq / factor } else { 0.0 };
                plain(self.rope_theta).enumerate().map(turn).collect()
            }
        }
    }

    /// Factor on cosines and sines.
    pub fn attention_scaling(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. }
            | RopeScaling::LongRope { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// Cosines and sines of every row of a batch at its position.
    pub(crate) fn angles(&self, batch: &Batch, positions: &[Position], out: &mut Angles) {
        out.cos.clear();
        out.sin.clear();
        let scaling = self.attention_scaling();
        for (span, rows) in batch.rows() {
            let length = self.stretched_length(span.start + span.tokens);
            if out.inv_freq_of != Some(length) {
                out.inv_freq = self.inv_freq(length);
                out.inv_freq_of = Some(length);
            }
            for position in &positions[rows] {
                for (pair, freq) in out.inv_freq.iter().enumerate() {
                    let (s, c) = (position[self.axis(pair)] as f64 * freq).sin_cos();
                    out.cos.push((c * scaling) as f32);
                    out.sin.push((s * scaling) as f32);
                }
            }
        }
    }

    /// The length of a sequence of `tokens` tokens that its frequencies depend on.
    fn stretched_length(&self, tokens: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { .. } => tokens.max(self.max_position_embeddings),
            // Only on which side of the context it is.
            RopeScaling::LongRope { original_max_position_embeddings: original, .. }
                if tokens as f64 > original =>
            {
                usize::MAX
            }
            _ => 0,
        }
    }

    /// Whether a pair turns by time (0), height (1) or width (2).
    pub(super) fn axis(&self, pair: usize) -> usize {
        let axis = pair % 3;
        match self.mrope_section {
            Some(section) if axis > 0 && pair / 3 < section[axis] => axis,
            _ => 0,
        }
    }

    /// The pairs between which YaRN's stretch grows from none to all.
    fn yarn_ramp(&self) -> (f64, f64) {
        let RopeScaling::Yarn {
            original_max_position_embeddings: original,
            beta_fast,
            beta_slow,
            truncate,
            ..
        } = self.scaling
        else {
            return (0.0, 0.0);
        };
        let width = self.dims as f64;
        let pair_with = |rotations: f64| {
            width * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.rope_theta.ln())
        };
        let (low, high) = (pair_with(beta_fast), pair_with(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(width - 1.0));
        if low == high { (low, high + 0.001) } else { (low, high) }
    }
}
