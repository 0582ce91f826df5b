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
        let (c, merged) = (self.hidden_size, self.merged_size());
        let block = 4 * c * c + 2 * c * self.intermediate_size;
        let merger = merged * (merged + self.out_hidden_size);
        let embeddings = c * (self.patch_len() + self.position_side * self.position_side);
        embeddings + self.depth * block + (1 + self.deepstack_visual_indexes.len()) * merger
    }
}
