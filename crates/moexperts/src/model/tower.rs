//! A vision tower on a device: its graph, and what it makes of pictures.

use std::sync::{Mutex, PoisonError};

use moexperts_core::{Batch, DType, Device, Scratch, Span, Weight, made};

use super::decoder::check_operations;
use crate::{
    blocks::{VisionSpec, vision_grid as grid},
    error::{Error, Result},
    graph::{Feed, Graph, Op, Pixels, Program, RowCounts, Run, Step, VisualFeatures, Workspace},
    image_processor::PixelValues,
    weights::Weights,
};

/// A vision tower and its weights on a device.
#[derive(Debug)]
pub struct VisionTower<D: Device> {
    device: D,
    spec: VisionSpec,
    dtype: DType,
    graph: Graph<D>,
    program: Program<D>,
    /// Memory of plans' forwards that are over, kept for the next.
    memories: Mutex<Vec<TowerMemory<D>>>,
}

/// What the tower keeps from forward to forward.
#[derive(Debug)]
struct TowerMemory<D: Device> {
    scratch: Scratch,
    angles: [[D::Tensor; 2]; 1],
    workspace: Workspace<D>,
}

impl<D: Device> Default for TowerMemory<D> {
    fn default() -> Self {
        Self {
            scratch: Scratch::default(),
            angles: Default::default(),
            workspace: Workspace::default(),
        }
    }
}

/// The picture that the workspace of a model that is not compiled is laid out for.
const ONE_PATCH: RowCounts = RowCounts { tokens: 1, logits: 0 };

impl<D: Device> VisionTower<D> {
    /// Builds the graph of `spec` over the weights of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a tensor that is missing or of another shape; [`Error::Core`] for
    /// an operation that the device does not have.
    pub fn load(spec: VisionSpec, weights: &mut Weights<'_, D>) -> Result<Self> {
        let device = weights.device().clone();
        let graph = spec.build(weights)?;
        check_operations(&graph, &device)?;
        let first = graph.nodes.iter().find_map(|node| match &node.op {
            Op::Linear(linears) => linears.first()?.weight.format().dense(),
            _ => None,
        });
        Ok(Self {
            dtype: first.unwrap_or(DType::F32),
            program: Program::new(&device, graph.clone(), ONE_PATCH),
            memories: Mutex::default(),
            device,
            spec,
            graph,
        })
    }

    /// Its description.
    pub fn spec(&self) -> &VisionSpec {
        &self.spec
    }

    /// Element type of the weights that patches are multiplied with.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where it computes.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The forward as it was built.
    pub(crate) fn graph(&self) -> &Graph<D> {
        &self.graph
    }

    /// What a decoder reads of an image or a video: a row for each block of
    /// `spatial_merge_size`² patches.
    ///
    /// # Errors
    /// If the pixels are not cut into patches as the tower takes them.
    pub fn features(&self, pixels: &PixelValues) -> Result<VisualFeatures<D>> {
        self.run(&self.program, pixels)
    }

    /// [`features`](Self::features) by a program of this tower's forward.
    ///
    /// # Errors
    /// As [`features`](Self::features).
    pub(crate) fn run(
        &self,
        program: &Program<D>,
        pixels: &PixelValues,
    ) -> Result<VisualFeatures<D>> {
        self.with_memory(program, pixels, |run, workspace| {
            program.run(run, workspace)?;
            let mut outputs = program.take_outputs(workspace).into_iter();
            let embeddings = outputs.next().unwrap_or_default();
            Ok(VisualFeatures { embeddings, deepstack: outputs.collect() })
        })
    }

    /// Runs the program with another way through each step, for measurements.
    ///
    /// # Errors
    /// As [`features`](Self::features) and `work`.
    pub(crate) fn measure(
        &self,
        program: &Program<D>,
        pixels: &PixelValues,
        mut work: impl FnMut(usize, &Step<D>, &mut Workspace<D>, &mut Run<'_, D>) -> Result<()> + Send,
    ) -> Result<()> {
        self.with_memory(program, pixels, |run, workspace| {
            program.run_steps(run, workspace, &mut work)
        })
    }

    fn with_memory<R: Send>(
        &self,
        program: &Program<D>,
        pixels: &PixelValues,
        work: impl FnOnce(&mut Run<'_, D>, &mut Workspace<D>) -> Result<R> + Send,
    ) -> Result<R> {
        self.check(pixels)?;
        let memories = || self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = memories().pop().unwrap_or_default();
        let TowerMemory { scratch, angles, workspace } = &mut memory;
        let (spec, grid, patches) = (&self.spec, pixels.grid_thw(), pixels.patches());
        let result = program.enter(workspace, false, |workspace| {
            let (rows, weights) = grid::interpolation(spec, grid);
            let pairs = spec.hidden_size / spec.heads / 2;
            let [cos, sin] = grid::angles(spec, grid);
            let load =
                |values: &[f32]| made(|out| self.device.load_tensor(patches, pairs, values, out));
            angles[0] = [load(&cos)?, load(&sin)?];
            // A patch sees its own frame.
            let frames = vec![grid[1] * grid[2]; grid[0]];
            let batch = Batch::new(vec![Span { sequence: 0, start: 0, tokens: patches }]);
            let feed = Feed {
                batch: &batch,
                ids: &[],
                visuals: &[],
                logits_rows: &[],
                angles: &*angles,
                pixels: Pixels {
                    values: pixels.values(),
                    rows: &rows,
                    weights: &weights,
                    taps: grid::TAPS,
                    frames: &frames,
                },
            };
            let mut run = Run { feed, state: None, scratch, experts: None, observer: None };
            work(&mut run, workspace)
        });
        // A plan runs again; without one, a picture's memory is given back.
        if !std::ptr::eq(program, &self.program) {
            memories().push(memory);
        }
        result
    }

    fn check(&self, pixels: &PixelValues) -> Result<()> {
        let ([t, h, w], merge) = (pixels.grid_thw(), self.spec.spatial_merge_size);
        let whole = h.is_multiple_of(merge) && w.is_multiple_of(merge) && t * h * w > 0;
        if pixels.patch_len() == self.spec.patch_len() && whole {
            return Ok(());
        }
        Err(Error::from(moexperts_core::Error::Value {
            what: "pixel grid".into(),
            expected: format!("patches of {} in whole blocks of {merge}", self.spec.patch_len()),
            got: format!("{t} x {h} x {w} patches of {}", pixels.patch_len()),
        }))
    }
}
