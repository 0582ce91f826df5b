//! The description of an experts layer.

use crate::{operations::elementwise::Activation, weights::WeightFormat};

/// An experts layer as data. A backend says in its `check` which of these it takes.
///
/// Made by [`gated_silu`](Self::gated_silu) and the methods that change a property of it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ExpertsSpec {
    /// H: width of a token.
    pub hidden: usize,
    /// I: inner width of an expert.
    pub intermediate: usize,
    /// E: experts in the layer.
    pub experts: usize,
    /// How the projections are stored.
    pub format: WeightFormat,
    /// Whether an expert has a gate projection.
    pub gated: bool,
    /// The function between the products.
    pub activation: Activation,
    /// Whether the projections have biases.
    pub bias: bool,
}

impl ExpertsSpec {
    /// Gated silu experts without bias: what most families have.
    pub const fn gated_silu(
        hidden: usize,
        intermediate: usize,
        experts: usize,
        format: WeightFormat,
    ) -> Self {
        Self {
            hidden,
            intermediate,
            experts,
            format,
            gated: true,
            activation: Activation::Silu,
            bias: false,
        }
    }

    /// The same with E experts.
    #[must_use]
    pub const fn with_experts(self, experts: usize) -> Self {
        Self { experts, ..self }
    }

    /// The same with weights of another format.
    #[must_use]
    pub const fn with_format(self, format: WeightFormat) -> Self {
        Self { format, ..self }
    }

    /// The same without gate projections.
    #[must_use]
    pub const fn ungated(self) -> Self {
        Self { gated: false, ..self }
    }

    /// The same with another activation.
    #[must_use]
    pub const fn with_activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// The same with biases.
    #[must_use]
    pub const fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// Weights in one expert, biases left out.
    pub const fn weights_per_expert(&self) -> usize {
        let projections = if self.gated { 3 } else { 2 };
        projections * self.hidden * self.intermediate
    }

    /// Bytes of one expert's weights, biases left out.
    pub const fn bytes_per_expert(&self) -> usize {
        let up = self.format.size_bytes(self.intermediate, self.hidden);
        let down = self.format.size_bytes(self.hidden, self.intermediate);
        if self.gated { 2 * up + down } else { up + down }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_an_expert_are_those_of_its_weights() {
        for dtype in crate::DType::ALL {
            let spec = ExpertsSpec::gated_silu(4, 2, 1, dtype.into());
            for (spec, weights) in [(spec, 24), (spec.ungated(), 16)] {
                assert_eq!(spec.weights_per_expert(), weights);
                assert_eq!(spec.bytes_per_expert(), weights * dtype.size_bytes());
            }
        }
    }
}
