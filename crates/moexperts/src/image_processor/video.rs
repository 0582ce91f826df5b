//! The frames of a video.

use super::{
    image::Image,
    patches::{Patches, PixelValues},
    resize,
    settings::{Defaults, PatchShape, Settings},
    smart_resize,
};
use crate::{
    config::Config,
    error::{Error, Result},
};

/// What `Qwen3VLVideoProcessor` has for keys that are absent.
const DEFAULTS: Defaults = Defaults {
    size: [128 * 32 * 32, 32 * 32 * 768],
    older_size_keys: None,
    image_mean: [0.5; 3],
    image_std: [0.5; 3],
    patch_size: 16,
};

/// Turns the frames of a video into patches of pixels, as `video_preprocessor_config.json` says.
///
/// Which frames of a video a model sees is the caller's choice; the keys about that (`fps`,
/// `min_frames`, `max_frames`) are not read.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoProcessor {
    settings: Settings,
    cap_pixels_per_frame: bool,
    max_video_tokens: u64,
}

impl VideoProcessor {
    /// Reads `video_preprocessor_config.json`; a key that is absent has the original's default.
    ///
    /// `size` counts pixels of all frames together. With `cap_pixels_per_frame`, off by default, a
    /// frame has at most `max_video_tokens` blocks of patches and its share of
    /// `size.longest_edge`.
    ///
    /// # Errors
    /// [`Error::Config`] for a value that is impossible or not known.
    pub fn read(config: &Config) -> Result<Self> {
        let settings = Settings::read(config, &DEFAULTS)?;
        let max_video_tokens = config.or("max_video_tokens", 768)?;
        if max_video_tokens == 0 {
            return Err(config.refused("max_video_tokens", "a positive integer"));
        }
        let cap_pixels_per_frame = config.or("cap_pixels_per_frame", false)?;
        Ok(Self { settings, cap_pixels_per_frame, max_video_tokens })
    }

    /// The patches of a video: a step of time for every `temporal_patch_size` frames, the last
    /// frame repeated where they do not come out even.
    ///
    /// # Errors
    /// [`Error::Image`] for no frames, frames of different sizes, fewer frames than a patch holds,
    /// an aspect ratio above 200, frames that no size within the pixel limit fits, and, with
    /// `do_resize` off, frames that are not made of whole blocks of patches.
    pub fn preprocess(&self, frames: &[Image]) -> Result<PixelValues> {
        let failed = |problem| Error::Image { name: "video".to_owned(), problem };
        let problem = |problem| Err(failed(problem));
        let [first, rest @ ..] = frames else {
            return problem("has no frames, expected at least one".to_owned());
        };
        let shown = |image: &Image| format!("{}x{}", image.width(), image.height());
        let size = |image: &Image| (image.width(), image.height());
        if let Some(other) = rest.iter().find(|other| size(other) != size(first)) {
            return problem(format!(
                "frame `{}` is {} pixels and frame `{}` is {}, expected frames of one size",
                first.name(),
                shown(first),
                other.name(),
                shown(other)
            ));
        }
        let settings = &self.settings;
        let size = if settings.do_resize {
            let max_pixels = self.max_pixels(frames.len());
            smart_resize::video(first, frames.len(), settings, max_pixels)?
        } else {
            settings.whole_blocks(first)?
        };
        let temporal = settings.temporal_patch_size;
        let steps = frames.len().div_ceil(temporal);
        let mut patches = Patches::new(settings, steps, size).map_err(failed)?;
        for (index, frame) in frames.iter().enumerate() {
            let slot = index % temporal;
            let slots = if index + 1 == frames.len() { slot..temporal } else { slot..slot + 1 };
            patches.put(&resize::resize(frame, size, settings.resample), index / temporal, slots);
        }
        Ok(patches.finish())
    }

    /// How pictures are cut into patches.
    pub fn patch_shape(&self) -> PatchShape {
        self.settings.patch_shape()
    }

    /// The most pixels all frames together may have.
    fn max_pixels(&self, frames: usize) -> u64 {
        let [min_pixels, max_pixels] = self.settings.size;
        if !self.cap_pixels_per_frame {
            return max_pixels;
        }
        let frames = frames as u64;
        let block = self.settings.factor() as u64;
        let cap = self.max_video_tokens.saturating_mul(block * block);
        let floor = (min_pixels as f64 * 1.05) as u64;
        cap.min(max_pixels / frames).max(floor).saturating_mul(frames)
    }
}
