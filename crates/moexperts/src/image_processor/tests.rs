use std::{fs, path::Path};

use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::Value;

use super::{
    resize::resize,
    settings::Resample,
    smart_resize::{image_size, video_size},
    *,
};

const GOLDENS: &str = "../../testdata/qwen3_vl_moe";

fn golden_config(file: &str) -> Config {
    Config::parse(file, &fs::read_to_string(format!("{GOLDENS}/{file}")).unwrap()).unwrap()
}

fn tensor<T>(bytes: &[u8], name: &str, value: impl Fn([u8; 4]) -> T) -> Vec<T> {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    tensor.data().chunks_exact(4).map(|bytes| value(bytes.try_into().unwrap())).collect()
}

fn grid(bytes: &[u8], name: &str) -> [usize; 3] {
    let halves = tensor(bytes, name, u32::from_le_bytes);
    [halves[0] as usize, halves[2] as usize, halves[4] as usize]
}

fn assert_same_bits(got: &[f32], expected: &[f32], name: &str) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert!(bits(got) == bits(expected), "{name}");
}

fn processor(json: &str) -> Result<ImageProcessor> {
    ImageProcessor::read(&Config::parse("preprocessor_config.json", json).unwrap())
}

fn video_processor(json: &str) -> Result<VideoProcessor> {
    VideoProcessor::read(&Config::parse("video_preprocessor_config.json", json).unwrap())
}

fn blank(width: usize, height: usize) -> Image {
    Image::from_rgb8(width, height, vec![0; width * height * 3]).unwrap()
}

fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn every_image_has_transformers_pixels() {
    let processor = ImageProcessor::read(&golden_config("preprocessor_config.json")).unwrap();
    let bytes = fs::read(format!("{GOLDENS}/pixels.safetensors")).unwrap();
    for name in [
        "alpha.png",
        "frame0.png",
        "frame1.png",
        "frame2.png",
        "gray.png",
        "rotated.jpg",
        "tall.webp",
        "wide.png",
    ] {
        let mut image = Image::open(&Path::new(GOLDENS).join(name)).unwrap();
        if name == "rotated.jpg" {
            // JPEG decoders differ in the last bits; what this one makes of it is near.
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let rgb = tensors.tensor("rotated.jpg.rgb").unwrap();
            assert_eq!(rgb.shape(), [image.height(), image.width(), 3]);
            let far = rgb.data().iter().zip(image.rgb8()).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(far.unwrap() <= 4, "{far:?}");
            image = Image::from_rgb8(image.width(), image.height(), rgb.data().to_vec()).unwrap();
        }
        let pixels = processor.preprocess(&image).unwrap();
        assert_eq!(pixels.grid_thw(), grid(&bytes, &format!("{name}.grid_thw")), "{name}");
        let expected = tensor(&bytes, &format!("{name}.pixel_values"), f32::from_le_bytes);
        assert_same_bits(pixels.values(), &expected, name);
    }
}

#[test]
fn frames_have_transformers_pixels() {
    let config = golden_config("video_preprocessor_config.json");
    let processor = VideoProcessor::read(&config).unwrap();
    let bytes = fs::read(format!("{GOLDENS}/golden_video.safetensors")).unwrap();
    let frame = |index| Image::open(&Path::new(GOLDENS).join(format!("frame{index}.png"))).unwrap();
    let pixels = processor.preprocess(&[frame(0), frame(1), frame(2)]).unwrap();
    assert_eq!(pixels.grid_thw(), grid(&bytes, "grid_thw"));
    let expected = tensor(&bytes, "pixel_values_videos", f32::from_le_bytes);
    assert_same_bits(pixels.values(), &expected, "video");
}

#[test]
fn sizes_are_transformers_sizes() {
    for (file, is_video) in [("smart_resize.json", false), ("smart_resize_video.json", true)] {
        let rows = fs::read_to_string(format!("{GOLDENS}/{file}")).unwrap();
        let rows: Value = serde_json::from_str(&rows).unwrap();
        let rows = rows.as_array().unwrap();
        assert!(rows.len() > 20);
        for row in rows {
            let key = |key: &str| row[key].as_u64().unwrap();
            let length = |name: &str| key(name) as usize;
            let (from, factor) = ([length("height"), length("width")], length("factor"));
            let (min, max) = (key("min_pixels"), key("max_pixels"));
            let got = if is_video {
                let (frames, temporal) = (length("num_frames"), length("temporal_factor"));
                video_size(frames, from, temporal, factor, min, max)
            } else {
                image_size(from, factor, min, max)
            };
            let expected: Option<[f64; 2]> =
                serde_json::from_value(row["expected"].clone()).unwrap();
            assert_eq!(got.ok(), expected, "{file}: {row}");
        }
    }
}

/// 5 x 3 pixels to 3 x 4, by torch 2.15 on a CPU.
#[test]
fn resizing_has_torchs_bytes() {
    let pixels = (0..45_usize).map(|i| ((i * 37 + i * i * 11) % 256) as u8).collect();
    let image = Image::from_rgb8(5, 3, pixels).unwrap();
    let bicubic = [
        83, 52, 155, 152, 73, 235, 230, 101, 151, 156, 58, 139, 169, 150, 112, 104, 140, 147, 143,
        114, 147, 200, 151, 66, 112, 163, 122, 51, 183, 174, 224, 77, 127, 249, 155, 92,
    ];
    let bilinear = [
        90, 57, 155, 150, 74, 219, 221, 102, 152, 146, 68, 144, 170, 140, 118, 119, 138, 142, 136,
        113, 149, 194, 146, 83, 124, 158, 121, 63, 177, 168, 215, 88, 125, 236, 155, 97,
    ];
    let resized = |resample| resize::resize(&image, [4, 3], resample).into_owned();
    assert_eq!(resized(Resample::Bicubic), bicubic);
    assert_eq!(resized(Resample::Bilinear), bilinear);
}

#[test]
fn patches_stand_in_blocks() {
    let json =
        r#"{"patch_size": 1, "do_resize": false, "do_rescale": false, "do_normalize": false}"#;
    let pixels = (0..2 * 4).flat_map(|pixel| [pixel, 100 + pixel, 200 + pixel]).collect();
    let image = Image::from_rgb8(4, 2, pixels).unwrap();
    let pixels = processor(json).unwrap().preprocess(&image).unwrap();
    assert_eq!(pixels.grid_thw(), [1, 2, 4]);
    assert_eq!((pixels.patches(), pixels.patch_len()), (8, 6));
    let first: Vec<f32> = pixels.values().chunks(6).map(|patch| patch[0]).collect();
    assert_eq!(first, [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
    assert_eq!(pixels.values()[..6], [0.0, 0.0, 100.0, 100.0, 200.0, 200.0]);
    assert_eq!(format!("{pixels:?}"), "PixelValues { grid_thw: [1, 2, 4], .. }");
    let error = text(processor(json).unwrap().preprocess(&blank(3, 2)));
    let expected = "expected edges that are multiples of 2";
    assert_eq!(error, format!("image: is 3x2 pixels and `do_resize` is off, {expected}"));
}

#[test]
fn the_last_frame_is_repeated() {
    let json = r#"{"patch_size": 1, "merge_size": 1, "temporal_patch_size": 3, "do_resize": false,
                   "do_normalize": false, "rescale_factor": 0.5}"#;
    let frames = [2, 4, 6, 8].map(|value| Image::from_rgb8(1, 1, vec![value; 3]).unwrap());
    let pixels = video_processor(json).unwrap().preprocess(&frames).unwrap();
    assert_eq!((pixels.grid_thw(), pixels.patch_len()), ([2, 1, 1], 9));
    assert_eq!(pixels.values()[..3], [1.0, 2.0, 3.0]);
    assert_eq!(pixels.values()[9..12], [4.0, 4.0, 4.0]);
}

#[test]
fn the_cap_on_frames_is_off_unless_asked_for() {
    let grid = |json: &str| {
        let frames = vec![blank(640, 480); 4];
        video_processor(json).unwrap().preprocess(&frames).unwrap().grid_thw()
    };
    assert_eq!(grid("{}"), [2, 24, 32]);
    let capped = r#"{"cap_pixels_per_frame": true, "max_video_tokens": 150}"#;
    assert_eq!(grid(capped), [2, 20, 28]);
}

#[test]
fn both_dialects_of_the_budget_are_read() {
    let older = processor(r#"{"min_pixels": 784, "max_pixels": 7840}"#).unwrap();
    let newer = r#"{"size": {"shortest_edge": 784, "longest_edge": 7840}}"#;
    assert_eq!(older, processor(newer).unwrap());
    let both = r#"{"max_pixels": 7840, "size": {"shortest_edge": 784, "longest_edge": 9}}"#;
    assert_eq!(older, processor(both).unwrap());
    assert_eq!(processor("{}").unwrap().settings.size, [3136, 1_003_520]);
    let expected = PatchShape { patch_size: 14, temporal_patch_size: 2, merge_size: 2 };
    assert_eq!(older.patch_shape(), expected);
}

#[test]
fn impossible_values_are_errors() {
    let cases = [
        (r#"{"resample": 1}"#, "key `resample` is 1, expected 2 (bilinear) or 3 (bicubic)"),
        (r#"{"patch_size": 0}"#, "key `patch_size` is 0, expected a positive integer"),
        (
            r#"{"patch_size": 4096}"#,
            "key `patch_size` is 4096, expected at most 4096 pixels with a `merge_size` of 2",
        ),
        (r#"{"merge_size": 0}"#, "key `merge_size` is 0, expected a positive integer"),
        (
            r#"{"temporal_patch_size": 0}"#,
            "key `temporal_patch_size` is 0, expected an integer from 1 to 1024",
        ),
        (
            r#"{"image_std": [1, 0, 1]}"#,
            "key `image_std` is [1,0,1], expected three finite numbers other than 0",
        ),
        (r#"{"rescale_factor": 0}"#, "key `rescale_factor` is 0, expected a positive number"),
        (
            r#"{"size": {"shortest_edge": 9, "longest_edge": 8}}"#,
            "an image may have 9 to 8 pixels (`size`), \
             expected a positive number and one that is not below it",
        ),
        (r#"{"size": {"height": 9}}"#, "missing key `size.shortest_edge`"),
    ];
    for (json, expected) in cases {
        assert_eq!(text(processor(json)), format!("preprocessor_config.json: {expected}"));
    }
    let error = text(video_processor(r#"{"max_video_tokens": 0}"#));
    assert!(error.ends_with("key `max_video_tokens` is 0, expected a positive integer"));
}

#[test]
fn images_no_size_fits_are_errors() {
    let processor = processor(r#"{"max_pixels": 4000}"#).unwrap();
    assert_eq!(
        text(processor.preprocess(&blank(1, 201))),
        "image: is 1x201 pixels, an aspect ratio of 201.0, expected at most 200; crop it"
    );
    assert_eq!(
        text(processor.preprocess(&blank(150, 1))),
        "image: is 150x1 pixels and would be resized to 700x28, which is beyond the pixel limit of \
         4000; crop it to be less long, or raise `size.longest_edge`"
    );
    let huge = self::processor(r#"{"min_pixels": 1000000000000, "max_pixels": 2000000000000}"#);
    let error = text(huge.unwrap().preprocess(&blank(4, 4)));
    assert!(error.contains("beyond the pixel limit of 178956970"), "{error}");
}

#[test]
fn frames_that_are_no_video_are_errors() {
    let processor = video_processor("{}").unwrap();
    assert_eq!(text(processor.preprocess(&[])), "video: has no frames, expected at least one");
    assert_eq!(
        text(processor.preprocess(&[blank(64, 64), blank(64, 32)])),
        "video: frame `image` is 64x64 pixels and frame `image` is 64x32, \
         expected frames of one size"
    );
    assert_eq!(
        text(processor.preprocess(&[blank(64, 64)])),
        "image: is of a video of 1 frames, expected at least 2 (`temporal_patch_size`); \
         give a frame twice, or take it as an image"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_picture_of_one_colour_stays_so_at_every_size(
        from in (1_usize..40, 1_usize..40),
        to in (1_usize..70, 1_usize..70),
        colour in any::<[u8; 3]>(),
        resample in prop::sample::select(&[Resample::Bilinear, Resample::Bicubic][..]),
    ) {
        let (width, height) = from;
        let picture = Image::from_rgb8(width, height, colour.repeat(width * height)).unwrap();
        let resized = resize(&picture, [to.0, to.1], resample);
        prop_assert_eq!(resized.len(), to.0 * to.1 * 3);
        for pixel in resized.chunks_exact(3) {
            // Weights are rounded each on its own, so a sum of them may miss one by the last bits.
            let near = pixel.iter().zip(colour).all(|(&got, byte)| got.abs_diff(byte) <= 1);
            prop_assert!(near, "{:?} of {:?}", pixel, colour);
        }
    }
}
