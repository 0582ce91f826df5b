//! What is computed value by value: activations and gates.

use crate::{error::Result, shapes::shape_is};

/// The nonlinear function between an expert's first products and its last.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `silu(gate) · up`, or `silu(up)` without a gate; `silu(z) = z / (1 + e^-z)` (SwiGLU: Shazeer
    /// 2020).
    Silu,
    /// `gelu(gate) · up`, or `gelu(up)` without a gate; `gelu(z) = z · (1 + erf(z / √2)) / 2`
    /// (Hendrycks, Gimpel 2016).
    Gelu,
    /// `gelu` in its tanh form (`gelu_pytorch_tanh`):
    /// `z · (1 + tanh(√(2 / π) · (z + 0.044715 · z³))) / 2`.
    GeluTanh,
    /// `(up' + 1) · gate' · sigmoid(alpha · gate')` with `gate' = min(gate, limit)` and
    /// `up' = clamp(up, -limit, limit)`; needs a gate. As `GptOssExperts` of transformers.
    ClampedSwiglu {
        /// Slope of the sigmoid.
        alpha: f32,
        /// Bound on both inputs.
        limit: f32,
    },
    /// `silu(min(gate, limit)) · clamp(up, -limit, limit)`; needs a gate.
    ClampedSilu {
        /// Bound on both inputs.
        limit: f32,
    },
    /// `max(gate, 0)² · up`, or `max(up, 0)²` without a gate (Primer: So et al. 2021).
    Relu2,
}

impl Activation {
    /// The clamped swiglu of gpt-oss.
    pub const CLAMPED_SWIGLU: Self = Self::ClampedSwiglu { alpha: 1.702, limit: 7.0 };

    /// The clamped silu of deepseek_v4, hy_v4 and glm5_next.
    pub const CLAMPED_SILU: Self = Self::ClampedSilu { limit: 10.0 };

    /// One of each, in the order reports have.
    pub const ALL: [Self; 6] = [
        Self::Silu,
        Self::Gelu,
        Self::GeluTanh,
        Self::Relu2,
        Self::CLAMPED_SWIGLU,
        Self::CLAMPED_SILU,
    ];

    /// The name in reports and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu-tanh",
            Self::ClampedSwiglu { .. } => "clamped swiglu",
            Self::ClampedSilu { .. } => "clamped silu",
            Self::Relu2 => "relu2",
        }
    }

    /// Whether experts with this activation have to have a gate.
    pub const fn needs_gate(self) -> bool {
        matches!(self, Self::ClampedSwiglu { .. } | Self::ClampedSilu { .. })
    }
}

/// The function of a gate's values that activations are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GateFunction {
    /// `1 / (1 + e^-z)`.
    Sigmoid,
    /// `ln(1 + e^z)`.
    Softplus,
}

impl GateFunction {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sigmoid, Self::Softplus];
}

/// Whether a gate [T, G] has factors for `x` [T, C]: C / G is a whole number.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape).
pub fn check_gate(x: [usize; 2], gate: [usize; 2]) -> Result<()> {
    let whole = x[0] == gate[0] && (x[1] == 0 || gate[1] > 0 && x[1].is_multiple_of(gate[1]));
    shape_is(whole, "gate", || {
        let expected = format!("[{}, a divisor of {}]", x[0], x[1]);
        [expected, format!("[{}, {}]", gate[0], gate[1])]
    })
}

/// An activation with a gate.
pub fn activate_gated(activation: Activation, gate: f64, up: f64) -> f64 {
    match activation {
        Activation::ClampedSwiglu { alpha, limit } => {
            let (alpha, limit) = (f64::from(alpha), f64::from(limit));
            let gate = gate.min(limit);
            (up.clamp(-limit, limit) + 1.0) * gate * sigmoid(alpha * gate)
        }
        Activation::ClampedSilu { limit } => {
            let limit = f64::from(limit);
            activate(activation, gate) * up.clamp(-limit, limit)
        }
        _ => activate(activation, gate) * up,
    }
}

/// An activation without a gate. One that needs a gate is taken as its gate's half alone.
pub fn activate(activation: Activation, z: f64) -> f64 {
    match activation {
        Activation::Silu => z * sigmoid(z),
        Activation::Gelu => 0.5 * z * libm::erfc(-z / std::f64::consts::SQRT_2),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z * z * z);
            0.5 * z * (1.0 + inner.tanh())
        }
        Activation::ClampedSwiglu { alpha, limit } => {
            let z = z.min(f64::from(limit));
            z * sigmoid(f64::from(alpha) * z)
        }
        Activation::ClampedSilu { limit } => activate(Activation::Silu, z.min(f64::from(limit))),
        Activation::Relu2 => z.max(0.0).powi(2),
    }
}

/// The factor that a value of a gate makes.
pub fn gate(function: GateFunction, z: f64) -> f64 {
    match function {
        GateFunction::Sigmoid => sigmoid(z),
        // max(z, 0) + ln(1 + e^-|z|) is ln(1 + e^z) that does not overflow.
        GateFunction::Softplus => z.max(0.0) + (-z.abs()).exp().ln_1p(),
    }
}

/// `1 / (1 + e^-z)`.
pub(crate) fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_has_a_factor_for_each_row_and_whole_group() {
        assert_eq!(check_gate([2, 6], [2, 3]), Ok(()));
        assert_eq!(
            check_gate([2, 6], [2, 4]).unwrap_err().to_string(),
            "gate has shape [2, 4], expected [2, a divisor of 6]"
        );
        assert!(check_gate([2, 6], [1, 6]).is_err());
    }

    #[test]
    fn the_clamped_swiglu_clamps_both_inputs() {
        let activation = Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 };
        let at_limit = activate_gated(activation, 7.0, -7.0);
        assert_eq!(activate_gated(activation, 9.0, -9.0), at_limit);
        assert!((at_limit - (-6.0 * 7.0 / (1.0 + (-1.702_f32 as f64 * 7.0).exp()))).abs() < 1e-12);
    }

    #[test]
    fn the_clamped_silu_clamps_its_gate_from_above_and_its_up_from_both_sides() {
        let at = |gate, up| activate_gated(Activation::ClampedSilu { limit: 2.0 }, gate, up);
        let silu = |z: f64| z / (1.0 + (-z).exp());
        for (gate, up, expected) in [
            (1.0, 1.5, silu(1.0) * 1.5),
            (3.0, 5.0, silu(2.0) * 2.0),
            (3.0, -5.0, silu(2.0) * -2.0),
            (-3.0, 5.0, silu(-3.0) * 2.0),
        ] {
            assert!((at(gate, up) - expected).abs() < 1e-15, "{gate}, {up}");
        }
        assert_eq!(activate(Activation::ClampedSilu { limit: 2.0 }, 3.0), silu(2.0));
    }
}
