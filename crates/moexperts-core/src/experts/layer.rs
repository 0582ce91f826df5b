//! An experts layer: its description and its weights.

use crate::{
    Device, Matrix, TypedCache, Weight, WeightFormat,
    error::{Error, Result},
};

/// What stands between an expert's first products and its last.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `silu(gate) · up`, or `silu(up)` without a gate; `silu(z) = z / (1 + e^-z)`.
    Silu,
    /// `gelu(gate) · up`, or `gelu(up)` without a gate; `gelu(z) = z · (1 + erf(z / √2)) / 2`.
    Gelu,
    /// `gelu` in its tanh form (`gelu_pytorch_tanh`).
    GeluTanh,
    /// `(up' + 1) · gate' · sigmoid(alpha · gate')` with `gate' = min(gate, limit)` and
    /// `up' = clamp(up, -limit, limit)`; needs a gate.
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
    /// `max(gate, 0)² · up`, or `max(up, 0)²` without a gate.
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

    /// The name reports use.
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
    /// What stands between the products.
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

/// A projection: `weight` [out, in] and an optional `bias` `[out]`.
#[derive(Debug, Clone)]
pub struct Linear<M, V> {
    /// [out, in].
    pub weight: M,
    /// `[out]`, in f32.
    pub bias: Option<V>,
}

/// The projections of one expert, gate and up apart.
#[derive(Debug, Clone)]
pub struct Expert<M, V> {
    /// [I, H]; `None` if the experts are not gated.
    pub gate_proj: Option<Linear<M, V>>,
    /// [I, H].
    pub up_proj: Linear<M, V>,
    /// [H, I].
    pub down_proj: Linear<M, V>,
}

/// The experts of one layer on a device, and what backends keep for them.
#[derive(Debug)]
pub struct Experts<D: Device> {
    spec: ExpertsSpec,
    experts: Vec<Expert<D::Matrix, D::Vector>>,
    cache: TypedCache,
}

impl<D: Device> Experts<D> {
    /// Brings checked weights to the device.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::Shape`] or [`Error::Format`] where the weights are not what `spec`
    /// says, and what the device returns.
    pub fn load(
        device: &D,
        spec: ExpertsSpec,
        experts: Vec<Expert<Matrix, Vec<f32>>>,
    ) -> Result<Self> {
        check(&spec, &experts, |bias| Some(bias.len()))?;
        let load = |linear: Linear<Matrix, Vec<f32>>| {
            let bias = linear.bias.map(|bias| device.load_vector(bias)).transpose()?;
            Ok(Linear { weight: device.load_matrix(linear.weight)?, bias })
        };
        let load = |expert: Expert<Matrix, Vec<f32>>| {
            Ok(Expert {
                gate_proj: expert.gate_proj.map(load).transpose()?,
                up_proj: load(expert.up_proj)?,
                down_proj: load(expert.down_proj)?,
            })
        };
        let experts = experts.into_iter().map(load).collect::<Result<_>>()?;
        Ok(Self { spec, experts, cache: TypedCache::default() })
    }

    /// A layer of weights that are on the device already.
    ///
    /// # Errors
    /// [`Error::Count`], [`Error::Shape`] or [`Error::Format`] where the weights are not what `spec`
    /// says.
    pub fn resident(spec: ExpertsSpec, experts: Vec<Expert<D::Matrix, D::Vector>>) -> Result<Self> {
        check(&spec, &experts, |_| None)?;
        Ok(Self { spec, experts, cache: TypedCache::default() })
    }

    /// A layer of the experts of some layers, which share their elements with it: all of this
    /// layer's, then those of `others`, as the experts from E on.
    ///
    /// # Panics
    /// If one of the others is not of the shape and format of this layer's.
    #[must_use]
    pub fn joined(&self, others: Vec<Expert<D::Matrix, D::Vector>>) -> Self {
        let shape = |expert: &Expert<D::Matrix, D::Vector>| {
            let [up, down] = [&expert.up_proj, &expert.down_proj].map(|linear| {
                let weight = &linear.weight;
                (weight.rows(), weight.cols(), weight.format(), linear.bias.is_some())
            });
            (expert.gate_proj.is_some(), up, down)
        };
        let mut experts = self.experts.clone();
        for expert in others {
            assert!(experts.first().is_none_or(|own| shape(own) == shape(&expert)), "experts");
            experts.push(expert);
        }
        let spec = ExpertsSpec { experts: experts.len(), ..self.spec };
        Self { spec, experts, cache: TypedCache::default() }
    }

    /// The same experts with other matrices of the same values.
    ///
    /// # Errors
    /// The first that `replace` returns.
    pub fn with_matrices(
        &self,
        mut replace: impl FnMut(&D::Matrix) -> Result<D::Matrix>,
    ) -> Result<Self> {
        let mut linear = |linear: &Linear<D::Matrix, D::Vector>| -> Result<_> {
            Ok(Linear { weight: replace(&linear.weight)?, bias: linear.bias.clone() })
        };
        let mut experts = Vec::with_capacity(self.experts.len());
        for expert in &self.experts {
            experts.push(Expert {
                gate_proj: expert.gate_proj.as_ref().map(&mut linear).transpose()?,
                up_proj: linear(&expert.up_proj)?,
                down_proj: linear(&expert.down_proj)?,
            });
        }
        Ok(Self { spec: self.spec, experts, cache: TypedCache::default() })
    }

    /// The description.
    pub fn spec(&self) -> &ExpertsSpec {
        &self.spec
    }

    /// The weights of expert `index`.
    ///
    /// # Panics
    /// If there is no such expert.
    pub fn expert(&self, index: usize) -> &Expert<D::Matrix, D::Vector> {
        &self.experts[index]
    }

    /// What backends keep for this layer.
    pub fn cache(&self) -> &TypedCache {
        &self.cache
    }
}

/// Whether the weights are what `spec` says; of a bias whose length cannot be told, whether it is
/// there.
fn check<M: Weight, V>(
    spec: &ExpertsSpec,
    experts: &[Expert<M, V>],
    len: impl Fn(&V) -> Option<usize>,
) -> Result<()> {
    if experts.len() != spec.experts {
        return Err(Error::count("experts", spec.experts, experts.len()));
    }
    let (hidden, intermediate) = (spec.hidden, spec.intermediate);
    for (index, expert) in experts.iter().enumerate() {
        let linear = |name: &str, linear: &Linear<M, V>, [outputs, inputs]: [usize; 2]| {
            check_linear(spec, || format!("expert {index} {name}"), linear, [outputs, inputs], &len)
        };
        match (spec.gated, &expert.gate_proj) {
            (true, Some(gate)) => linear("gate_proj", gate, [intermediate, hidden])?,
            (false, None) => {}
            (gated, _) => {
                let text = |gate: bool| if gate { "[I, H]" } else { "none" }.to_owned();
                return Err(Error::Shape {
                    what: format!("expert {index} gate_proj"),
                    expected: text(gated),
                    got: text(!gated),
                });
            }
        }
        linear("up_proj", &expert.up_proj, [intermediate, hidden])?;
        linear("down_proj", &expert.down_proj, [hidden, intermediate])?;
    }
    Ok(())
}

fn check_linear<M: Weight, V>(
    spec: &ExpertsSpec,
    what: impl Fn() -> String,
    linear: &Linear<M, V>,
    [outputs, inputs]: [usize; 2],
    len: impl Fn(&V) -> Option<usize>,
) -> Result<()> {
    let got = [linear.weight.rows(), linear.weight.cols()];
    if got != [outputs, inputs] {
        return Err(Error::shape(what(), [outputs, inputs], got));
    }
    if linear.weight.format() != spec.format {
        let got = linear.weight.format();
        return Err(Error::Format { what: what(), expected: spec.format, got });
    }
    let biases = linear.bias.as_ref().map(|bias| len(bias).unwrap_or(outputs));
    if biases != spec.bias.then_some(outputs) {
        return Err(Error::Shape {
            what: format!("{} bias", what()),
            expected: if spec.bias { format!("[{outputs}]") } else { "none".into() },
            got: biases.map_or("none".into(), |len| format!("[{len}]")),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(rows: usize, cols: usize) -> Linear<Matrix, Vec<f32>> {
        let weight = Matrix::from_vec(rows, cols, vec![0.0_f32; rows * cols]).unwrap();
        Linear { weight, bias: None }
    }

    #[test]
    fn weights_that_differ_from_the_description_are_refused() {
        let expert = Expert {
            gate_proj: Some(linear(2, 4)),
            up_proj: linear(2, 4),
            down_proj: linear(4, 2),
        };
        let refused = |spec: ExpertsSpec, experts: &[Expert<Matrix, Vec<f32>>]| {
            let result = check(&spec, experts, |bias: &Vec<f32>| Some(bias.len()));
            result.err().map(|error| error.to_string())
        };
        let spec = ExpertsSpec::gated_silu(4, 2, 1, WeightFormat::F32);
        let experts = std::slice::from_ref(&expert);
        assert_eq!(refused(spec, experts), None);
        for (spec, expected) in [
            (spec.with_experts(2), "expected 2 experts, got 1"),
            (spec.ungated(), "expert 0 gate_proj has shape [I, H], expected none"),
            (spec.with_bias(), "expert 0 gate_proj bias has shape none, expected [2]"),
            (
                spec.with_format(WeightFormat::BF16),
                "expert 0 gate_proj has format f32, expected bf16",
            ),
            (
                ExpertsSpec { hidden: 3, ..spec },
                "expert 0 gate_proj has shape [2, 4], expected [2, 3]",
            ),
        ] {
            assert_eq!(refused(spec, experts).as_deref(), Some(expected));
        }
    }

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
