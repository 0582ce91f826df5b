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

pub use self::{image::Image, patches::PixelValues, settings::PatchShape, video::VideoProcessor};
use self::{
    patches::Patches,
    settings::{Defaults, Settings},
};
use crate::{
    config::Config,
    error::{Error, Result},
};

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
    /// [`Error::Config`] for a value that is impossible or not known.
    pub fn read(config: &Config) -> Result<Self> {
        Ok(Self { settings: Settings::read(config, &DEFAULTS)? })
    }

    /// The patches of an image: one step of time, which holds the image `temporal_patch_size`
    /// times.
    ///
    /// # Errors
    /// [`Error::Image`] for an aspect ratio above 200, an image that no size
    /// within the pixel limit fits, more values than 2³⁰, and, with `do_resize` off, an image that is
    /// not made of whole blocks of patches.
    pub fn preprocess(&self, image: &Image) -> Result<PixelValues> {
        let settings = &self.settings;
        let size = if settings.do_resize {
            smart_resize::image(image, settings)?
        } else {
            settings.whole_blocks(image)?
        };
        let failed = |problem| Error::Image { name: image.name().to_owned(), problem };
        let mut patches = Patches::new(settings, 1, size).map_err(failed)?;
        let resized = resize::resize(image, size, settings.resample);
        patches.put(&resized, 0, 0..settings.temporal_patch_size);
        Ok(patches.finish())
    }

    /// How pictures are cut into patches.
    pub fn patch_shape(&self) -> PatchShape {
        self.settings.patch_shape()
    }
}
