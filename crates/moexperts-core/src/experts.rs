//! An experts layer: its description and its weights.

use crate::{
    DType, Device, Matrix, TypedCache, Weight,
    error::{Error, Result},
};

/// What stands between an expert's first products and its last.
#[derive(Debug, Clone, Copy, PartialEq)]
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

/// How a checkpoint stores the gate and the up projection of an expert.
///
/// Where rows are outputs, all three are used in place: an interleaved gate is every second row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateUpLayout {
    /// Two tensors.
    Separate,
    /// One tensor, all gate rows before all up rows.
    Concatenated,
    /// One tensor, gate and up rows in turn.
    Interleaved,
}

/// Which axis of a stored projection comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// `[out, in]`: a row holds the weights of one output.
    OutIn,
    /// `[in, out]`.
    InOut,
}

/// An experts layer as data. A backend says in its `check` which of these it takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertsSpec {
    /// H: width of a token.
    pub hidden: usize,
    /// I: inner width of an expert.
    pub intermediate: usize,
    /// E: experts in the layer.
    pub experts: usize,
    /// Element type of the projections.
    pub dtype: DType,
    /// Whether an expert has a gate projection.
    pub gated: bool,
    /// What stands between the products.
    pub activation: Activation,
    /// Whether the projections have biases.
    pub bias: bool,
    /// How gate and up are stored.
    pub gate_up: GateUpLayout,
    /// Which axis of the projections comes first.
    pub orientation: Orientation,
    /// Whether an RMS norm follows the down product.
    pub post_expert_norm: bool,
}

impl ExpertsSpec {
    /// Gated silu experts without bias, rows as outputs: what most families have.
    pub const fn gated_silu(
        hidden: usize,
        intermediate: usize,
        experts: usize,
        dtype: DType,
    ) -> Self {
        Self {
            hidden,
            intermediate,
            experts,
            dtype,
            gated: true,
            activation: Activation::Silu,
            bias: false,
            gate_up: GateUpLayout::Separate,
            orientation: Orientation::OutIn,
            post_expert_norm: false,
        }
    }

    /// Weights in one expert, biases left out.
    pub const fn weights_per_expert(&self) -> usize {
        let projections = if self.gated { 3 } else { 2 };
        projections * self.hidden * self.intermediate
    }

    /// Bytes of one expert's weights, biases left out.
    pub const fn bytes_per_expert(&self) -> usize {
        self.weights_per_expert() * self.dtype.size_bytes()
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
    /// [`Error::Shape`] or [`Error::DType`] where the weights are not what `spec` says, and what
    /// the device returns.
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
    /// [`Error::Shape`] or [`Error::DType`] where the weights are not what `spec` says.
    pub fn resident(spec: ExpertsSpec, experts: Vec<Expert<D::Matrix, D::Vector>>) -> Result<Self> {
        check(&spec, &experts, |_| None)?;
        Ok(Self { spec, experts, cache: TypedCache::default() })
    }

    /// A layer of the experts of some layers, which share their elements with it: all of this
    /// layer's, then those of `others`, as the experts from E on.
    ///
    /// # Panics
    /// If one of the others is not of the shape and dtype of this layer's.
    #[must_use]
    pub fn joined(&self, others: Vec<Expert<D::Matrix, D::Vector>>) -> Self {
        let shape = |expert: &Expert<D::Matrix, D::Vector>| {
            let [up, down] = [&expert.up_proj, &expert.down_proj].map(|linear| {
                let weight = &linear.weight;
                (weight.rows(), weight.cols(), weight.dtype(), linear.bias.is_some())
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
        return Err(Error::Shape {
            what: "experts".into(),
            expected: format!("[{}]", spec.experts),
            got: format!("[{}]", experts.len()),
        });
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
    let expected = match spec.orientation {
        Orientation::OutIn => [outputs, inputs],
        Orientation::InOut => [inputs, outputs],
    };
    let got = [linear.weight.rows(), linear.weight.cols()];
    if got != expected {
        return Err(Error::shape(what(), expected, got));
    }
    if linear.weight.dtype() != spec.dtype {
        let got = linear.weight.dtype();
        return Err(Error::DType { what: what(), expected: spec.dtype, got });
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
