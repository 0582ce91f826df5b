use std::{io::Cursor, path::Path};

use image::{
    DynamicImage, ExtendedColorType, ImageBuffer, ImageEncoder, ImageFormat, Luma, Rgb, RgbImage,
    Rgba,
};

use super::*;

/// 24 x 16 pixels, no two rows or columns alike.
fn gradient() -> RgbImage {
    ImageBuffer::from_fn(24, 16, |x, y| Rgb([(x * 10) as u8, (y * 15) as u8, (x * y / 2) as u8]))
}

fn encode(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn problem(bytes: &[u8]) -> String {
    Image::decode("cat", bytes).unwrap_err().to_string()
}

#[test]
fn pixels_without_loss_are_the_pixels() {
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let image = Image::decode("cat", &encode(gradient(), format)).unwrap();
        assert_eq!((image.width(), image.height()), (24, 16), "{format:?}");
        assert_eq!(image.rgb8(), gradient().as_raw(), "{format:?}");
    }
    let image = Image::decode("cat", &encode(gradient(), ImageFormat::Jpeg)).unwrap();
    assert_eq!((image.width(), image.height()), (24, 16));
    assert!(image.rgb8().iter().zip(gradient().iter()).all(|(a, b)| a.abs_diff(*b) < 50));
    assert_eq!(format!("{image:?}"), "Image { width: 24, height: 16, .. }");
}

#[test]
fn alpha_is_dropped_and_grey_has_three_channels() {
    let clear: ImageBuffer<_, Vec<u8>> = ImageBuffer::from_pixel(2, 1, Rgba([1_u8, 2, 3, 0]));
    let image = Image::decode("cat", &encode(clear, ImageFormat::Png)).unwrap();
    assert_eq!(image.rgb8(), [1, 2, 3, 1, 2, 3]);
    let grey: ImageBuffer<_, Vec<u8>> = ImageBuffer::from_pixel(1, 1, Luma([77_u8]));
    let image = Image::decode("cat", &encode(grey, ImageFormat::Png)).unwrap();
    assert_eq!(image.rgb8(), [77, 77, 77]);
}

#[test]
fn of_16_bits_the_upper_8_are_kept() {
    let deep: ImageBuffer<_, Vec<u16>> =
        ImageBuffer::from_pixel(1, 1, Rgb([0x01ff_u16, 0x7fff, 0xff00]));
    let image = Image::decode("cat", &encode(deep, ImageFormat::Png)).unwrap();
    assert_eq!(image.rgb8(), [0x01, 0x7f, 0xff]);
    let deep: ImageBuffer<_, Vec<u16>> = ImageBuffer::from_pixel(1, 1, Luma([0x80ff_u16]));
    let image = Image::decode("cat", &encode(deep, ImageFormat::Png)).unwrap();
    assert_eq!(image.rgb8(), [0x80; 3]);
}

#[test]
fn exif_orientation_turns_an_image_upright() {
    // Little-endian TIFF with one entry: orientation 6, a quarter turn clockwise.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0".to_vec();
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    encoder.set_exif_metadata(exif).unwrap();
    encoder.write_image(gradient().as_raw(), 24, 16, ExtendedColorType::Rgb8).unwrap();
    let image = Image::decode("cat", &bytes).unwrap();
    assert_eq!((image.width(), image.height()), (16, 24));
    assert_eq!(image.rgb8()[..3], gradient().get_pixel(0, 15).0);
    assert_eq!(image.rgb8()[15 * 3..16 * 3], gradient().get_pixel(0, 0).0);
}

#[test]
fn other_files_are_errors_that_list_the_formats() {
    let expected = "cat: is not an image, expected PNG, JPEG or WebP";
    assert_eq!(problem(b"meow"), expected);
    assert_eq!(problem(b""), expected);
    assert_eq!(problem(b"GIF89a....."), "cat: is image/gif, expected PNG, JPEG or WebP");
    let missing = Image::open(Path::new("no/such.png")).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read `no/such.png`");
}

#[test]
fn truncated_images_are_errors_wherever_they_end() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let bytes = encode(gradient(), format);
        for end in [bytes.len() - 1, bytes.len() - 20, bytes.len() / 2, 30] {
            let expected = "cat: is truncated, expected a whole image; save or fetch it again";
            let end_of_png = format == ImageFormat::Png && end + 12 > bytes.len();
            if !end_of_png {
                assert_eq!(problem(&bytes[..end]), expected, "{format:?}, {end} bytes");
            }
        }
    }
}

#[test]
fn damaged_images_are_errors_or_images() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let bytes = encode(gradient(), format);
        for at in 0..bytes.len() {
            for value in [0, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                match Image::decode("cat", &damaged) {
                    Ok(image) => assert_eq!(image.rgb8().len(), image.width() * image.height() * 3),
                    Err(error) => assert!(error.to_string().starts_with("cat: "), "{error}"),
                }
            }
        }
    }
}

/// A JPEG whose header claims another size.
fn jpeg_of_size(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = encode(gradient(), ImageFormat::Jpeg);
    let frame = bytes.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

#[test]
fn images_without_pixels_are_errors() {
    let error = Image::from_rgb8(0, 4, Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "image: is 0x4 pixels, expected at least 1x1");
    let error = Image::from_rgb8(2, 2, vec![0; 10]).unwrap_err();
    assert_eq!(error.to_string(), "image: has 10 bytes for 2x2 pixels, expected 12 (RGB)");
    let expected = "cat: cannot be decoded: Image width or height is set to zero, cannot continue";
    assert_eq!(problem(&jpeg_of_size(0, 16)), expected);
}

#[test]
fn images_too_large_to_decode_are_errors() {
    let expected = "cat: is 65000x65000 pixels, expected at most 178956970; scale it down";
    assert_eq!(problem(&jpeg_of_size(65000, 65000)), expected);
    let error = Image::from_rgb8(usize::MAX, 2, Vec::new()).unwrap_err();
    assert!(error.to_string().ends_with("expected at most 178956970; scale it down"), "{error}");
}

/// The largest and the mean difference from Pillow's pixels.
fn difference_from_pillow(name: &str) -> (u8, f64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/jpeg");
    let ours = Image::open(&folder.join(format!("{name}.jpg"))).unwrap();
    let pillow = Image::open(&folder.join(format!("{name}.png"))).unwrap();
    assert_eq!((ours.width(), ours.height()), (pillow.width(), pillow.height()), "{name}");
    let differences: Vec<u8> =
        ours.rgb8().iter().zip(pillow.rgb8()).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = differences.iter().map(|&difference| f64::from(difference)).sum();
    (*differences.iter().max().unwrap(), sum / differences.len() as f64)
}

/// What `docs/numerics.md` says, so that a decoder that differs more is noticed.
#[test]
fn jpeg_differs_from_pillow_as_documented() {
    let cases = [
        ("444", 3, 0.05),
        ("444_odd", 3, 0.05),
        ("422", 3, 0.21),
        ("422_odd", 3, 0.21),
        ("420", 4, 0.38),
        ("420_odd", 4, 0.38),
        ("420_progressive", 4, 0.38),
        ("grey", 1, 0.03),
        ("cmyk", 1, 0.02),
    ];
    let mut wrong = Vec::new();
    for (name, largest, mean) in cases {
        let measured = difference_from_pillow(name);
        if measured.0 > largest || measured.1 > mean {
            wrong.push((name, measured));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
