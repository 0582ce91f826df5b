//! From tensor names to a vision tower on a device.

use moexperts_core::{Device, DeviceLinear};

use super::{
    VisionSpec, VisionTower,
    tower::{Block, Merger, Norm},
};
use crate::{error::Result, model::Weights};

impl<D: Device> VisionTower<D> {
    /// Finds the weights of `spec`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) for a tensor that is missing or of another
    /// shape.
    pub fn load(spec: VisionSpec, weights: &mut Weights<'_, D>) -> Result<Self> {
        let device = weights.device().clone();
        let module = |name: &str| format!("{}.{name}", spec.module);
        let (c, merged) = (spec.hidden_size, spec.merged_size());
        let (frames, side) = (spec.temporal_patch_size, spec.patch_size);
        // A convolution whose filters do not overlap is a product of patches.
        let filters = [c, spec.in_channels, frames, side, side];
        let filters = weights.filters(&module("patch_embed.proj.weight"), &filters)?;
        let dtype = filters.dtype();
        let bias = weights.vector(&module("patch_embed.proj.bias"), c)?;
        let patch_embed = weights.bring(filters, Some(bias))?;
        let places = spec.position_side * spec.position_side;
        let pos_embed = weights.matrix(&module("pos_embed.weight"), [places, c])?;
        let pos_embed = device.load_matrix(pos_embed)?;
        let blocks =
            (0..spec.depth).map(|index| block(weights, &spec, &module(&format!("blocks.{index}"))));
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let merger_of = |weights: &mut Weights<'_, D>, name: &str, norm_size| {
            let widths = [merged, merged, spec.out_hidden_size];
            Ok(Merger {
                norm: norm(weights, &format!("{name}.norm"), norm_size)?,
                mlp: mlp(weights, name, widths)?,
            })
        };
        let merger = merger_of(weights, &module("merger"), c)?;
        let deepstack_mergers = (0..spec.deepstack_visual_indexes.len())
            .map(|index| {
                merger_of(weights, &module(&format!("deepstack_merger_list.{index}")), merged)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { device, spec, dtype, patch_embed, pos_embed, blocks, merger, deepstack_mergers })
    }
}

fn block<D: Device>(
    weights: &mut Weights<'_, D>,
    spec: &VisionSpec,
    module: &str,
) -> Result<Block<D>> {
    let c = spec.hidden_size;
    let of = |name: &str| format!("{module}.{name}");
    Ok(Block {
        norm1: norm(weights, &of("norm1"), c)?,
        qkv: qkv(weights, &of("attn.qkv"), c)?,
        proj: weights.linear(&of("attn.proj"), [c, c], true)?,
        norm2: norm(weights, &of("norm2"), c)?,
        mlp: mlp(weights, &of("mlp"), [c, spec.intermediate_size, c])?,
    })
}

/// Queries, keys and values, stored one below the other.
fn qkv<D: Device>(
    weights: &mut Weights<'_, D>,
    name: &str,
    c: usize,
) -> Result<[DeviceLinear<D>; 3]> {
    let whole = weights.matrix(&format!("{name}.weight"), [3 * c, c])?;
    let bias = weights.host_vector(&format!("{name}.bias"), 3 * c)?;
    let part = |index: usize| {
        let rows = index * c..(index + 1) * c;
        let bias = weights.device().load_vector(bias[rows.clone()].to_vec())?;
        weights.bring(whole.row_range(rows), Some(bias))
    };
    Ok([part(0)?, part(1)?, part(2)?])
}

fn norm<D: Device>(weights: &Weights<'_, D>, name: &str, len: usize) -> Result<Norm<D>> {
    Ok(Norm {
        weight: weights.vector(&format!("{name}.weight"), len)?,
        bias: weights.vector(&format!("{name}.bias"), len)?,
    })
}

/// Two layers, from the first width over the second to the third.
fn mlp<D: Device>(
    weights: &mut Weights<'_, D>,
    module: &str,
    [inputs, inner, outputs]: [usize; 3],
) -> Result<[DeviceLinear<D>; 2]> {
    Ok([
        weights.linear(&format!("{module}.linear_fc1"), [inner, inputs], true)?,
        weights.linear(&format!("{module}.linear_fc2"), [outputs, inner], true)?,
    ])
}
