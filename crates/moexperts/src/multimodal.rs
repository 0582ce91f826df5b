//! What a model that reads pictures has beside its decoder: a vision tower, processors that make
//! pixels ready for it, and placeholders in the text.

use std::ops::Range;

use moexperts_core::{Device, made};

use crate::{
    blocks::{VisionSpec, VisionTokens},
    config::Config,
    error::{Error, Result},
    files::ModelFiles,
    graph::{VisualFeatures, VisualRows},
    image_processor::{Image, ImageProcessor, PatchShape, VideoProcessor},
    model::VisionTower,
    prompt::{Prompt, Visual},
    tokenizer::Tokenizer,
    weights::Weights,
};

/// The vision of a multimodal model.
#[derive(Debug)]
pub(crate) struct Multimodal<D: Device> {
    tower: VisionTower<D>,
    image_processor: ImageProcessor,
    video_processor: Option<VideoProcessor>,
    placeholders: Option<Placeholders>,
}

/// Pictures that a forward is the first to read.
pub(crate) struct Unread<D: Device> {
    pub(crate) rows: Vec<VisualRows<D>>,
    /// Patches the vision tower read for them.
    pub(crate) patches: usize,
}

impl<D: Device> Multimodal<D> {
    pub(crate) fn load(
        spec: VisionSpec,
        files: &ModelFiles,
        tokenizer: Option<&Tokenizer>,
        weights: &mut Weights<'_, D>,
    ) -> Result<Self> {
        let Some(config) = &files.preprocessor_config else {
            return Err(Error::Config {
                file: "preprocessor_config.json".to_owned(),
                problem: format!("missing in {}; it says how images are resized", files.origin),
            });
        };
        let images = ImageProcessor::read(config)?;
        check_patches(config, images.patch_shape(), &spec)?;
        let video_processor = match &files.video_preprocessor_config {
            Some(config) => {
                let videos = VideoProcessor::read(config)?;
                check_patches(config, videos.patch_shape(), &spec)?;
                Some(videos)
            }
            None => None,
        };
        let placeholders =
            tokenizer.map(|tokenizer| Placeholders::new(spec.tokens, tokenizer)).transpose()?;
        let tower = VisionTower::load(spec, weights)?;
        Ok(Self { tower, image_processor: images, video_processor, placeholders })
    }

    pub(crate) fn tower(&self) -> &VisionTower<D> {
        &self.tower
    }

    pub(crate) fn prepare_image(&self, image: &Image) -> Result<Visual> {
        Ok(Visual::image(self.image_processor.preprocess(image)?))
    }

    /// Frames at their `timestamps` in seconds; frames that share a patch share its mean time.
    pub(crate) fn prepare_video(&self, frames: &[Image], timestamps: &[f64]) -> Result<Visual> {
        if frames.len() != timestamps.len() {
            let (got, expected) = (timestamps.len().to_string(), format!("{}", frames.len()));
            return Err(Error::Option { option: "timestamps", got, expected });
        }
        let Some(processor) = &self.video_processor else {
            return Err(Error::Config {
                file: "video_preprocessor_config.json".to_owned(),
                problem: "missing, it says how the frames of a video are resized".to_owned(),
            });
        };
        let pixels = processor.preprocess(frames)?;
        let patch = self.tower.spec().temporal_patch_size;
        // A last patch that is not full repeats its last frame.
        let ends = |times: &[f64]| Some((times.first()? + times.last()?) / 2.0);
        let timestamps = timestamps.chunks(patch).filter_map(ends).collect();
        Ok(Visual::video(pixels, timestamps))
    }

    /// `text` with a placeholder for each row of the pictures, and the pictures in the order of
    /// their placeholders. Each kind of picture is taken in the order given.
    pub(crate) fn expand(&self, text: &str, visuals: Vec<Visual>) -> Result<(String, Vec<Visual>)> {
        match &self.placeholders {
            Some(placeholders) => placeholders.expand(text, visuals, self.tower.spec()),
            None => Ok((text.to_owned(), visuals)),
        }
    }

    /// What stands for a picture in a text.
    pub(crate) fn placeholder(&self, visual: &Visual) -> Option<String> {
        let Placeholders { image, video, .. } = self.placeholders.as_ref()?;
        Some(if visual.timestamps().is_some() { video.clone() } else { image.clone() })
    }

    /// The rows of the pictures among `tokens` of a prompt, where the first of them is row
    /// `first_row` of a forward; `features_of` gives what a decoder reads of a picture.
    pub(crate) fn rows(
        &self,
        prompt: &Prompt,
        tokens: Range<usize>,
        first_row: usize,
        features_of: impl Fn(&Visual) -> Result<VisualFeatures<D>>,
    ) -> Result<Unread<D>> {
        let mut all = Unread { rows: Vec::new(), patches: 0 };
        for placed in prompt.placed() {
            let places: Vec<usize> = placed.frames.iter().cloned().flatten().collect();
            let wanted = |&(_, token): &(usize, &usize)| tokens.contains(token);
            let (own, rows): (Vec<usize>, Vec<usize>) = places
                .iter()
                .enumerate()
                .filter(wanted)
                .map(|(own, &token)| (own, token - tokens.start + first_row))
                .unzip();
            if rows.is_empty() {
                continue;
            }
            let mut features = features_of(&placed.visual)?;
            if rows.len() < places.len() {
                features = self.part(&features, &own)?;
            }
            all.patches += placed.visual.pixels().patches();
            all.rows.push(VisualRows { rows, features });
        }
        Ok(all)
    }

    fn part(&self, features: &VisualFeatures<D>, rows: &[usize]) -> Result<VisualFeatures<D>> {
        let device = self.tower.device();
        let select = |x: &D::Tensor| made(|out| device.select_rows(x, rows, out));
        let deepstack = features.deepstack.iter().map(select);
        Ok(VisualFeatures {
            embeddings: select(&features.embeddings)?,
            deepstack: deepstack.collect::<Result<_, _>>()?,
        })
    }
}

/// Whether a processor cuts pictures as the tower takes them.
fn check_patches(file: &Config, shape: PatchShape, spec: &VisionSpec) -> Result<()> {
    let pairs = [
        ("patch_size", shape.patch_size, spec.patch_size),
        ("temporal_patch_size", shape.temporal_patch_size, spec.temporal_patch_size),
        ("merge_size", shape.merge_size, spec.spatial_merge_size),
    ];
    match pairs.into_iter().find(|(_, got, expected)| got != expected) {
        Some((key, _, expected)) => {
            Err(file.refused(key, &format!("{expected}, as vision_config of config.json has it")))
        }
        None => Ok(()),
    }
}

/// The texts of [`VisionTokens`].
#[derive(Debug)]
struct Placeholders {
    image: String,
    video: String,
    start: String,
    end: String,
}

impl Placeholders {
    fn new(tokens: VisionTokens, tokenizer: &Tokenizer) -> Result<Self> {
        let text = |key: &str, id: u32| {
            tokenizer.token(id).ok_or_else(|| Error::Config {
                file: "config.json".to_owned(),
                problem: format!("key `{key}` is {id}, which is no token of the tokenizer"),
            })
        };
        Ok(Self {
            image: text("image_token_id", tokens.image)?,
            video: text("video_token_id", tokens.video)?,
            start: text("vision_start_token_id", tokens.vision_start)?,
            end: text("vision_end_token_id", tokens.vision_end)?,
        })
    }

    fn expand(
        &self,
        text: &str,
        visuals: Vec<Visual>,
        spec: &VisionSpec,
    ) -> Result<(String, Vec<Visual>)> {
        let (videos, images): (Vec<Visual>, Vec<Visual>) =
            visuals.into_iter().partition(|visual| visual.timestamps().is_some());
        check_count("image", &self.image, text, images.len())?;
        check_count("video", &self.video, text, videos.len())?;
        let (mut images, mut videos) = (images.into_iter(), videos.into_iter());
        let (mut expanded, mut ordered, mut rest) = (String::new(), Vec::new(), text);
        loop {
            let [image, video] = [&self.image, &self.video].map(|placeholder| {
                rest.find(placeholder.as_str()).map(|start| start..start + placeholder.len())
            });
            let is_image = match (&image, &video) {
                (Some(image), Some(video)) => image.start < video.start,
                (image, _) => image.is_some(),
            };
            let (place, visual) = match is_image {
                true => (image, images.next()),
                false => (video, videos.next()),
            };
            let (Some(place), Some(visual)) = (place, visual) else { break };
            expanded.push_str(&rest[..place.start]);
            rest = &rest[place.end..];
            let rows = visual.rows_per_frame(spec);
            match visual.timestamps() {
                None => expanded.push_str(&self.image.repeat(rows)),
                Some(timestamps) => {
                    let rows = self.video.repeat(rows);
                    for seconds in timestamps {
                        let (start, end) = (&self.start, &self.end);
                        expanded.push_str(&format!("<{seconds:.1} seconds>{start}{rows}{end}"));
                    }
                }
            }
            ordered.push(visual);
        }
        expanded.push_str(rest);
        Ok((expanded, ordered))
    }
}

fn check_count(kind: &'static str, placeholder: &str, text: &str, expected: usize) -> Result<()> {
    let got = text.matches(placeholder).count();
    if got == expected {
        return Ok(());
    }
    let what = format!("`{placeholder}`");
    Err(Error::Placeholders { what, got, expected, each: kind })
}
