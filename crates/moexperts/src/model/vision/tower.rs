//! The forward of a vision tower, over any device.

use moexperts_core::{Activation, AttentionSpec, DType, Device, DeviceLinear, Scratch, made};

use super::{VisionSpec, VisualFeatures, grid};
use crate::{
    error::{Error, Result},
    image_processor::PixelValues,
};

/// A vision tower and its weights on a device.
#[derive(Debug)]
pub struct VisionTower<D: Device> {
    pub(super) device: D,
    pub(super) spec: VisionSpec,
    pub(super) dtype: DType,
    pub(super) patch_embed: DeviceLinear<D>,
    pub(super) pos_embed: D::Matrix,
    pub(super) blocks: Vec<Block<D>>,
    pub(super) merger: Merger<D>,
    /// One for each of `deepstack_visual_indexes`.
    pub(super) deepstack_mergers: Vec<Merger<D>>,
}

#[derive(Debug)]
pub(super) struct Block<D: Device> {
    pub(super) norm1: Norm<D>,
    pub(super) qkv: [DeviceLinear<D>; 3],
    pub(super) proj: DeviceLinear<D>,
    pub(super) norm2: Norm<D>,
    pub(super) mlp: [DeviceLinear<D>; 2],
}

/// Weight and bias of a layer norm.
#[derive(Debug)]
pub(super) struct Norm<D: Device> {
    pub(super) weight: D::Vector,
    pub(super) bias: D::Vector,
}

/// Makes one row of a block of patches.
#[derive(Debug)]
pub(super) struct Merger<D: Device> {
    /// Over each patch in the last merger, over the block in the deepstack's.
    pub(super) norm: Norm<D>,
    pub(super) mlp: [DeviceLinear<D>; 2],
}

impl<D: Device> VisionTower<D> {
    /// What it is.
    pub fn spec(&self) -> &VisionSpec {
        &self.spec
    }

    /// Element type of the weights that patches are multiplied with.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where it computes.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// What a decoder reads of an image or a video: a row for each block of
    /// `spatial_merge_size`² patches.
    ///
    /// # Errors
    /// If the pixels are not cut into patches as the tower takes them.
    pub fn features(&self, pixels: &PixelValues) -> Result<VisualFeatures<D>> {
        self.check(pixels)?;
        self.device.enter(|| self.features_inside(pixels))
    }

    fn check(&self, pixels: &PixelValues) -> Result<()> {
        let ([t, h, w], merge) = (pixels.grid_thw(), self.spec.spatial_merge_size);
        let whole = h.is_multiple_of(merge) && w.is_multiple_of(merge) && t * h * w > 0;
        if pixels.patch_len() == self.spec.patch_len() && whole {
            return Ok(());
        }
        Err(Error::from(moexperts_core::Error::Shape {
            what: "pixel values".into(),
            expected: format!("patches of {} in whole blocks of {merge}", self.spec.patch_len()),
            got: format!("{t} x {h} x {w} patches of {}", pixels.patch_len()),
        }))
    }

    fn features_inside(&self, pixels: &PixelValues) -> Result<VisualFeatures<D>> {
        let (device, spec, grid) = (&self.device, &self.spec, pixels.grid_thw());
        let scratch = &mut Scratch::default();
        let patches = pixels.patches();
        let load =
            |cols, values: &[f32]| made(|out| device.load_tensor(patches, cols, values, out));
        let mut x =
            self.linear(&load(spec.patch_len(), pixels.values())?, &self.patch_embed, scratch)?;
        let (rows, weights) = grid::interpolation(spec, grid);
        let positions =
            |out: &mut _| device.embedding_bag(&self.pos_embed, &rows, &weights, grid::TAPS, out);
        device.add(&mut x, &made(positions)?)?;

        let pairs = spec.hidden_size / spec.heads / 2;
        let [cos, sin] = grid::angles(spec, grid);
        let angles = [load(pairs, &cos)?, load(pairs, &sin)?];
        // A patch sees its own frame.
        let frames = vec![grid[1] * grid[2]; grid[0]];
        let mut deepstack = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            self.block(block, &mut x, &angles, &frames, scratch)?;
            for (&leaves, merger) in
                spec.deepstack_visual_indexes.iter().zip(&self.deepstack_mergers)
            {
                if leaves == index {
                    x = device.reshape(x, spec.merged_size())?;
                    deepstack.push(self.merge(merger, &x, scratch)?);
                    x = device.reshape(x, spec.hidden_size)?;
                }
            }
        }
        Ok(VisualFeatures { embeddings: self.merge(&self.merger, &x, scratch)?, deepstack })
    }

    fn block(
        &self,
        block: &Block<D>,
        x: &mut D::Tensor,
        [cos, sin]: &[D::Tensor; 2],
        frames: &[usize],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (device, spec) = (&self.device, &self.spec);
        let head_dim = spec.hidden_size / spec.heads;
        let normed = self.norm(x, &block.norm1)?;
        let mut qkv: [D::Tensor; 3] = Default::default();
        device.linear(&normed, &block.qkv.each_ref(), scratch, &mut qkv)?;
        let [q, k, v] = &mut qkv;
        device.rope(q, head_dim, cos, sin)?;
        device.rope(k, head_dim, cos, sin)?;
        let attention = AttentionSpec {
            heads: spec.heads,
            kv_heads: spec.heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            sliding_window: None,
        };
        let attended = made(|out| device.full_attention([q, k, v], frames, &attention, out))?;
        device.add(x, &self.linear(&attended, &block.proj, scratch)?)?;

        let normed = self.norm(x, &block.norm2)?;
        device.add(x, &self.mlp(&block.mlp, spec.activation, &normed, scratch)?)?;
        Ok(())
    }

    /// Rows of a decoder, from `x` in rows of patches or of whole blocks, as the merger's norm is.
    fn merge(&self, merger: &Merger<D>, x: &D::Tensor, scratch: &mut Scratch) -> Result<D::Tensor> {
        let normed = self.norm(x, &merger.norm)?;
        let merged = self.device.reshape(normed, self.spec.merged_size())?;
        self.mlp(&merger.mlp, Activation::Gelu, &merged, scratch)
    }

    fn norm(&self, x: &D::Tensor, norm: &Norm<D>) -> Result<D::Tensor> {
        let eps = self.spec.layer_norm_eps;
        Ok(made(|out| self.device.layer_norm(x, &norm.weight, &norm.bias, eps, out))?)
    }

    fn mlp(
        &self,
        [fc1, fc2]: &[DeviceLinear<D>; 2],
        activation: Activation,
        x: &D::Tensor,
        scratch: &mut Scratch,
    ) -> Result<D::Tensor> {
        let mut inner = self.linear(x, fc1, scratch)?;
        self.device.activate(activation, None, &mut inner)?;
        self.linear(&inner, fc2, scratch)
    }

    fn linear(
        &self,
        x: &D::Tensor,
        linear: &DeviceLinear<D>,
        scratch: &mut Scratch,
    ) -> Result<D::Tensor> {
        Ok(made(|out| self.device.linear(x, &[linear], scratch, std::slice::from_mut(out)))?)
    }
}
