//! Pictures, decoded.

use std::fmt;

use crate::error::{Error, Result};

#[cfg(feature = "images")]
mod decode;

/// The most pixels an image may have, those Pillow stops at: a small file can claim any number.
pub(super) const MAX_DECODED_PIXELS: u64 = 2 * (1024 * 1024 * 1024 / 4 / 3);

/// A decoded picture: RGB, 8 bits a channel.
#[derive(Clone)]
pub struct Image {
    name: String,
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Image {
    /// An image of these pixels: [height, width, 3], row-major. Errors name it `image`.
    ///
    /// # Errors
    /// [`Error::Image`] if the bytes are not `3 * width * height`, or none.
    pub fn from_rgb8(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        let problem = |problem| Error::Image { name: "image".to_owned(), problem };
        check_size(width as u64, height as u64).map_err(problem)?;
        if rgb.len() != width * height * 3 {
            let expected = width * height * 3;
            return Err(problem(format!(
                "has {} bytes for {width}x{height} pixels, expected {expected} (RGB)",
                rgb.len()
            )));
        }
        Ok(Self { name: "image".to_owned(), width, height, rgb })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels, [height, width, 3], row-major.
    pub fn rgb8(&self) -> &[u8] {
        &self.rgb
    }

    /// What errors call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, height, .. } = self;
        f.debug_struct("Image")
            .field("width", width)
            .field("height", height)
            .finish_non_exhaustive()
    }
}

/// Sizes that can be decoded and resized.
fn check_size(width: u64, height: u64) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("is {width}x{height} pixels, expected at least 1x1"));
    }
    if width.saturating_mul(height) > MAX_DECODED_PIXELS {
        return Err(format!(
            "is {width}x{height} pixels, expected at most {MAX_DECODED_PIXELS}; scale it down"
        ));
    }
    Ok(())
}

#[cfg(test)]
#[cfg(feature = "images")]
mod tests;
