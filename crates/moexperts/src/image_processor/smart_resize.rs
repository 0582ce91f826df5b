//! The size an image is resized to: edges of whole blocks, an area within the limits, and an
//! aspect ratio as near to the image's as those allow.
//!
//! Divisions and square roots are in f64 and in the original's order, halves round to even.

use super::{
    image::{Image, MAX_DECODED_PIXELS},
    settings::Settings,
};
use crate::error::{Error, Result};

/// Above this the longer edge may be no multiple of the shorter.
const MAX_ASPECT_RATIO: f64 = 200.0;

/// Height and width for an image.
pub(super) fn image(image: &Image, settings: &Settings) -> Result<[usize; 2]> {
    let [min_pixels, max_pixels] = settings.size;
    let from = [image.height(), image.width()];
    let to = image_size(from, settings.factor(), min_pixels, max_pixels);
    within(image, to.map_err(|problem| failed(image, problem))?, 1, max_pixels)
}

/// Height and width for each of the frames of a video; `max_pixels` is for all of them.
pub(super) fn video(
    first: &Image,
    frames: usize,
    settings: &Settings,
    max_pixels: u64,
) -> Result<[usize; 2]> {
    let (temporal, factor) = (settings.temporal_patch_size, settings.factor());
    let from = [first.height(), first.width()];
    let to = video_size(frames, from, temporal, factor, settings.size[0], max_pixels);
    let to = to.map_err(|problem| failed(first, problem))?;
    let frames = (frames as f64).min(whole_steps(frames, temporal));
    within(first, to, frames as u64, max_pixels)
}

/// The rule for images, [height, width] to [height, width].
pub(super) fn image_size(
    from: [usize; 2],
    factor: usize,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<[f64; 2], String> {
    let from = from.map(|edge| edge as f64);
    check_aspect_ratio(from)?;
    Ok(fit(from, [1.0, 1.0], factor as f64, min_pixels as f64, max_pixels as f64))
}

/// The rule for videos, [height, width] to [height, width].
pub(super) fn video_size(
    frames: usize,
    from: [usize; 2],
    temporal_factor: usize,
    factor: usize,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<[f64; 2], String> {
    if frames < temporal_factor {
        return Err(format!(
            "is of a video of {frames} frames, expected at least {temporal_factor} \
             (`temporal_patch_size`); give a frame twice, or take it as an image"
        ));
    }
    let [mut height, mut width] = from.map(|edge| edge as f64);
    let edge = factor as f64;
    if height < edge || width < edge {
        let scale = (edge / height).max(edge / width);
        (height, width) = ((height * scale).trunc(), (width * scale).trunc());
    }
    check_aspect_ratio([height, width])?;
    let times = [whole_steps(frames, temporal_factor), frames as f64];
    Ok(fit([height, width], times, edge, min_pixels as f64, max_pixels as f64))
}

/// Frames, rounded to whole steps of time.
fn whole_steps(frames: usize, temporal_factor: usize) -> f64 {
    let temporal_factor = temporal_factor as f64;
    (frames as f64 / temporal_factor).round_ties_even() * temporal_factor
}

/// What both rules share; `counted` frames decide whether the area fits, `real` ones what does.
fn fit([height, width]: [f64; 2], times: [f64; 2], factor: f64, min: f64, max: f64) -> [f64; 2] {
    let [counted, real] = times;
    let rounded = [height, width].map(|edge| (edge / factor).round_ties_even() * factor);
    let area = counted * rounded[0] * rounded[1];
    if area > max {
        let beta = (real * height * width / max).sqrt();
        [height, width].map(|edge| ((edge / beta / factor).floor() * factor).max(factor))
    } else if area < min {
        let beta = (min / (real * height * width)).sqrt();
        [height, width].map(|edge| (edge * beta / factor).ceil() * factor)
    } else {
        rounded
    }
}

fn check_aspect_ratio([height, width]: [f64; 2]) -> Result<(), String> {
    let ratio = height.max(width) / height.min(width);
    if ratio <= MAX_ASPECT_RATIO {
        return Ok(());
    }
    Err(format!(
        "is {width}x{height} pixels, an aspect ratio of {ratio:.1}, \
         expected at most {MAX_ASPECT_RATIO}; crop it"
    ))
}

/// The size, if `frames` images of it have at most `max_pixels` pixels.
fn within(image: &Image, size: [f64; 2], frames: u64, max_pixels: u64) -> Result<[usize; 2]> {
    let limit = max_pixels.min(MAX_DECODED_PIXELS.saturating_mul(frames));
    let [height, width] = size;
    if frames as f64 * height * width <= limit as f64 {
        return Ok(size.map(|edge| edge as usize));
    }
    let each = if frames == 1 { String::new() } else { format!(", {frames} times") };
    let problem = format!(
        "is {}x{} pixels and would be resized to {width}x{height}{each}, which is beyond the pixel \
         limit of {limit}; crop it to be less long, or raise `size.longest_edge`",
        image.width(),
        image.height()
    );
    Err(failed(image, problem))
}

fn failed(image: &Image, problem: String) -> Error {
    Error::Image { name: image.name().to_owned(), problem }
}
