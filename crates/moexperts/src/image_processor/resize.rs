//! Resizing, byte for byte as torchvision does it on a CPU.
//!
//! Torch and `fast_image_resize` share an ancestor, Pillow-SIMD: weights of 16 bits with as many
//! fraction bits as the largest of them allows, and a result of 8 bits after each direction. The
//! order of the two directions is not shared, so here they are two calls, rows first.

use std::borrow::Cow;

use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::U8x3,
};

use super::{Image, settings::Resample};
use crate::error::{Error, Result};

/// The image at [height, width]: RGB, 8 bits a channel, row-major.
pub(super) fn resize<'a>(
    image: &'a Image,
    [height, width]: [usize; 2],
    resample: Resample,
) -> Result<Cow<'a, [u8]>> {
    let mut pixels = Cow::Borrowed(image.rgb8());
    if width != image.width() {
        let from = [image.height(), image.width()];
        pixels = Cow::Owned(once(image, &pixels, from, [image.height(), width], resample)?);
    }
    if height != image.height() {
        let from = [image.height(), width];
        pixels = Cow::Owned(once(image, &pixels, from, [height, width], resample)?);
    }
    Ok(pixels)
}

fn once(
    image: &Image,
    pixels: &[u8],
    from: [usize; 2],
    to: [usize; 2],
    resample: Resample,
) -> Result<Vec<u8>> {
    let failed = |problem: String| Error::Image { name: image.name().to_owned(), problem };
    let edges = |[height, width]: [usize; 2]| match (u32::try_from(width), u32::try_from(height)) {
        (Ok(width), Ok(height)) => Ok((width, height)),
        _ => Err(failed(format!("has an edge that is too long: {width}x{height} pixels"))),
    };
    let ((from_width, from_height), (to_width, to_height)) = (edges(from)?, edges(to)?);
    let filter = match resample {
        Resample::Bilinear => FilterType::Bilinear,
        Resample::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
    let mut resized = vec![0; to[0] * to[1] * 3];
    let source = TypedImageRef::<U8x3>::from_buffer(from_width, from_height, pixels)
        .map_err(|error| failed(format!("cannot be resized: {error}")))?;
    let mut target = TypedImage::<U8x3>::from_buffer(to_width, to_height, &mut resized)
        .map_err(|error| failed(format!("cannot be resized: {error}")))?;
    Resizer::new()
        .resize_typed(&source, &mut target, &options)
        .map_err(|error| failed(format!("cannot be resized: {error}")))?;
    Ok(resized)
}
