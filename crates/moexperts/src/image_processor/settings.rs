//! The keys that images and videos share.

use serde::de::DeserializeOwned;

use super::image::Image;
use crate::{
    config::Config,
    error::{Error, Result},
};

/// The longest side of a block of patches, far above any model's.
const LONGEST_BLOCK: usize = 4096;

/// What a key that is absent means, where images and videos differ.
pub(super) struct Defaults {
    /// As [`Settings::size`].
    pub size: [u64; 2],
    /// Keys that go before those of `size`.
    pub older_size_keys: Option<[&'static str; 2]>,
    /// As [`Settings::image_mean`].
    pub image_mean: [f32; 3],
    /// As [`Settings::image_std`].
    pub image_std: [f32; 3],
    /// As [`Settings::patch_size`].
    pub patch_size: usize,
}

/// How pictures are cut into patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatchShape {
    /// Pixels along a side of a patch.
    pub patch_size: usize,
    /// Frames in a patch.
    pub temporal_patch_size: usize,
    /// Patches along a side of a block, which is one token of the prompt.
    pub merge_size: usize,
}

/// How pixels between two pixels are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resample {
    /// `2`.
    Bilinear,
    /// `3`.
    Bicubic,
}

/// The keys that images and videos share.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub do_resize: bool,
    /// The fewest and the most pixels.
    pub size: [u64; 2],
    pub resample: Resample,
    pub do_rescale: bool,
    pub rescale_factor: f64,
    pub do_normalize: bool,
    pub image_mean: [f32; 3],
    pub image_std: [f32; 3],
    /// Pixels along a side of a patch.
    pub patch_size: usize,
    /// Frames in a patch.
    pub temporal_patch_size: usize,
    /// Patches along a side of a block.
    pub merge_size: usize,
}

impl Settings {
    pub(super) fn read(config: &Config, defaults: &Defaults) -> Result<Self> {
        config.optional::<bool>("do_convert_rgb")?;
        let resample = match config.or::<i64>("resample", 3)? {
            2 => Resample::Bilinear,
            3 => Resample::Bicubic,
            _ => return Err(config.refused("resample", "2 (bilinear) or 3 (bicubic)")),
        };
        let length = |key, default| -> Result<usize> {
            checked(config, key, default, "a positive integer", |&length| length > 0)
        };
        let patch_size = length("patch_size", defaults.patch_size)?;
        let merge_size = length("merge_size", 2)?;
        if patch_size.checked_mul(merge_size).is_none_or(|block| block > LONGEST_BLOCK) {
            let expected =
                format!("at most {LONGEST_BLOCK} pixels with a `merge_size` of {merge_size}");
            return Err(config.refused("patch_size", &expected));
        }
        let expected = "an integer from 1 to 1024";
        let temporal_patch_size = checked(config, "temporal_patch_size", 2, expected, |frames| {
            (1..=1024).contains(frames)
        })?;
        let three = "three finite numbers";
        let finite = |values: &[f32; 3]| values.iter().all(|value| value.is_finite());
        let nonzero = |values: &[f32; 3]| values.iter().all(|value| value.is_normal());
        Ok(Self {
            do_resize: config.or("do_resize", true)?,
            size: read_size(config, defaults.size, defaults.older_size_keys)?,
            resample,
            do_rescale: config.or("do_rescale", true)?,
            rescale_factor: checked(
                config,
                "rescale_factor",
                1.0 / 255.0,
                "a positive number",
                |&factor: &f64| (factor as f32).is_normal() && factor > 0.0,
            )?,
            do_normalize: config.or("do_normalize", true)?,
            image_mean: checked(config, "image_mean", defaults.image_mean, three, finite)?,
            image_std: checked(
                config,
                "image_std",
                defaults.image_std,
                "three finite numbers other than 0",
                nonzero,
            )?,
            patch_size,
            temporal_patch_size,
            merge_size,
        })
    }

    pub(super) fn patch_shape(&self) -> PatchShape {
        PatchShape {
            patch_size: self.patch_size,
            temporal_patch_size: self.temporal_patch_size,
            merge_size: self.merge_size,
        }
    }

    /// Pixels along a side of a block.
    pub(super) fn factor(&self) -> usize {
        self.patch_size * self.merge_size
    }

    /// Height and width of an image that is not resized.
    pub(super) fn whole_blocks(&self, image: &Image) -> Result<[usize; 2]> {
        let (size, factor) = ([image.height(), image.width()], self.factor());
        if size.iter().all(|edge| edge.is_multiple_of(factor)) {
            return Ok(size);
        }
        let [height, width] = size;
        let problem = format!(
            "is {width}x{height} pixels and `do_resize` is off, \
             expected edges that are multiples of {factor}"
        );
        Err(Error::Image { name: image.name().to_owned(), problem })
    }
}

fn checked<T: DeserializeOwned>(
    config: &Config,
    key: &str,
    default: T,
    expected: &str,
    holds: impl Fn(&T) -> bool,
) -> Result<T> {
    match config.or(key, default)? {
        value if holds(&value) => Ok(value),
        _ => Err(config.refused(key, expected)),
    }
}

/// The fewest and the most pixels: `size`, or the older keys beside it where there are such.
fn read_size(config: &Config, default: [u64; 2], older: Option<[&str; 2]>) -> Result<[u64; 2]> {
    let size = config.sub("size")?;
    let edge = |index: usize, key: &str| -> Result<u64> {
        let older = older.map(|older| config.optional(older[index])).transpose()?.flatten();
        match (older, &size) {
            (Some(pixels), _) => Ok(pixels),
            (None, Some(size)) => size.required(key),
            (None, None) => Ok(default[index]),
        }
    };
    let [min, max] = [edge(0, "shortest_edge")?, edge(1, "longest_edge")?];
    if 0 < min && min <= max {
        return Ok([min, max]);
    }
    let problem = format!(
        "an image may have {min} to {max} pixels (`size`), \
         expected a positive number and one that is not below it"
    );
    Err(Error::Config { file: config.file().to_owned(), problem })
}
