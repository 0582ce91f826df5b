//! Pictures as vision towers take them, after transformers' `Qwen2VLImageProcessor` on its
//! torchvision backend and `Qwen3VLVideoProcessor`.
//!
//! An [`Image`] is decoded, resized to whole blocks of patches within the model's budget of pixels,
//! normalized, and cut into patches: [`PixelValues`]. Between the decoder and the patches every
//! byte and every value is the original's.

mod image;
mod patches;
mod resize;
mod settings;
mod smart_resize;
mod video;

#[cfg(test)]
#[cfg(feature = "images")]
mod tests;

use crate::{config::Config, error::Result};

pub use image::Image;
pub use patches::PixelValues;
pub use video::VideoProcessor;

use patches::Patches;
use settings::{Defaults, Settings};

/// What `Qwen2VLImageProcessor` has for keys that are absent.
const DEFAULTS: Defaults = Defaults {
    size: [56 * 56, 28 * 28 * 1280],
    older_size_keys: Some(["min_pixels", "max_pixels"]),
    image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    patch_size: 14,
};

/// Turns an image into patches of pixels, as `preprocessor_config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    settings: Settings,
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json`; a key that is absent has the original's default.
    ///
    /// The budget of pixels is `size` with `shortest_edge` and `longest_edge`, which are areas
    /// whatever their names say; `min_pixels` and `max_pixels` beside it go first.
    /// `do_convert_rgb` has no effect: an [`Image`] is RGB.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a value that is impossible or not known.
    pub fn read(config: &Config) -> Result<Self> {
        Ok(Self { settings: Settings::read(config, &DEFAULTS)? })
    }

    /// The patches of an image: one step of time, which holds the image `temporal_patch_size`
    /// times.
    ///
    /// # Errors
    /// [`Error::Image`](crate::Error::Image) for an aspect ratio above 200, an image that no size
    /// within the pixel limit fits, and, with `do_resize` off, one that is not made of whole
    /// blocks of patches.
    pub fn preprocess(&self, image: &Image) -> Result<PixelValues> {
        let settings = &self.settings;
        let size = if settings.do_resize {
            smart_resize::image(image, settings)?
        } else {
            settings.whole_blocks(image)?
        };
        let resized = resize::resize(image, size, settings.resample);
        let mut patches = Patches::new(settings, 1, size);
        patches.put(&resized, 0, 0..settings.temporal_patch_size);
        Ok(patches.finish())
    }

    /// Pixels along a side of a patch, frames in a patch, and patches along a side of a block, which
    /// is one token of the prompt.
    pub fn patch_shape(&self) -> [usize; 3] {
        let settings = &self.settings;
        [settings.patch_size, settings.temporal_patch_size, settings.merge_size]
    }
}
