//! Products of activations with weight rows: the one kernel family behind experts, dense layers
//! and attention scores.
//!
//! `out[i, r] = Σ_k x[i, k] · w[r, k]`: a block of input rows, found through a list of row
//! indices so that nothing is gathered, against a block of weight rows, read where they lie.
//!
//! Invariant: one output is one dot product whose order depends on `k` and the instruction set
//! alone, not on the tile that happens to compute it. So a token's result does not depend on the
//! tokens beside it, on the number of threads, or on the backend.
//!
//! [`Kernel::all`] is the list that dispatch, tests and `moexperts inspect` walk. An instruction
//! set is a file of tiles; `tiles` walks a block in them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod portable;
#[cfg(test)]
mod tests;
mod tiles;

use std::ops::Range;

use half::{bf16, f16};
use moexperts_core::{DType, Element, Elements, Matrix};

use crate::isa::Isa;

/// Weight rows a caller asks for at once: their bytes stay in the second-level cache while all
/// input rows pass.
pub const BLOCK_OUTPUTS: usize = 64;

/// Input rows a caller asks for at once: a multiple of every tile's, and small enough that the
/// results stay in the first-level cache.
pub const BLOCK_INPUTS: usize = 48;

/// Rows of weights `[rows, cols]`, wherever they lie.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    elements: Elements<'a>,
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> Weights<'a> {
    /// Rows of f32 values: row `r` starts at `r * row_stride`.
    ///
    /// # Panics
    /// If the rows do not lie inside `values`.
    pub fn from_f32(values: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows == 0 || (rows - 1) * row_stride + cols <= values.len(), "rows");
        Self { elements: Elements::F32(values), rows, cols, row_stride }
    }
}

impl<'a> From<&'a Matrix> for Weights<'a> {
    fn from(matrix: &'a Matrix) -> Self {
        Self {
            elements: matrix.elements(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            row_stride: matrix.row_stride(),
        }
    }
}

/// Input rows `[_, cols]`, as the kernel wants them.
#[derive(Debug, Clone, Copy)]
pub enum Inputs<'a> {
    /// As they are.
    F32(&'a [f32]),
    /// Rounded, for instructions that multiply bf16 by bf16.
    Bf16(&'a [bf16]),
}

/// A kernel, known to run on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    isa: Isa,
    block: Block,
}

/// The typed function behind a kernel.
#[derive(Debug, Clone, Copy)]
enum Block {
    F32(TypedBlock<f32, f32>),
    F16(TypedBlock<f32, f16>),
    Bf16(TypedBlock<f32, bf16>),
    Bf16Dot(TypedBlock<bf16, bf16>),
}

/// Writes `out[i * outputs + r]` for every input row `i` and weight row `r` of the call.
///
/// Unsafe to call: the processor must have the kernel's instruction set.
type TypedBlock<X, W> = unsafe fn(&TypedCall<'_, X, W>, out: &mut [f32]);

/// A checked call: every index in `rows` is a row of `inputs`, every output a row of `weights`.
struct TypedCall<'a, X, W> {
    inputs: &'a [X],
    rows: &'a [u32],
    weights: &'a [W],
    row_stride: usize,
    outputs: usize,
    cols: usize,
}

impl Kernel {
    /// The kernels this machine can run, the best for each dtype first.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let kernels = [
            (Isa::Avx512Bf16, Block::Bf16Dot(avx512bf16::block)),
            (Isa::Avx512, Block::F32(avx512::block::<f32>)),
            (Isa::Avx512, Block::F16(avx512::block::<f16>)),
            (Isa::Avx512, Block::Bf16(avx512::block::<bf16>)),
            (Isa::Avx2, Block::F32(avx2::block::<f32>)),
            (Isa::Avx2, Block::F16(avx2::block::<f16>)),
            (Isa::Avx2, Block::Bf16(avx2::block::<bf16>)),
            (Isa::Portable, Block::F32(portable::block::<f32>)),
            (Isa::Portable, Block::F16(portable::block::<f16>)),
            (Isa::Portable, Block::Bf16(portable::block::<bf16>)),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let kernels = [
            (Isa::Portable, Block::F32(portable::block::<f32>)),
            (Isa::Portable, Block::F16(portable::block::<f16>)),
            (Isa::Portable, Block::Bf16(portable::block::<bf16>)),
        ];
        let here = |(isa, block): (Isa, Block)| isa.runs_here().then_some(Self { isa, block });
        kernels.into_iter().filter_map(here)
    }

    /// The best kernel for weights of this dtype that needs no more than `isa`.
    ///
    /// # Panics
    /// Never: the portable kernels take every dtype and run everywhere.
    pub fn select(isa: Isa, weights: DType) -> Self {
        Self::all()
            .find(|kernel| kernel.isa <= isa && kernel.weights() == weights)
            .expect("a portable kernel takes every dtype")
    }

    /// The instruction set it needs.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The dtype of the weights it takes.
    pub fn weights(&self) -> DType {
        match self.block {
            Block::F32(_) => DType::F32,
            Block::F16(_) => DType::F16,
            Block::Bf16(_) | Block::Bf16Dot(_) => DType::Bf16,
        }
    }

    /// The dtype of the inputs it takes.
    pub fn inputs(&self) -> DType {
        match self.block {
            Block::Bf16Dot(_) => DType::Bf16,
            Block::F32(_) | Block::F16(_) | Block::Bf16(_) => DType::F32,
        }
    }

    /// The inputs as this kernel takes them: as they are, or rounded into `rounded`.
    pub fn prepare<'a>(&self, values: &'a [f32], rounded: &'a mut Vec<bf16>) -> Inputs<'a> {
        match self.inputs() {
            DType::Bf16 => {
                rounded.clear();
                rounded.extend(values.iter().map(|&value| bf16::from_f32(value)));
                Inputs::Bf16(rounded)
            }
            DType::F32 | DType::F16 => Inputs::F32(values),
        }
    }

    /// Computes `out[i, r] = Σ_k x[rows[i], k] · w[outputs.start + r, k]`, row-major.
    ///
    /// # Panics
    /// If an input row or an output does not exist, `out` does not hold
    /// `rows.len() * outputs.len()` values, or the dtypes are not the kernel's.
    pub fn run(
        &self,
        inputs: Inputs<'_>,
        rows: &[u32],
        weights: Weights<'_>,
        outputs: Range<usize>,
        out: &mut [f32],
    ) {
        let call = Call { rows, weights, outputs };
        match (self.block, inputs) {
            (Block::F32(block), Inputs::F32(x)) => call.run(block, x, out),
            (Block::F16(block), Inputs::F32(x)) => call.run(block, x, out),
            (Block::Bf16(block), Inputs::F32(x)) => call.run(block, x, out),
            (Block::Bf16Dot(block), Inputs::Bf16(x)) => call.run(block, x, out),
            _ => panic!("the inputs are not of dtype {}", self.inputs()),
        }
    }
}

struct Call<'a> {
    rows: &'a [u32],
    weights: Weights<'a>,
    outputs: Range<usize>,
}

impl Call<'_> {
    fn run<X, W: Element>(self, block: TypedBlock<X, W>, inputs: &[X], out: &mut [f32]) {
        let Weights { elements, rows, cols, row_stride } = self.weights;
        let weights = W::slice(elements).expect("the weights are of the kernel's dtype");
        let outputs = self.outputs;
        assert!(outputs.start <= outputs.end && outputs.end <= rows, "outputs {outputs:?}");
        assert_eq!(out.len(), self.rows.len() * outputs.len(), "out");
        let existing = inputs.len().checked_div(cols).unwrap_or(usize::MAX);
        assert!(self.rows.iter().all(|&row| (row as usize) < existing), "input rows");
        let call = TypedCall {
            inputs,
            rows: self.rows,
            weights: weights.get(outputs.start * row_stride..).unwrap_or_default(),
            row_stride,
            outputs: outputs.len(),
            cols,
        };
        // SAFETY: `Kernel::all` checked the instruction set before it made the kernel.
        unsafe { block(&call, out) };
    }
}
