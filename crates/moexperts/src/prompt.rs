//! What a model reads: token ids, the pictures some of them stand for, and where each token stands.

use std::{ops::Range, sync::Arc};

use crate::{
    blocks::VisionSpec,
    error::{Error, Result},
    image_processor::PixelValues,
};

pub use crate::blocks::Position;

/// An image or a video, made ready for one model. Clones share the pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Visual {
    pixels: Arc<PixelValues>,
    /// Seconds of each frame of a video's grid; `None` for an image.
    timestamps: Option<Vec<f64>>,
}

impl Visual {
    /// An image.
    pub fn image(pixels: PixelValues) -> Self {
        Self { pixels: Arc::new(pixels), timestamps: None }
    }

    /// A video, with the seconds of each frame of its grid.
    pub fn video(pixels: PixelValues, timestamps: Vec<f64>) -> Self {
        Self { pixels: Arc::new(pixels), timestamps: Some(timestamps) }
    }

    /// What the vision tower reads.
    pub fn pixels(&self) -> &PixelValues {
        &self.pixels
    }

    /// Seconds of each frame of a video's grid; `None` for an image.
    pub fn timestamps(&self) -> Option<&[f64]> {
        self.timestamps.as_deref()
    }

    /// Rows of the decoder that one frame takes.
    pub fn rows_per_frame(&self, spec: &VisionSpec) -> usize {
        let [_, h, w] = self.pixels.grid_thw();
        h * w / (spec.spatial_merge_size * spec.spatial_merge_size)
    }

    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pixels, &other.pixels) || self == other
    }
}

/// A picture and the tokens of a prompt that stand for its rows.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) visual: Visual,
    /// Tokens of each frame.
    pub(crate) frames: Vec<Range<usize>>,
}

impl Placed {
    /// The first of its tokens.
    fn first(&self) -> usize {
        self.frames.first().map_or(0, |frame| frame.start)
    }
}

/// Token ids `[T]`, and the images and videos that some of them stand for.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    tokens: Vec<u32>,
    placed: Vec<Placed>,
    /// Positions up to the end of the last picture; a text's are its places.
    positions: Vec<Position>,
    /// The position after those.
    next: usize,
}

impl Prompt {
    /// Token ids in which every row of a picture has its placeholder, and the pictures in the order
    /// of the placeholders: one `tokens.image` for each row of an image, one `tokens.video` for each
    /// of a video, frame by frame.
    ///
    /// # Errors
    /// [`Error::Placeholders`] if there are more or fewer placeholders than rows, [`Error::Option`]
    /// if they are not side by side.
    pub fn new(tokens: Vec<u32>, visuals: Vec<Visual>, spec: &VisionSpec) -> Result<Self> {
        for (each, id) in
            [("row of an image", spec.tokens.image), ("row of a video", spec.tokens.video)]
        {
            let own = visuals.iter().filter(|visual| placeholder(visual, spec) == id);
            let expected = own.map(|v| v.pixels.grid_thw()[0] * v.rows_per_frame(spec)).sum();
            let got = tokens.iter().filter(|&&token| token == id).count();
            if got != expected {
                return Err(Error::Placeholders {
                    what: format!("(token {id})"),
                    got,
                    expected,
                    each,
                });
            }
        }
        let (mut placed, mut at) = (Vec::new(), 0);
        for visual in visuals {
            let frames = frames_from(&tokens, at, &visual, spec).ok_or_else(|| Error::Option {
                option: "prompt",
                got: "placeholders of another order than its pictures".to_owned(),
                expected: format!(
                    "{} times token {} side by side for each frame",
                    visual.rows_per_frame(spec),
                    placeholder(&visual, spec)
                ),
            })?;
            at = frames.last().map_or(at, |frame| frame.end);
            placed.push(Placed { visual, frames });
        }
        let (positions, next) = positions(&placed, spec.spatial_merge_size);
        Ok(Self { tokens, placed, positions, next })
    }

    /// The token ids, placeholders included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The pictures, in order.
    pub fn visuals(&self) -> impl Iterator<Item = &Visual> {
        self.placed.iter().map(|placed| &placed.visual)
    }

    /// Where token `index` stands, which may lie beyond the prompt: text follows it.
    ///
    /// An image's rows share their time, and after it goes on as far as the image is high or wide,
    /// whichever is more.
    pub fn position(&self, index: usize) -> Position {
        let beyond = |index: usize| [index - self.positions.len() + self.next; 3];
        self.positions.get(index).copied().unwrap_or_else(|| beyond(index))
    }

    pub(crate) fn placed(&self) -> &[Placed] {
        &self.placed
    }

    /// Room for so many tokens.
    pub(crate) fn reserve(&mut self, tokens: usize) {
        self.tokens.reserve(tokens.saturating_sub(self.tokens.len()));
    }

    pub(crate) fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Becomes `prompt`, which begins with it.
    pub(crate) fn extend_to(&mut self, prompt: &Self) {
        self.tokens.extend_from_slice(&prompt.tokens[self.tokens.len()..]);
        if self.placed.len() < prompt.placed.len() {
            self.placed.clone_from(&prompt.placed);
        }
    }

    /// Keeps the first `len` tokens; a picture that is cut stays for those of its rows.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.placed.retain(|placed| placed.first() < len);
    }

    /// Tokens from the beginning that mean the same in both, pictures included.
    pub(crate) fn shared(&self, other: &Self) -> usize {
        let pairs = self.tokens.iter().zip(&other.tokens);
        let shared = pairs.take_while(|(a, b)| a == b).count();
        let same = |(own, other): &(&Placed, &Placed)| {
            own.frames == other.frames && own.visual.same(&other.visual)
        };
        let common = self.placed.iter().zip(&other.placed).take_while(same).count();
        // A picture that only one of the two has there.
        let first = |prompt: &Self| prompt.placed.get(common).map_or(usize::MAX, Placed::first);
        shared.min(first(self)).min(first(other))
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Self { tokens, ..Self::default() }
    }
}

impl<T: AsRef<[u32]> + ?Sized> From<&T> for Prompt {
    fn from(tokens: &T) -> Self {
        tokens.as_ref().to_vec().into()
    }
}

/// What stands for each row of a picture.
fn placeholder(visual: &Visual, spec: &VisionSpec) -> u32 {
    if visual.timestamps.is_some() { spec.tokens.video } else { spec.tokens.image }
}

/// The tokens of each frame of a picture whose placeholders follow `at`; `None` if there are not as
/// many, side by side, as a frame has rows.
fn frames_from(
    tokens: &[u32],
    mut at: usize,
    visual: &Visual,
    spec: &VisionSpec,
) -> Option<Vec<Range<usize>>> {
    let (placeholder, rows) = (placeholder(visual, spec), visual.rows_per_frame(spec));
    let mut frames = Vec::new();
    for _ in 0..visual.pixels.grid_thw()[0] {
        at += tokens.get(at..)?.iter().position(|&token| token == placeholder)?;
        let frame = at..at + rows;
        if tokens.get(frame.clone())?.iter().any(|&token| token != placeholder) {
            return None;
        }
        at = frame.end;
        frames.push(frame);
    }
    Some(frames)
}

/// The positions of all tokens up to the end of the last picture, and the next one.
fn positions(placed: &[Placed], merge: usize) -> (Vec<Position>, usize) {
    let (mut positions, mut next) = (Vec::new(), 0);
    for placed in placed {
        let [_, h, w] = placed.visual.pixels.grid_thw().map(|size| size / merge);
        for frame in &placed.frames {
            while positions.len() < frame.start {
                positions.push([next; 3]);
                next += 1;
            }
            let rows = (0..h).flat_map(|row| (0..w).map(move |col| [0, row, col]));
            positions.extend(rows.map(|place| place.map(|along| next + along)));
            next += h.max(w);
        }
    }
    (positions, next)
}
