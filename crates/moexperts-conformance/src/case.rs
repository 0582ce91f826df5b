//! One case, as data.

use std::fmt;

use moexperts_core::ExpertsSpec;

/// An experts layer, its input and its routing. Equal cases hold equal values on every machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The purpose of the case.
    pub name: &'static str,
    /// T: tokens.
    pub tokens: usize,
    /// K: experts per token.
    pub top_k: usize,
    /// H, I, E, the format and the kind of experts.
    pub spec: ExpertsSpec,
    /// Where gate and up lie.
    pub gate_up: GateUpLayout,
    /// Weights and hidden states.
    pub values: Values,
    /// Expert ids.
    pub routes: Routes,
    /// Routing weights.
    pub routing_weights: RoutingWeights,
    /// Seed of the generator.
    pub seed: u64,
}

/// Where the gate and the up projections lie in memory. A backend sees views of their rows, which
/// all three allow in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateUpLayout {
    /// Apart.
    Separate,
    /// All gate rows of an expert before all its up rows.
    Concatenated,
    /// Gate and up rows of an expert in turn: each is every second row.
    Interleaved,
}

/// The distribution of weights and hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Products near 1, hidden states exact in the type that inputs may be rounded to.
    Ordinary,
    /// Hidden states with all the digits of f32, as a residual stream has them.
    Unrounded,
    /// Products far beyond where activations are curved.
    Large,
    /// Each token has one value that is not 0, each output one down weight: a gate or up weight
    /// is seen alone. Needs `I <= H`, and `T = H · E` to see them all.
    InputProbe,
    /// Each token reaches one inner value: a down weight is seen alone. Needs `I <= H`, and
    /// `T = H · E` to see them all.
    DownProbe,
}

/// The distribution of expert ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routes {
    /// Ids of a token differ, as a router makes them. Where K > E the rest are sentinels.
    Distinct,
    /// Any id, the same twice included.
    Any,
    /// Every pair on one expert.
    OneExpert,
    /// Every third expert; no pair reaches the others.
    FewExperts,
    /// Each id twice in its row.
    Repeated,
    /// A third of the ids are E, E + 1 or `u32::MAX`; the first token has nothing else.
    SomeSentinels,
    /// No pair has an expert.
    AllSentinels,
    /// Pair after pair, one expert after the other.
    InTurn,
}

impl Routes {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Distinct,
        Self::Any,
        Self::OneExpert,
        Self::FewExperts,
        Self::Repeated,
        Self::SomeSentinels,
        Self::AllSentinels,
        Self::InTurn,
    ];
}

/// The distribution of routing weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutingWeights {
    /// Positive, the sum of a token's is 1.
    Normalised,
    /// Of both signs, every fourth 0.
    Signed,
    /// All 0.
    Zero,
    /// All 1.
    One,
}

impl Case {
    /// Whether there is a formula of these experts. Without one, results are not compared, and a
    /// backend may refuse the case.
    pub fn has_reference(&self) -> bool {
        self.spec.gated || !self.spec.activation.needs_gate()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.spec;
        let gated = if spec.gated { "gated" } else { "not gated" };
        let bias = if spec.bias { "with bias" } else { "no bias" };
        let layout = match self.gate_up {
            GateUpLayout::Separate => "separate",
            GateUpLayout::Concatenated => "concatenated",
            GateUpLayout::Interleaved => "interleaved",
        };
        write!(
            f,
            "`{}`: T={} H={} I={} E={} K={} {}, {}, {gated}, {bias}, {layout}, \
             {:?} values, {:?} routes, {:?} weights, seed {}",
            self.name,
            self.tokens,
            spec.hidden,
            spec.intermediate,
            spec.experts,
            self.top_k,
            spec.format,
            spec.activation.name(),
            self.values,
            self.routes,
            self.routing_weights,
            self.seed,
        )
    }
}
