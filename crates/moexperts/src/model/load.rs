//! From tensor names to layers on a device.

use moexperts_core::{
    DType, Device, DeviceLinear, Expert, Experts, ExpertsSpec, GateUpLayout, Linear, Matrix,
    Orientation,
};

use super::{
    decoder::{Attention, Decoder, Layer, Mlp, Moe, SharedExpert},
    spec::{DecoderSpec, LayerSpec, MlpSpec, MoeSpec, QkNorm},
};
use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
};

/// What loading had to do beyond mapping files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Bytes of weights used where the checkpoint has them.
    pub in_place_bytes: usize,
    /// Bytes of weights that were converted to another dtype and are held in memory.
    pub converted_bytes: usize,
}

/// Reads the tensors of one decoder.
struct Loader<'a, D> {
    device: &'a D,
    checkpoint: &'a Checkpoint,
    dtype: Option<DType>,
    hidden_size: usize,
    report: LoadReport,
}

impl<D: Device> Decoder<D> {
    /// Finds the weights of `spec` in a checkpoint; `dtype` converts them, `None` takes them as
    /// stored.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a tensor that is missing or of another shape.
    pub fn load(
        device: D,
        spec: DecoderSpec,
        checkpoint: &Checkpoint,
        dtype: Option<DType>,
    ) -> Result<(Self, LoadReport)> {
        let hidden_size = spec.hidden_size;
        let report = LoadReport::default();
        let mut loader = Loader { device: &device, checkpoint, dtype, hidden_size, report };
        let table = [spec.vocab_size, hidden_size];
        let embed_tokens = loader.linear("model.embed_tokens", table, false)?;
        let lm_head = match spec.tie_word_embeddings {
            true => None,
            false => Some(loader.linear("lm_head", table, false)?),
        };
        let norm = loader.vector("model.norm.weight", hidden_size)?;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            layers.push(loader.layer(&spec, layer, &format!("model.layers.{index}"))?);
        }
        let report = loader.report;
        tracing::info!(
            in_place_bytes = report.in_place_bytes,
            converted_bytes = report.converted_bytes,
            "loaded the weights"
        );
        Ok((Self { device, spec, embed_tokens, layers, norm, lm_head }, report))
    }
}

impl<D: Device> Loader<'_, D> {
    fn layer(&mut self, spec: &DecoderSpec, layer: &LayerSpec, prefix: &str) -> Result<Layer<D>> {
        let norm = |name: &str| format!("{prefix}.{name}.weight");
        let mlp = match &layer.mlp {
            MlpSpec::Dense { intermediate_size, activation } => Mlp::Dense {
                mlp: self.gated_mlp(&format!("{prefix}.mlp"), *intermediate_size)?,
                activation: *activation,
            },
            MlpSpec::Moe(moe) => Mlp::Moe(self.moe(moe, prefix)?),
        };
        Ok(Layer {
            input_layernorm: self.vector(&norm("input_layernorm"), self.hidden_size)?,
            attention: self.attention(spec, layer, &format!("{prefix}.self_attn"))?,
            post_attention_layernorm: self
                .vector(&norm("post_attention_layernorm"), self.hidden_size)?,
            mlp,
        })
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
            Some([q, k]) => Some([
                self.vector(&name("q_norm.weight"), q)?,
                self.vector(&name("k_norm.weight"), k)?,
            ]),
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
        let has_router =
            |module: &&String| self.checkpoint.contains(&format!("{module}.gate.weight"));
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
            experts: self.experts(spec, &format!("{module}.experts"))?,
            shared_expert,
            activation: spec.activation,
        })
    }

    /// Experts stored one by one, or fused over the layer: the same views either way.
    fn experts(&mut self, spec: &MoeSpec, prefix: &str) -> Result<Experts<D>> {
        let (inner, hidden) = (spec.moe_intermediate_size, self.hidden_size);
        let bare = |weight| Linear { weight, bias: None };
        let mut experts = Vec::with_capacity(spec.num_experts);
        let fused = self.checkpoint.contains(&format!("{prefix}.gate_up_proj"));
        if fused {
            let count = spec.num_experts;
            let gate_up =
                self.stack(&format!("{prefix}.gate_up_proj"), [count, 2 * inner, hidden])?;
            let down = self.stack(&format!("{prefix}.down_proj"), [count, hidden, inner])?;
            for expert in 0..count {
                let gate = 2 * expert * inner;
                experts.push(Expert {
                    gate_proj: Some(bare(gate_up.row_range(gate..gate + inner))),
                    up_proj: bare(gate_up.row_range(gate + inner..gate + 2 * inner)),
                    down_proj: bare(down.row_range(expert * hidden..(expert + 1) * hidden)),
                });
            }
        } else {
            for expert in 0..spec.num_experts {
                let mut load = |name: &str, shape| {
                    self.matrix(&format!("{prefix}.{expert}.{name}.weight"), shape).map(bare)
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
        Experts::load(self.device, description, experts).map_err(|error| Error::Checkpoint {
            file: prefix.to_owned(),
            problem: error.to_string(),
        })
    }

    fn gated_mlp(&mut self, prefix: &str, inner: usize) -> Result<[DeviceLinear<D>; 3]> {
        let hidden = self.hidden_size;
        Ok([
            self.linear(&format!("{prefix}.gate_proj"), [inner, hidden], false)?,
            self.linear(&format!("{prefix}.up_proj"), [inner, hidden], false)?,
            self.linear(&format!("{prefix}.down_proj"), [hidden, inner], false)?,
        ])
    }

    fn linear(&mut self, name: &str, shape: [usize; 2], bias: bool) -> Result<DeviceLinear<D>> {
        let weight = self.matrix(&format!("{name}.weight"), shape)?;
        let bias = match bias {
            true => Some(self.vector(&format!("{name}.bias"), shape[0])?),
            false => None,
        };
        Ok(Linear { weight: self.device.load_matrix(weight)?, bias })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<D::Vector> {
        Ok(self.device.load_vector(self.checkpoint.vector(name, len)?)?)
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Matrix> {
        let stored = self.checkpoint.matrix(name, shape)?;
        self.convert(stored)
    }

    fn stack(&mut self, name: &str, shape: [usize; 3]) -> Result<Matrix> {
        let stored = self.checkpoint.stack(name, shape)?;
        self.convert(stored)
    }

    fn convert(&mut self, stored: Matrix) -> Result<Matrix> {
        let dtype = self.dtype.unwrap_or(stored.dtype());
        let matrix = stored.to_dtype(dtype)?;
        if dtype == stored.dtype() {
            self.report.in_place_bytes += matrix.size_bytes();
        } else {
            self.report.converted_bytes += matrix.size_bytes();
        }
        Ok(matrix)
    }
}
