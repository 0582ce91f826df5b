//! Which experts each token goes to, and with what weight.

use crate::error::{Error, Result};

/// The routing of T tokens, in host memory.
///
/// An id that is no expert's (`>= E`) is a sentinel: the pair contributes nothing. The ids of a
/// token need not differ.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Routing {
    top_k: usize,
    top_k_index: Vec<u32>,
    top_k_weights: Vec<f32>,
}

impl Routing {
    /// Takes `top_k_index` [T, K] and `top_k_weights` [T, K], row-major.
    ///
    /// # Errors
    /// [`Error::Shape`] if the two differ in length or are not a multiple of K (K = 0: not empty).
    pub fn new(top_k: usize, top_k_index: Vec<u32>, top_k_weights: Vec<f32>) -> Result<Self> {
        let fits = match top_k {
            0 => top_k_index.is_empty(),
            _ => top_k_index.len().is_multiple_of(top_k),
        };
        if !fits || top_k_index.len() != top_k_weights.len() {
            return Err(Error::Shape {
                what: "top_k_index and top_k_weights".into(),
                expected: format!("[T, {top_k}] both"),
                got: format!("[{}] and [{}]", top_k_index.len(), top_k_weights.len()),
            });
        }
        Ok(Self { top_k, top_k_index, top_k_weights })
    }

    /// No pairs, with capacity for `pairs`.
    pub fn with_capacity(pairs: usize) -> Self {
        let (top_k_index, top_k_weights) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
        Self { top_k: 0, top_k_index, top_k_weights }
    }

    /// Takes another shape, and gives `top_k_index` and `top_k_weights` [T, K] to be written; their
    /// memory is used again.
    ///
    /// # Panics
    /// If `tokens * top_k` overflows.
    pub fn reset(&mut self, tokens: usize, top_k: usize) -> (&mut [u32], &mut [f32]) {
        self.top_k = top_k;
        let pairs = tokens.checked_mul(top_k).expect("as many pairs as memory can hold");
        self.top_k_index.resize(pairs, 0);
        self.top_k_weights.resize(pairs, 0.0);
        (&mut self.top_k_index, &mut self.top_k_weights)
    }

    /// T: tokens.
    pub fn tokens(&self) -> usize {
        self.top_k_index.len().checked_div(self.top_k).unwrap_or(0)
    }

    /// K: experts per token.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// Expert ids [T, K], row-major.
    pub fn top_k_index(&self) -> &[u32] {
        &self.top_k_index
    }

    /// Routing weights [T, K], row-major.
    pub fn top_k_weights(&self) -> &[f32] {
        &self.top_k_weights
    }

    /// The (expert id, weight) pairs of one token, sentinels included.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn pairs(&self, token: usize) -> impl Iterator<Item = (u32, f32)> {
        let range = token * self.top_k..(token + 1) * self.top_k;
        self.top_k_index[range.clone()]
            .iter()
            .copied()
            .zip(self.top_k_weights[range].iter().copied())
    }
}
