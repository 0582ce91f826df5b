//! The tensors of a decoder, as published checkpoints have them: expert by expert.

use moexperts::model::{DecoderSpec, LayerSpec, MlpSpec, MoeSpec, QkNorm};

/// One tensor.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Values,
}

/// What is in a tensor; in the order in which they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Values {
    /// Random ones that tell tokens apart.
    Embedding,
    /// Random ones like those of trained models.
    Weights,
    /// Of norms.
    Ones,
    /// Of biases.
    Zeros,
}

/// The projections of what is no routed expert.
const GATED: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// All tensors, those of the same values one after another: in the order of a forward, and vectors
/// last, so that a vector of odd length moves no matrix away from a cache line.
pub(super) fn of(spec: &DecoderSpec) -> Vec<Tensor> {
    let mut list = List { hidden: spec.hidden_size, all: Vec::new() };
    let table = vec![spec.vocab_size, spec.hidden_size];
    let module = spec.module;
    let embedding = format!("{module}.embed_tokens.weight");
    list.push(embedding, table.clone(), Values::Embedding);
    for (index, layer) in spec.layers.iter().enumerate() {
        list.layer(spec, layer, &format!("{module}.layers.{index}"));
    }
    list.norm(&format!("{module}.norm"), spec.hidden_size);
    if !spec.tie_word_embeddings {
        list.push("lm_head.weight".to_owned(), table, Values::Weights);
    }
    list.all.sort_by_key(|tensor| tensor.values);
    list.all
}

struct List {
    hidden: usize,
    all: Vec<Tensor>,
}

impl List {
    fn layer(&mut self, spec: &DecoderSpec, layer: &LayerSpec, prefix: &str) {
        self.norm(&format!("{prefix}.input_layernorm"), self.hidden);
        self.norm(&format!("{prefix}.post_attention_layernorm"), self.hidden);
        self.attention(spec, layer, &format!("{prefix}.self_attn"));
        match &layer.mlp {
            MlpSpec::Dense { intermediate_size, .. } => {
                self.gated(&format!("{prefix}.mlp"), GATED, *intermediate_size);
            }
            MlpSpec::Moe(moe) => self.moe(moe, &format!("{prefix}.{}", moe.names.modules[0])),
        }
    }

    fn attention(&mut self, spec: &DecoderSpec, layer: &LayerSpec, prefix: &str) {
        let (hidden, head_dim) = (self.hidden, spec.attention.head_dim);
        let queries = spec.attention.heads * head_dim;
        let keys = spec.attention.kv_heads * head_dim;
        let name = |name| format!("{prefix}.{name}");
        self.linear(&name("q_proj"), [queries, hidden], layer.qkv_bias);
        self.linear(&name("k_proj"), [keys, hidden], layer.qkv_bias);
        self.linear(&name("v_proj"), [keys, hidden], layer.qkv_bias);
        self.linear(&name("o_proj"), [hidden, queries], layer.o_bias);
        let norms = match layer.qk_norm {
            QkNorm::None => return,
            QkNorm::PerHead => [head_dim, head_dim],
            QkNorm::Whole => [queries, keys],
        };
        self.norm(&name("q_norm"), norms[0]);
        self.norm(&name("k_norm"), norms[1]);
    }

    fn moe(&mut self, moe: &MoeSpec, prefix: &str) {
        self.linear(&format!("{prefix}.gate"), [moe.num_experts, self.hidden], false);
        let names = [moe.names.gate_proj, moe.names.up_proj, moe.names.down_proj];
        for expert in 0..moe.num_experts {
            let prefix = format!("{prefix}.experts.{expert}");
            self.gated(&prefix, names, moe.moe_intermediate_size);
        }
        if let Some(shared) = moe.shared_expert {
            let prefix = format!("{prefix}.shared_expert");
            self.linear(&format!("{prefix}_gate"), [1, self.hidden], false);
            self.gated(&prefix, GATED, shared.intermediate_size);
        }
    }

    fn gated(&mut self, prefix: &str, [gate, up, down]: [&str; 3], inner: usize) {
        self.linear(&format!("{prefix}.{gate}"), [inner, self.hidden], false);
        self.linear(&format!("{prefix}.{up}"), [inner, self.hidden], false);
        self.linear(&format!("{prefix}.{down}"), [self.hidden, inner], false);
    }

    fn linear(&mut self, name: &str, shape: [usize; 2], bias: bool) {
        self.push(format!("{name}.weight"), shape.to_vec(), Values::Weights);
        if bias {
            self.push(format!("{name}.bias"), vec![shape[0]], Values::Zeros);
        }
    }

    fn norm(&mut self, name: &str, len: usize) {
        self.push(format!("{name}.weight"), vec![len], Values::Ones);
    }

    fn push(&mut self, name: String, shape: Vec<usize>, values: Values) {
        self.all.push(Tensor { name, shape, values });
    }
}
