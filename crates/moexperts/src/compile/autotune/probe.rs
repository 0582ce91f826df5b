//! Made-up inputs that a plan is measured on.

use moexperts_core::{Batch, Device, ExpertsBackend, Span};

use crate::{
    blocks::Position,
    compile::{
        class::{ForwardKind, ShapeClass},
        plan::Plan,
        subject::Subject,
    },
    error::Result,
    graph::{Run, Step, Workspace},
    image_processor::PixelValues,
    model::{Decoder, Forward, Input, LogitsRows, Memory, VisionTower},
};

/// Made-up inputs of the largest shape of a class.
pub(super) enum Probe<'a, D: Device> {
    Tokens {
        decoder: &'a Decoder<D>,
        backend: &'a dyn ExpertsBackend<D::Experts>,
        ids: Vec<u32>,
        batch: Batch,
        positions: Vec<Position>,
        memory: Box<Memory<D>>,
    },
    Picture {
        tower: &'a VisionTower<D>,
        pixels: PixelValues,
    },
}

impl<'a, D: Device> Probe<'a, D> {
    pub(super) fn new(subject: Subject<'a, D>, class: ShapeClass) -> Result<Self> {
        match subject {
            Subject::Decoder(decoder, backend) => {
                let spans = spans(class, decoder.spec().trained_length());
                let tokens: usize = spans.iter().map(|span| span.tokens).sum();
                let vocab = decoder.spec().vocab_size.max(1);
                // Knuth's multiplier spreads the ids, and with them the experts that are chosen.
                let id = |token: usize| (token.wrapping_mul(2_654_435_761) % vocab) as u32;
                let positions = spans.iter().flat_map(|span| (0..span.tokens).map(|t| [t; 3]));
                Ok(Self::Tokens {
                    decoder,
                    backend: &**backend,
                    ids: (0..tokens).map(id).collect(),
                    positions: positions.collect(),
                    memory: Box::new(decoder.memory(spans.len())?),
                    batch: Batch::new(spans),
                })
            }
            Subject::Tower(tower) => {
                let merge = tower.spec().spatial_merge_size;
                let blocks = (class.tokens / (merge * merge)).max(1);
                let high = blocks.isqrt().max(1);
                let grid = [1, high * merge, blocks / high * merge];
                let len = tower.spec().patch_len();
                let patches: usize = grid.iter().product();
                let value = |index: usize| (index % 251) as f32 / 125.0 - 1.0;
                let values = (0..patches * len).map(value).collect();
                Ok(Self::Picture { tower, pixels: PixelValues::new(grid, len, values)? })
            }
        }
    }

    /// Runs the plan, with `work` in the place of each step.
    pub(super) fn run(
        &mut self,
        plan: &Plan<D>,
        work: impl FnMut(usize, &Step<D>, &mut Workspace<D>, &mut Run<'_, D>) -> Result<()> + Send,
    ) -> Result<()> {
        match self {
            Self::Tokens { decoder, backend, ids, batch, positions, memory } => {
                let logits = plan.class.logits;
                let input = Input { ids, batch, positions, visuals: &[], logits };
                let call = Forward { input, memory, experts: *backend, observer: None };
                decoder.measure(&plan.program, call, work)
            }
            Self::Picture { tower, pixels } => tower.measure(&plan.program, pixels, work),
        }
    }
}

/// Made-up prompts of the largest shape of a class.
fn spans(class: ShapeClass, context: usize) -> Vec<Span> {
    let span = |sequence, tokens| Span { sequence, start: 0, tokens };
    if class.kind == ForwardKind::Decode {
        return (0..class.tokens).map(|sequence| span(sequence, 1)).collect();
    }
    let sequences = match class.logits {
        LogitsRows::All => 1,
        LogitsRows::LastOfSpan => class.logits_rows,
    };
    let tokens = (class.tokens / sequences).min(context).max(1);
    (0..sequences).map(|sequence| span(sequence, tokens)).collect()
}
