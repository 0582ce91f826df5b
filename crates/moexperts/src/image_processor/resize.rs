//! Resizing, byte for byte as torch does it on a CPU, where it follows Pillow-SIMD.
//!
//! Rows first, then columns, each to 8 bits. Weights have 16 bits, with as many fraction bits as
//! the largest of an axis allows. They are made in f64 and in torch's order of operations: where
//! one falls between two integers, the last bit decides.

use std::borrow::Cow;

use super::{image::Image, settings::Resample};

/// The most fraction bits: sums of products with bytes stay within an i32.
const MOST_PRECISION: u32 = 22;

/// The image at [height, width]: RGB, 8 bits a channel, row-major.
pub(super) fn resize(
    image: &Image,
    [height, width]: [usize; 2],
    resample: Resample,
) -> Cow<'_, [u8]> {
    let mut pixels = Cow::Borrowed(image.rgb8());
    if width != image.width() {
        let axis = Axis::new(image.width(), width, resample);
        pixels = Cow::Owned(resize_rows(&pixels, image.width(), &axis));
    }
    if height != image.height() {
        let axis = Axis::new(image.height(), height, resample);
        pixels = Cow::Owned(resize_columns(&pixels, width * 3, &axis));
    }
    pixels
}

/// What each place along one edge is made of.
struct Axis {
    /// Fraction bits of the weights.
    precision: u32,
    /// The first place it comes from, and the weights from there on.
    taps: Vec<(usize, Vec<i16>)>,
}

impl Axis {
    fn new(from: usize, to: usize, resample: Resample) -> Self {
        let (filter, radius): (fn(f64) -> f64, f64) = match resample {
            Resample::Bilinear => (triangle, 1.0),
            Resample::Bicubic => (cubic, 2.0),
        };
        let scale = from as f64 / to as f64;
        let (support, shrink) =
            if scale >= 1.0 { (radius * scale, 1.0 / scale) } else { (radius, 1.0) };
        let exact: Vec<(usize, Vec<f64>)> = (0..to)
            .map(|place| {
                let center = scale * (place as f64 + 0.5);
                let start = (center - support + 0.5) as usize;
                let end = ((center + support + 0.5) as usize).min(from);
                let weight = |at: usize| filter((at as f64 - center + 0.5) * shrink);
                let mut weights: Vec<f64> = (start..end).map(weight).collect();
                let total: f64 = weights.iter().sum();
                if total != 0.0 {
                    weights.iter_mut().for_each(|weight| *weight /= total);
                }
                (start, weights)
            })
            .collect();
        let largest = exact.iter().flat_map(|(_, weights)| weights).copied().fold(0.0, f64::max);
        let fits = |bits: &u32| largest * f64::from(1_u32 << bits) + 0.5 < f64::from(1 << 15);
        let precision = (1..=MOST_PRECISION).take_while(fits).last().unwrap_or(1);
        let unit = f64::from(1_u32 << precision);
        let fixed = |weight: f64| (weight * unit + 0.5_f64.copysign(weight)) as i16;
        let taps = exact
            .into_iter()
            .map(|(start, weights)| (start, weights.into_iter().map(fixed).collect()))
            .collect();
        Self { precision, taps }
    }

    /// What a sum of products starts from, so that it is rounded.
    fn half(&self) -> i32 {
        1 << (self.precision - 1)
    }

    fn byte(&self, sum: i32) -> u8 {
        (sum >> self.precision).clamp(0, 255) as u8
    }
}

fn resize_rows(pixels: &[u8], width: usize, axis: &Axis) -> Vec<u8> {
    let rows = pixels.len() / (width * 3);
    let mut resized = Vec::with_capacity(rows * axis.taps.len() * 3);
    for row in pixels.chunks_exact(width * 3) {
        let (row, _) = row.as_chunks::<3>();
        for (start, weights) in &axis.taps {
            let mut sums = [axis.half(); 3];
            for (pixel, &weight) in row[*start..].iter().zip(weights) {
                for (sum, &byte) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(byte) * i32::from(weight);
                }
            }
            resized.extend(sums.map(|sum| axis.byte(sum)));
        }
    }
    resized
}

fn resize_columns(pixels: &[u8], row_len: usize, axis: &Axis) -> Vec<u8> {
    let mut resized = Vec::with_capacity(axis.taps.len() * row_len);
    let mut sums = vec![0; row_len];
    for (start, weights) in &axis.taps {
        sums.fill(axis.half());
        for (row, &weight) in pixels[start * row_len..].chunks_exact(row_len).zip(weights) {
            for (sum, &byte) in sums.iter_mut().zip(row) {
                *sum += i32::from(byte) * i32::from(weight);
            }
        }
        resized.extend(sums.iter().map(|&sum| axis.byte(sum)));
    }
    resized
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic with a = -1/2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}
