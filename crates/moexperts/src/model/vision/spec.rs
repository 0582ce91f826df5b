//! What a family says about a vision tower: everything but the weights.

use moexperts_core::Activation;

/// A vision transformer over patches of frames, merged into rows of a decoder.
#[derive(Debug, Clone, PartialEq)]
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

    /// Weights of the tower, norms and biases left out.
    pub fn total_weights(&self) -> usize {
        let positions = self.hidden_size * self.position_side * self.position_side;
        positions + self.weights_per_patch() + self.weights_per_row()
    }

    /// Multiplications and additions of the forward over patches in time, height and width: of
    /// all weights, and of the attention, in which a patch sees its own frame.
    pub fn flops(&self, [t, h, w]: [usize; 3]) -> usize {
        let (frame, merge) = (h * w, self.spatial_merge_size);
        let patches = t * frame;
        let rows = patches / (merge * merge);
        let weights = patches * self.weights_per_patch() + rows * self.weights_per_row();
        // Scores and values: two products of a frame's patches with each other.
        2 * weights + 4 * self.depth * t * frame * frame * self.hidden_size
    }

    /// Weights a patch is multiplied with, up to the mergers.
    fn weights_per_patch(&self) -> usize {
        let c = self.hidden_size;
        let block = 4 * c * c + 2 * c * self.intermediate_size;
        c * self.patch_len() + self.depth * block
    }

    /// Weights of the mergers, which make rows of the decoder.
    fn weights_per_row(&self) -> usize {
        let merged = self.merged_size();
        let merger = merged * (merged + self.out_hidden_size);
        (1 + self.deepstack_visual_indexes.len()) * merger
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
