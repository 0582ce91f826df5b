//! Decoding.

use std::{
    error::Error as _,
    fs,
    io::{Cursor, ErrorKind},
    path::Path,
};

use image::{
    DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Pixel,
    Rgb, RgbImage, metadata::Orientation,
};

use super::{Image, MAX_DECODED_PIXELS, check_size};
use crate::error::{Error, Result};

impl Image {
    /// Reads a PNG, JPEG or WebP file, as [`Image::decode`].
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Image`] if it cannot be decoded.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Self::decode(&path.display().to_string(), &bytes)
    }

    /// Decodes the bytes of a PNG, JPEG or WebP file; `name` names it in errors.
    ///
    /// As transformers loads images: turned upright as its EXIF data say, alpha dropped, the first
    /// picture of several. Of 16 bits a channel the upper 8 are kept.
    ///
    /// # Errors
    /// [`Error::Image`] for another format, a file that is damaged or truncated, and an image
    /// without pixels or with more than 178 956 970.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self> {
        let name = name.to_owned();
        match decode(bytes) {
            Ok(picture) => {
                let (width, height) = (picture.width() as usize, picture.height() as usize);
                Ok(Self { name, width, height, rgb: picture.into_raw() })
            }
            Err(problem) => Err(Error::Image { name, problem }),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    const EXPECTED: &str = "expected PNG, JPEG or WebP";
    let (format, whole) = match image::guess_format(bytes) {
        Ok(format @ ImageFormat::Png) => (format, true), // its decoder notices
        Ok(format @ ImageFormat::Jpeg) => (format, is_whole_jpeg(bytes)),
        Ok(format @ ImageFormat::WebP) => (format, is_whole_webp(bytes)),
        Ok(other) => return Err(format!("is {}, {EXPECTED}", other.to_mime_type())),
        Err(_) => return Err(format!("is not an image, {EXPECTED}")),
    };
    if !whole {
        return Err(truncated());
    }
    if let (ImageFormat::Png, Some([width, height])) = (format, png_size(bytes)) {
        check_size(width.into(), height.into())?;
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODED_PIXELS * 8); // four channels of 16 bits
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| in_words(&error))?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into())?;
    // Metadata that cannot be read turn nothing, as in the original.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| in_words(&error))?;
    picture.apply_orientation(orientation);
    Ok(match picture {
        DynamicImage::ImageLuma16(picture) => upper_bytes(&picture),
        DynamicImage::ImageLumaA16(picture) => upper_bytes(&picture),
        DynamicImage::ImageRgb16(picture) => upper_bytes(&picture),
        DynamicImage::ImageRgba16(picture) => upper_bytes(&picture),
        picture => picture.into_rgb8(),
    })
}

/// Width and height as the first chunk has them: the decoder refuses a zero without naming it.
fn png_size(bytes: &[u8]) -> Option<[u32; 2]> {
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some([number(16)?, number(20)?])
}

/// As libpng strips 16 bits to 8: no rounding.
fn upper_bytes<P: Pixel<Subpixel = u16>>(picture: &ImageBuffer<P, Vec<u16>>) -> RgbImage {
    ImageBuffer::from_fn(picture.width(), picture.height(), |x, y| {
        Rgb(picture.get_pixel(x, y).to_rgb().0.map(|value| (value >> 8) as u8))
    })
}

/// Whether the end marker is there; the decoder fills what is missing with grey.
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        let skipped = match *rest {
            [] => return false,
            [0xff, 0xd9, ..] => return true,
            [0xff, 0x00 | 0x01 | 0xd0..=0xd7, ..] => 2,
            [0xff, 0xff, ..] => 1,
            [0xff, _, high, low, ..] => 2 + usize::from(u16::from_be_bytes([high, low])),
            [0xff, ..] => 1,
            _ => rest.iter().position(|&byte| byte == 0xff).unwrap_or(rest.len()),
        };
        rest = rest.get(skipped..).unwrap_or_default();
    }
}

/// Whether there are as many bytes as the header says.
fn is_whole_webp(bytes: &[u8]) -> bool {
    match *bytes {
        [_, _, _, _, a, b, c, d, ref rest @ ..] => {
            rest.len() as u64 >= u64::from(u32::from_le_bytes([a, b, c, d]))
        }
        _ => false,
    }
}

fn in_words(error: &ImageError) -> String {
    match error {
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => truncated(),
        ImageError::Decoding(error) => match error.source() {
            Some(cause) => format!("cannot be decoded: {cause}"),
            None => format!("cannot be decoded: {error}"),
        },
        error => format!("cannot be decoded: {error}"),
    }
}

fn truncated() -> String {
    "is truncated, expected a whole image; save or fetch it again".to_owned()
}
