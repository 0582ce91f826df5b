//! From tensor names to layers on a device.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use moexperts_core::{
    DType, Device, DeviceLinear, Expert, Experts, ExpertsSpec, GateUpLayout, Linear, Matrix,
    Orientation,
};

use super::{
    decoder::{Attention, Decoder, GatedMlp, Layer, Mlp, Moe, SharedExpert},
    spec::{DecoderSpec, LayerSpec, MlpSpec, MoeSpec, QkNorm},
    weights::Weights,
};
use crate::{
    error::{Error, Result},
    progress::Amount,
};

/// What is told of experts that are converted.
const CONVERSION: &str = "converting the experts";

/// Names and shapes [E, out, in] of the fused projections of a layer's experts.
fn fused_tensors(spec: &MoeSpec, hidden: usize, experts: &str) -> [(String, [usize; 3]); 2] {
    let (count, inner) = (spec.num_experts, spec.moe_intermediate_size);
    [
        (format!("{experts}.gate_up_proj"), [count, 2 * inner, hidden]),
        (format!("{experts}.down_proj"), [count, hidden, inner]),
    ]
}

/// Whether a layer's fused experts are stored [E, in, out], as the family's checkpoints have them
/// but those that transformers 5 saves do not.
fn is_exchanged<D: Device>(
    weights: &Weights<'_, D>,
    spec: &MoeSpec,
    hidden: usize,
    experts: &str,
) -> bool {
    let [gate_up, down] = fused_tensors(spec, hidden, experts);
    // A square says nothing, and only one of the two can be one.
    let (name, shape) = if 2 * spec.moe_intermediate_size == hidden { down } else { gate_up };
    let stored = weights.shape(&name);
    spec.fused == Orientation::InOut && stored.is_some_and(|stored| stored != shape)
}

/// Bytes of the fused experts that are stored [E, in, out].
fn to_exchange<D: Device>(spec: &DecoderSpec, weights: &Weights<'_, D>) -> u64 {
    let (mut bytes, hidden) = (0, spec.hidden_size);
    for (index, layer) in spec.layers.iter().enumerate() {
        let MlpSpec::Moe(moe) = &layer.mlp else { continue };
        for module in moe.names.modules {
            let experts = format!("{}.layers.{index}.{module}.experts", spec.module);
            if is_exchanged(weights, moe, hidden, &experts) {
                for (name, _) in fused_tensors(moe, hidden, &experts) {
                    bytes += weights.used_bytes(&name) as u64;
                }
            }
        }
    }
    bytes
}

/// Reads the tensors of one decoder.
struct Loader<'w, 'a, D> {
    weights: &'w mut Weights<'a, D>,
    hidden_size: usize,
}

impl<D: Device> Decoder<D> {
    /// Finds the weights of `spec`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a tensor that is missing or of another shape.
    pub fn load(spec: DecoderSpec, weights: &mut Weights<'_, D>) -> Result<Self> {
        let (device, hidden_size) = (weights.device().clone(), spec.hidden_size);
        let module = |name: &str| format!("{}.{name}", spec.module);
        let table = [spec.vocab_size, hidden_size];
        let embed_tokens = Arc::new(weights.linear(&module("embed_tokens"), table, false)?);
        let lm_head = match spec.tie_word_embeddings {
            true => None,
            false => Some(Arc::new(weights.linear("lm_head", table, false)?)),
        };
        let norm = Arc::new(weights.vector(&module("norm.weight"), hidden_size)?);
        let conversion = to_exchange(&spec, weights);
        let progress = weights.progress();
        if conversion > 0 {
            tracing::info!(bytes = conversion, "converting experts stored [in, out]");
            progress.start(CONVERSION, Amount::Bytes(conversion));
        }
        let mut loader = Loader { weights, hidden_size };
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            layers.push(loader.layer(&spec, layer, &module(&format!("layers.{index}")))?);
        }
        if conversion > 0 {
            progress.finish(CONVERSION);
        }
        static LOADED: AtomicU64 = AtomicU64::new(0);
        let number = LOADED.fetch_add(1, Ordering::Relaxed);
        Ok(Self { device, number, spec, embed_tokens, layers, norm, lm_head })
    }
}

impl<D: Device> Loader<'_, '_, D> {
    fn layer(&mut self, spec: &DecoderSpec, layer: &LayerSpec, prefix: &str) -> Result<Layer<D>> {
        let mlp = match &layer.mlp {
            MlpSpec::Dense { intermediate_size, activation } => Mlp::Dense {
                mlp: self.gated_mlp(&format!("{prefix}.mlp"), *intermediate_size)?,
                activation: *activation,
            },
            MlpSpec::Moe(moe) => Mlp::Moe(self.moe(moe, prefix)?),
        };
        Ok(Layer {
            input_layernorm: self.norm(&format!("{prefix}.input_layernorm"), self.hidden_size)?,
            attention: self.attention(spec, layer, &format!("{prefix}.self_attn"))?,
            post_attention_layernorm: self
                .norm(&format!("{prefix}.post_attention_layernorm"), self.hidden_size)?,
            mlp,
        })
    }

    fn linear(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
    ) -> Result<Arc<DeviceLinear<D>>> {
        self.weights.linear(name, shape, bias).map(Arc::new)
    }

    fn norm(&mut self, name: &str, len: usize) -> Result<Arc<D::Vector>> {
        self.weights.vector(&format!("{name}.weight"), len).map(Arc::new)
    }

    fn attention(
        &mut self,
        spec: &DecoderSpec,
        layer: &LayerSpec,
        prefix: &str,
    ) -> Result<Attention<D>> {
        let shape = spec.attention;
        let (hidden, head_dim) = (self.hidden_size, shape.head_dim);
        let (queries, keys) = (shape.heads * head_dim, shape.kv_heads * head_dim);
        let name = |name: &str| format!("{prefix}.{name}");
        let norms = match layer.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some([head_dim, head_dim]),
            QkNorm::Whole => Some([queries, keys]),
        };
        let qk_norm = match norms {
            None => None,
            Some([q, k]) => Some([self.norm(&name("q_norm"), q)?, self.norm(&name("k_norm"), k)?]),
        };
        Ok(Attention {
            q_proj: self.linear(&name("q_proj"), [queries, hidden], layer.qkv_bias)?,
            k_proj: self.linear(&name("k_proj"), [keys, hidden], layer.qkv_bias)?,
            v_proj: self.linear(&name("v_proj"), [keys, hidden], layer.qkv_bias)?,
            o_proj: self.linear(&name("o_proj"), [hidden, queries], layer.o_bias)?,
            qk_norm,
        })
    }

    fn moe(&mut self, spec: &MoeSpec, prefix: &str) -> Result<Moe<D>> {
        let modules = spec.names.modules.iter().map(|module| format!("{prefix}.{module}"));
        let candidates: Vec<String> = modules.collect();
        let has_router = |module: &&String| self.weights.contains(&format!("{module}.gate.weight"));
        let module = candidates.iter().find(has_router).unwrap_or(&candidates[0]).clone();
        let router_shape = [spec.num_experts, self.hidden_size];
        let shared_expert = match spec.shared_expert {
            None => None,
            Some(shared) => {
                let name = format!("{module}.shared_expert");
                let mlp = self.gated_mlp(&name, shared.intermediate_size)?;
                let gate = self.linear(&format!("{name}_gate"), [1, self.hidden_size], false)?;
                Some(SharedExpert { mlp, gate })
            }
        };
        Ok(Moe {
            gate: self.linear(&format!("{module}.gate"), router_shape, false)?,
            router: spec.router,
            experts: Arc::new(self.experts(spec, &format!("{module}.experts"))?),
            shared_expert,
            activation: spec.activation,
        })
    }

    /// Experts stored one by one, or fused over the layer: the same views either way.
    fn experts(&mut self, spec: &MoeSpec, prefix: &str) -> Result<Experts<D>> {
        let (inner, hidden) = (spec.moe_intermediate_size, self.hidden_size);
        let bare = |weight| Linear { weight, bias: None };
        let mut experts = Vec::with_capacity(spec.num_experts);
        let [gate_up, down] = fused_tensors(spec, hidden, prefix);
        let fused = self.weights.contains(&gate_up.0);
        if fused {
            let exchanged = is_exchanged(self.weights, spec, hidden, prefix);
            let gate_up = self.fused(&gate_up, exchanged)?;
            let down = self.fused(&down, exchanged)?;
            for (gate_up, down) in gate_up.into_iter().zip(down) {
                experts.push(Expert {
                    gate_proj: Some(bare(gate_up.row_range(0..inner))),
                    up_proj: bare(gate_up.row_range(inner..2 * inner)),
                    down_proj: bare(down),
                });
            }
        } else {
            for expert in 0..spec.num_experts {
                let mut load = |name: &str, shape| {
                    self.weights
                        .matrix(&format!("{prefix}.{expert}.{name}.weight"), shape)
                        .map(bare)
                };
                experts.push(Expert {
                    gate_proj: Some(load(spec.names.gate_proj, [inner, hidden])?),
                    up_proj: load(spec.names.up_proj, [inner, hidden])?,
                    down_proj: load(spec.names.down_proj, [hidden, inner])?,
                });
            }
        }
        let dtype = experts.first().map_or(DType::F32, |expert| expert.up_proj.weight.dtype());
        let description = ExpertsSpec {
            activation: spec.activation,
            gate_up: if fused { GateUpLayout::Concatenated } else { GateUpLayout::Separate },
            orientation: Orientation::OutIn,
            ..ExpertsSpec::gated_silu(hidden, inner, spec.num_experts, dtype)
        };
        Experts::load(self.weights.device(), description, experts).map_err(|error| {
            Error::Checkpoint { file: prefix.to_owned(), problem: error.to_string() }
        })
    }

    /// A projection of each expert, stored [E, out, in], or [E, in, out] if `exchanged`.
    fn fused(
        &mut self,
        (name, shape): &(String, [usize; 3]),
        exchanged: bool,
    ) -> Result<Vec<Matrix>> {
        if !exchanged {
            return self.weights.stack(name, *shape);
        }
        let exchanged = self.weights.stack_exchanged(name, *shape)?;
        let bytes: usize = exchanged.iter().map(Matrix::size_bytes).sum();
        self.weights.progress().advance(CONVERSION, bytes as u64);
        Ok(exchanged)
    }

    fn gated_mlp(&mut self, prefix: &str, inner: usize) -> Result<GatedMlp<D>> {
        let hidden = self.hidden_size;
        Ok([
            self.linear(&format!("{prefix}.gate_proj"), [inner, hidden], false)?,
            self.linear(&format!("{prefix}.up_proj"), [inner, hidden], false)?,
            self.linear(&format!("{prefix}.down_proj"), [hidden, inner], false)?,
        ])
    }
}
