//! Pixels, normalized and cut into patches.

use std::{fmt, ops::Range};

use super::settings::Settings;
use crate::error::{Error, Result};

/// Colours of a pixel.
const CHANNELS: usize = 3;

/// Values of the largest image that is decoded, in patches of two frames: 4 GiB. A config may demand
/// any number of pixels and of frames in a patch, and memory is taken for no more than these.
const MAX_VALUES: usize = 1 << 30;

/// Pixel patches of one image or video, as a vision tower takes them.
///
/// Patches stand in blocks of `merge_size` x `merge_size`, which become one token each: blocks by
/// time, from top to bottom and from left to right, and likewise the patches in a block.
#[derive(Clone, PartialEq)]
pub struct PixelValues {
    grid_thw: [usize; 3],
    patch_len: usize,
    values: Vec<f32>,
}

impl PixelValues {
    /// Patches that were made elsewhere: `values` [product of `grid_thw`, `patch_len`], row-major.
    ///
    /// # Errors
    /// [`moexperts_core::Error::Count`] if there are more or fewer values.
    pub fn new(grid_thw: [usize; 3], patch_len: usize, values: Vec<f32>) -> Result<Self> {
        let sizes = grid_thw.into_iter().chain([patch_len]);
        let len = sizes.fold(1, |product: usize, size| product.saturating_mul(size));
        if len != values.len() {
            let [t, h, w] = grid_thw;
            let expected = format!("{len} ({t} x {h} x {w} patches of {patch_len})");
            let error = moexperts_core::Error::count("pixel values", expected, values.len());
            return Err(Error::from(error));
        }
        Ok(Self { grid_thw, patch_len, values })
    }

    /// Patches over time, height and width.
    pub fn grid_thw(&self) -> [usize; 3] {
        self.grid_thw
    }

    /// How many patches there are: the product of the grid.
    pub fn patches(&self) -> usize {
        self.grid_thw.iter().product()
    }

    /// Values of a patch: channels x `temporal_patch_size` x `patch_size`².
    pub fn patch_len(&self) -> usize {
        self.patch_len
    }

    /// All values, [patches, channels, temporal_patch_size, patch_size, patch_size], row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

impl fmt::Debug for PixelValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PixelValues").field("grid_thw", &self.grid_thw).finish_non_exhaustive()
    }
}

/// Patches that are being filled with frames.
pub(super) struct Patches {
    pixels: PixelValues,
    /// What each byte of each channel becomes.
    normalized: [[f32; 256]; CHANNELS],
    temporal: usize,
    patch: usize,
    merge: usize,
}

impl Patches {
    /// `steps` of time of frames of [height, width], whole blocks of patches.
    ///
    /// # Errors
    /// In words, if these are more than [`MAX_VALUES`].
    pub(super) fn new(
        settings: &Settings,
        steps: usize,
        [height, width]: [usize; 2],
    ) -> Result<Self, String> {
        let (patch, temporal) = (settings.patch_size, settings.temporal_patch_size);
        let len = [CHANNELS, temporal, steps, height, width]
            .into_iter()
            .try_fold(1_usize, usize::checked_mul)
            .filter(|&len| len <= MAX_VALUES);
        let Some(len) = len else {
            return Err(format!(
                "becomes {steps} times {temporal} frames of {width}x{height} pixels, expected at \
                 most {MAX_VALUES} values; scale it down"
            ));
        };
        let patch_len = CHANNELS * temporal * patch * patch;
        let grid_thw = [steps, height / patch, width / patch];
        let pixels = PixelValues { grid_thw, patch_len, values: vec![0.0; len] };
        let normalized = normalized(settings);
        Ok(Self { pixels, normalized, temporal, patch, merge: settings.merge_size })
    }

    /// Puts a frame into step `step` of time, in these places of the patches.
    pub(super) fn put(&mut self, rgb: &[u8], step: usize, slots: Range<usize>) {
        let (patch, merge) = (self.patch, self.merge);
        let [_, grid_height, grid_width] = self.pixels.grid_thw;
        let (area, patch_len) = (patch * patch, self.pixels.patch_len);
        let patches = grid_height * grid_width;
        let values = &mut self.pixels.values[step * patches * patch_len..][..patches * patch_len];
        for (y, row) in rgb.chunks_exact(grid_width * patch * CHANNELS).enumerate() {
            let (grid_y, patch_y) = (y / patch, y % patch);
            for (grid_x, pixels) in row.chunks_exact(patch * CHANNELS).enumerate() {
                let block = grid_y / merge * (grid_width / merge) + grid_x / merge;
                let index = (block * merge + grid_y % merge) * merge + grid_x % merge;
                let values = &mut values[index * patch_len..][..patch_len];
                for (channel, table) in self.normalized.iter().enumerate() {
                    for slot in slots.clone() {
                        let start = (channel * self.temporal + slot) * area + patch_y * patch;
                        let line = &mut values[start..][..patch];
                        for (value, pixel) in line.iter_mut().zip(pixels.chunks_exact(CHANNELS)) {
                            *value = table[usize::from(pixel[channel])];
                        }
                    }
                }
            }
        }
    }

    /// The patches, once every frame is in its place.
    pub(super) fn finish(self) -> PixelValues {
        self.pixels
    }
}

/// Rescaling and normalizing are one step in the original, in f32, mean and deviation scaled up
/// instead of the pixels down; the last bits depend on it.
fn normalized(settings: &Settings) -> [[f32; 256]; CHANNELS] {
    let (rescale, normalize) = (settings.do_rescale, settings.do_normalize);
    let scale = if rescale { (1.0 / settings.rescale_factor) as f32 } else { 1.0 };
    std::array::from_fn(|channel| {
        let mean = settings.image_mean[channel] * scale;
        let std = settings.image_std[channel] * scale;
        std::array::from_fn(|byte| match (normalize, rescale) {
            (true, _) => (byte as f32 - mean) / std,
            (false, true) => byte as f32 * settings.rescale_factor as f32,
            (false, false) => byte as f32,
        })
    })
}
