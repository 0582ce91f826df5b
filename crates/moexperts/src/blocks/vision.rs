//! A vision tower: a transformer over patches of frames, whose last rows a decoder reads.

use moexperts_core::{Activation, AttentionSpec, Device, RopePairing};

use crate::{
    error::Result,
    graph::{Builder, Graph, Value, ValueRows},
    weights::{Share, TensorKind, Tensors, Weights},
};

/// A vision transformer over patches of frames, merged into rows of a decoder.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VisionSpec {
    /// Its sub-config in `config.json`: `vision_config`.
    pub backbone: &'static str,
    /// The module its tensors are in: `model.visual`.
    pub module: &'static str,
    /// Blocks.
    pub depth: usize,
    /// C: width of a patch in the tower.
    pub hidden_size: usize,
    /// Inner width of a block's mlp.
    pub intermediate_size: usize,
    /// Attention heads.
    pub heads: usize,
    /// Channels of a picture.
    pub in_channels: usize,
    /// Pixels a patch is high and wide.
    pub patch_size: usize,
    /// Frames a patch is long.
    pub temporal_patch_size: usize,
    /// Patches that become one row of the decoder, in height and in width.
    pub spatial_merge_size: usize,
    /// H: width of the decoder.
    pub out_hidden_size: usize,
    /// Height and width of the square of learned position embeddings.
    pub position_side: usize,
    /// Blocks after which features leave for the decoder's first layers, in this order.
    pub deepstack_visual_indexes: Vec<usize>,
    /// What stands between the products of a block's mlp.
    pub activation: Activation,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f32,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// What stands for pictures in a prompt.
    pub tokens: VisionTokens,
}

/// The token ids that stand for pictures in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VisionTokens {
    /// One for each row an image takes: `<|image_pad|>`.
    pub image: u32,
    /// One for each row a video takes: `<|video_pad|>`.
    pub video: u32,
    /// Before an image or a frame: `<|vision_start|>`.
    pub vision_start: u32,
    /// After it: `<|vision_end|>`.
    pub vision_end: u32,
}

impl VisionSpec {
    /// Pixels of a patch: channels, frames, rows and columns of it.
    pub fn patch_len(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Width of the patches that are merged into one row, side by side.
    pub fn merged_size(&self) -> usize {
        self.hidden_size * self.spatial_merge_size * self.spatial_merge_size
    }

    /// Lists every tensor of the tower.
    pub(crate) fn tensors(&self, list: &mut Tensors<'_>) {
        let (c, merged) = (self.hidden_size, self.merged_size());
        let module = |name: &str| format!("{}.{name}", self.module);
        // A convolution whose filters do not overlap is a product of patches.
        let filters =
            [c, self.in_channels, self.temporal_patch_size, self.patch_size, self.patch_size];
        let projection = module("patch_embed.proj");
        list.push(format!("{projection}.weight"), &filters, TensorKind::Matrix, Share::All);
        list.bias(format!("{projection}.bias"), c);
        let places = [self.position_side * self.position_side, c];
        list.push(module("pos_embed.weight"), &places, TensorKind::Embedding, Share::Row);
        for index in 0..self.depth {
            let of = |name: &str| module(&format!("blocks.{index}.{name}"));
            layer_norm(list, &of("norm1"), c);
            list.linear(&of("attn.qkv"), [3 * c, c], true);
            list.linear(&of("attn.proj"), [c, c], true);
            layer_norm(list, &of("norm2"), c);
            mlp(list, &of("mlp"), [c, self.intermediate_size, c]);
        }
        let mut merger = |name: &str, norm| {
            layer_norm(list, &format!("{}.norm", module(name)), norm);
            mlp(list, &module(name), [merged, merged, self.out_hidden_size]);
        };
        merger("merger", c);
        for index in 0..self.deepstack_visual_indexes.len() {
            merger(&format!("deepstack_merger_list.{index}"), merged);
        }
    }

    /// The tower over the patches of a picture: the rows for the decoder, then what each of
    /// `deepstack_visual_indexes` adds to its first layers.
    pub(crate) fn build<D: Device>(&self, weights: &mut Weights<'_, D>) -> Result<Graph<D>> {
        let mut builder = Tower { spec: self, weights, graph: Builder::new() };
        let outputs = builder.build()?;
        Ok(builder.graph.finish(outputs))
    }

    /// Weights of the tower, norms and biases left out.
    pub fn total_weights(&self) -> usize {
        let positions = self.hidden_size as u128 * (self.position_side as u128).pow(2);
        narrowed(positions + self.weights_per_patch() + self.weights_per_row())
    }

    /// Multiplications and additions of the forward over patches in time, height and width: of
    /// all weights, and of the attention, in which a patch sees its own frame.
    pub fn flops(&self, [t, h, w]: [usize; 3]) -> usize {
        let [t, h, w, merge] = [t, h, w, self.spatial_merge_size].map(|size| size as u128);
        let frame = h * w;
        let patches = t * frame;
        let rows = patches / (merge * merge);
        let weights = patches * self.weights_per_patch() + rows * self.weights_per_row();
        // Scores and values: two products of a frame's patches with each other.
        let scores = 4 * self.depth as u128 * t * frame * frame * self.hidden_size as u128;
        narrowed(2 * weights + scores)
    }

    /// Weights a patch is multiplied with, up to the mergers; wide, because a description may be
    /// larger than any memory.
    fn weights_per_patch(&self) -> u128 {
        let (c, inner) = (self.hidden_size as u128, self.intermediate_size as u128);
        let block = 4 * c * c + 2 * c * inner;
        c * self.patch_len() as u128 + self.depth as u128 * block
    }

    /// Weights of the mergers, which make rows of the decoder.
    fn weights_per_row(&self) -> u128 {
        let (merged, out) = (self.merged_size() as u128, self.out_hidden_size as u128);
        (1 + self.deepstack_visual_indexes.len() as u128) * merged * (merged + out)
    }
}

fn narrowed(count: u128) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Weight and bias of a layer norm.
fn layer_norm(list: &mut Tensors<'_>, name: &str, len: usize) {
    list.norm(name, len);
    list.bias(format!("{name}.bias"), len);
}

/// Two layers, from the first width over the second to the third.
fn mlp(list: &mut Tensors<'_>, module: &str, [inputs, inner, outputs]: [usize; 3]) {
    list.linear(&format!("{module}.linear_fc1"), [inner, inputs], true);
    list.linear(&format!("{module}.linear_fc2"), [outputs, inner], true);
}

/// A tower on its way into a graph.
struct Tower<'t, 'w, D: Device> {
    spec: &'t VisionSpec,
    weights: &'t mut Weights<'w, D>,
    graph: Builder<D>,
}

impl<D: Device> Tower<'_, '_, D> {
    fn module(&self, name: &str) -> String {
        format!("{}.{name}", self.spec.module)
    }

    fn build(&mut self) -> Result<Vec<Value>> {
        let spec = self.spec;
        let pixels = self.graph.pixels(spec.patch_len());
        let name = self.module("patch_embed.proj");
        let patch_embed = self.weights.filters(&name)?;
        let mut x = self.graph.linear("patch_embed", pixels, patch_embed);
        let name = self.module("pos_embed.weight");
        let table = self.weights.table(&name)?;
        let positions = self.graph.embedding_bag("pos_embed", table);
        self.graph.add("pos_embed", x, positions, 1.0);
        let blocks_of_patches =
            ValueRows::Merged(spec.spatial_merge_size * spec.spatial_merge_size);
        let mut deepstack = Vec::new();
        for block in 0..spec.depth {
            self.graph.set_layer(Some(block));
            self.block(block, x)?;
            for (place, &leaves) in spec.deepstack_visual_indexes.iter().enumerate() {
                if leaves == block {
                    let whole = self.graph.reshape(x, blocks_of_patches, spec.merged_size());
                    let name = format!("deepstack_merger_list.{place}");
                    deepstack.push(self.merger(&name, whole)?);
                    x = self.graph.reshape(whole, ValueRows::Tokens, spec.hidden_size);
                }
            }
        }
        self.graph.set_layer(None);
        let embeddings = self.merger("merger", x)?;
        Ok([embeddings].into_iter().chain(deepstack).collect())
    }

    fn block(&mut self, index: usize, x: Value) -> Result<()> {
        let spec = self.spec;
        let of = |name: &str| format!("{}.blocks.{index}.{name}", spec.module);
        let head_dim = spec.hidden_size / spec.heads;
        let normed = self.norm("norm1", &of("norm1"), x)?;
        let qkv = self.weights.split_linear(&of("attn.qkv"))?;
        let [q, k, v] = self.graph.linears("qkv", normed, qkv);
        self.graph.rope(q, 0, head_dim, RopePairing::Halves);
        self.graph.rope(k, 0, head_dim, RopePairing::Halves);
        let attention = AttentionSpec {
            heads: spec.heads,
            kv_heads: spec.heads,
            head_dim,
            value_dim: head_dim,
            scale: (head_dim as f32).powf(-0.5),
            sliding_window: None,
        };
        let attended = self.graph.full_attention([q, k, v], attention);
        let proj = self.weights.linear(&of("attn.proj"))?;
        let out = self.graph.linear("proj", attended, proj);
        self.graph.add("residual", x, out, 1.0);
        let normed = self.norm("norm2", &of("norm2"), x)?;
        let out = self.mlp(&of("mlp"), spec.activation, normed)?;
        self.graph.add("residual", x, out, 1.0);
        Ok(())
    }

    /// Rows of a decoder from `x`, which is in rows of patches or of whole blocks of them.
    fn merger(&mut self, name: &str, x: Value) -> Result<Value> {
        let module = self.module(name);
        let merged = self.spec.merged_size();
        let mut normed = self.norm("norm", &format!("{module}.norm"), x)?;
        if self.graph.cols(normed) != merged {
            let merge = self.spec.spatial_merge_size;
            normed = self.graph.reshape(normed, ValueRows::Merged(merge * merge), merged);
        }
        self.mlp(&module, Activation::Gelu, normed)
    }

    fn norm(&mut self, part: &'static str, name: &str, x: Value) -> Result<Value> {
        let weight = self.weights.norm(name)?;
        let bias = self.weights.vector(&format!("{name}.bias"))?;
        Ok(self.graph.layer_norm(part, x, weight, bias, self.spec.layer_norm_eps))
    }

    fn mlp(&mut self, module: &str, activation: Activation, x: Value) -> Result<Value> {
        let fc1 = self.weights.linear(&format!("{module}.linear_fc1"))?;
        let fc2 = self.weights.linear(&format!("{module}.linear_fc2"))?;
        let inner = self.graph.linear("linear_fc1", x, fc1);
        self.graph.activate(activation, None, inner);
        Ok(self.graph.linear("linear_fc2", inner, fc2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: VisionSpec = VisionSpec {
        backbone: "vision_config",
        module: "model.visual",
        depth: 3,
        hidden_size: 8,
        intermediate_size: 10,
        heads: 2,
        in_channels: 3,
        patch_size: 2,
        temporal_patch_size: 2,
        spatial_merge_size: 2,
        out_hidden_size: 4,
        position_side: 5,
        deepstack_visual_indexes: Vec::new(),
        activation: Activation::Gelu,
        layer_norm_eps: 1e-6,
        rope_theta: 1e4,
        tokens: VisionTokens { image: 0, video: 1, vision_start: 2, vision_end: 3 },
    };

    #[test]
    fn weights_and_flops_by_hand() {
        let with_deepstack = VisionSpec { deepstack_visual_indexes: vec![0, 2], ..SMALL };
        let (embed, block, merger) = (8 * 24, 4 * 64 + 2 * 80, 32 * 32 + 32 * 4);
        for (spec, mergers) in [(SMALL, 1), (with_deepstack, 3)] {
            let per_patch = embed + 3 * block;
            assert_eq!(spec.total_weights(), 25 * 8 + per_patch + mergers * merger);
            // A frame of eight patches becomes two rows.
            let of_weights = 2 * (8 * per_patch + 2 * mergers * merger);
            let attention = 3 * 2 * (2 * 8 * 8 * 8);
            assert_eq!(spec.flops([1, 2, 4]), of_weights + attention);
            assert_eq!(spec.flops([5, 2, 4]), 5 * spec.flops([1, 2, 4]));
        }
    }
}
