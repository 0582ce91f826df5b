//! Products of activations with weight rows: the one kernel family behind experts, dense layers
//! and attention.
//!
//! `out[i, r] = Σ_k x[i, k] · w[r, k]`, in two forms that both read the weights where they lie:
//!
//! - [`Kernel::dot`], for few input rows: columns in the lanes, a reduction at the end. The weights
//!   pass once, as fast as memory gives them.
//! - [`Kernel::lanes`], for many: sixteen input rows in the lanes, packed into a panel first, and
//!   one weight at a time broadcast to them. No reduction, twice the products per load.
//!
//! Invariant: within a form, an output's order of summation depends on the number of columns and
//! the instruction set alone, not on the tile that happens to compute it. So a result does not
//! depend on the rows beside it or on the number of threads.
//!
//! [`Kernel::all`] is the list, by instruction set and format of the weights, that dispatch, tests
//! and `moexperts inspect` walk. An instruction set is a file of tiles; `dot` and `lanes` walk a
//! block in them.

#[cfg(target_arch = "x86_64")]
mod amxbf16;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod dot;
mod gather;
mod lanes;
mod portable;
#[cfg(test)]
mod tests;

use std::ops::Range;

use half::{bf16, f16};
use moexperts_core::{DType, Element, Elements, Matrix, WeightFormat};

pub(crate) use self::gather::Gathered;
use self::{dot::DotCall, lanes::LanesCall};
use crate::{isa::Isa, tuning::Tuning};

/// Input rows of a panel.
pub const PANEL: usize = 16;

/// Weight rows that pass over some inputs before the next, at most: they stay in the second-level
/// cache.
pub(crate) const BLOCK_OUTPUTS: usize = 96;

/// Panels of inputs that pass over a block, at most.
pub(crate) const BLOCK_PANELS: usize = 8;

/// Room for the results of one block, in either form.
#[derive(Debug)]
pub(crate) struct Block(pub(crate) Vec<f32>);

impl Default for Block {
    fn default() -> Self {
        Self(vec![0.0; BLOCK_OUTPUTS * BLOCK_PANELS * PANEL])
    }
}

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

impl<'a> Weights<'a> {
    /// The typed elements from the first of the rows `outputs` on.
    ///
    /// # Panics
    /// If the rows do not exist or the weights are of another format.
    fn rows_of<W: Element>(&self, outputs: &Range<usize>) -> &'a [W] {
        let weights = W::slice(self.elements).expect("the weights are of the kernel's format");
        assert!(outputs.start <= outputs.end && outputs.end <= self.rows, "outputs {outputs:?}");
        weights.get(outputs.start * self.row_stride..).unwrap_or_default()
    }
}

/// # Panics
/// If the values of a row are not neighbours.
impl<'a> From<&'a Matrix> for Weights<'a> {
    fn from(matrix: &'a Matrix) -> Self {
        assert!(matrix.rows_are_contiguous(), "rows of values {} apart", matrix.col_stride());
        Self {
            elements: matrix.elements(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            row_stride: matrix.row_stride(),
        }
    }
}

/// Weights that a thread reads after those of a product.
#[derive(Debug, Clone, Copy)]
pub struct Then<'a> {
    /// Of the same format.
    pub weights: Weights<'a>,
    /// The first row that is read.
    pub row: usize,
}

impl<'a> Then<'a> {
    /// The rows of a weight from `row` on, if they are read where they lie.
    pub(crate) fn rows(weight: &'a Matrix, row: usize) -> Option<Self> {
        weight.rows_are_contiguous().then(|| Self { weights: weight.into(), row })
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

impl Inputs<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// A kernel, known to run on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    isa: Isa,
    forms: Forms,
    tuning: Tuning,
}

/// The typed functions behind a kernel: a variant for each pair of inputs and weights.
#[derive(Debug, Clone, Copy)]
enum Forms {
    F32(TypedForms<f32, f32>),
    F16(TypedForms<f32, f16>),
    Bf16(TypedForms<f32, bf16>),
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "other architectures have no kernel of these types yet")
    )]
    Bf16Dot(TypedForms<bf16, bf16>),
}

/// Both forms for inputs `X` and weights `W`.
///
/// Unsafe to call: the processor must have the kernel's instruction set.
#[derive(Debug, Clone, Copy)]
struct TypedForms<X, W> {
    dot: unsafe fn(&DotCall<'_, X, W>, out: &mut [f32]),
    lanes: unsafe fn(&LanesCall<'_, X, W>, out: &mut [f32]),
}

/// A type of inputs.
pub(crate) trait Input: Copy {
    /// Neighbouring columns that an instruction multiplies and adds at once: in a panel they lie
    /// side by side.
    const PAIR: usize;
    const ZERO: Self;
}

impl Input for f32 {
    const PAIR: usize = 1;
    const ZERO: Self = 0.0;
}

impl Input for bf16 {
    const PAIR: usize = 2;
    const ZERO: Self = bf16::ZERO;
}

/// The forms in an instruction set's file, for the types of its place in the list.
macro_rules! forms {
    ($isa:ident) => {
        TypedForms { dot: $isa::dot, lanes: $isa::lanes }
    };
}

impl Kernel {
    /// The kernels that this machine can run, of each format the best first.
    pub fn all() -> impl Iterator<Item = Self> {
        // A format has its row for each instruction set that is written for it.
        let kernels = [
            #[cfg(target_arch = "x86_64")]
            (Isa::AmxBf16, Forms::Bf16Dot(forms!(amxbf16))),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16, Forms::Bf16Dot(forms!(avx512bf16))),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Forms::F32(forms!(avx512))),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Forms::F16(forms!(avx512))),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Forms::Bf16(forms!(avx512))),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Forms::F32(forms!(avx2))),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Forms::F16(forms!(avx2))),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Forms::Bf16(forms!(avx2))),
            (Isa::Portable, Forms::F32(forms!(portable))),
            (Isa::Portable, Forms::F16(forms!(portable))),
            (Isa::Portable, Forms::Bf16(forms!(portable))),
        ];
        let tuning = Tuning::default();
        let here = move |(isa, forms): (Isa, Forms)| {
            isa.runs_here().then_some(Self { isa, forms, tuning })
        };
        kernels.into_iter().filter_map(here)
    }

    /// The first kernel for weights of this format whose instruction set `isa` includes; `None` if
    /// there is none.
    pub fn select(isa: Isa, format: impl Into<WeightFormat>) -> Option<Self> {
        let format = format.into();
        Self::all().find(|kernel| isa.includes(kernel.isa) && kernel.format() == format)
    }

    /// The same kernel with other settings.
    pub(crate) fn tuned(self, tuning: Tuning) -> Self {
        Self { tuning, ..self }
    }

    /// Weight rows that should pass over some panels before the next.
    pub(crate) fn block_outputs(&self) -> usize {
        self.tuning.block_outputs
    }

    /// Panels that should pass over a block of weight rows together.
    pub(crate) fn block_panels(&self) -> usize {
        self.tuning.block_panels
    }

    /// The instruction set it needs.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The format of the weights it takes.
    pub fn format(&self) -> WeightFormat {
        match self.forms {
            Forms::F32(_) => WeightFormat::F32,
            Forms::F16(_) => WeightFormat::F16,
            Forms::Bf16(_) | Forms::Bf16Dot(_) => WeightFormat::BF16,
        }
    }

    /// The dtype of the inputs it takes.
    pub fn inputs(&self) -> DType {
        match self.forms {
            Forms::Bf16Dot(_) => DType::Bf16,
            Forms::F32(_) | Forms::F16(_) | Forms::Bf16(_) => DType::F32,
        }
    }

    /// Computes `out[i * outputs + r] = Σ_k x[rows[i], k] · w[outputs.start + r, k]`. Of the weights
    /// that are read `then`, the first rows are asked for in time.
    ///
    /// # Panics
    /// If an input row or an output does not exist, `out` does not hold
    /// `rows.len() * outputs.len()` values, or inputs and weights are not of the kernel's types.
    pub fn dot(
        &self,
        inputs: Inputs<'_>,
        rows: &[u32],
        weights: Weights<'_>,
        outputs: Range<usize>,
        then: Option<Then<'_>>,
        out: &mut [f32],
    ) {
        let w = (weights, outputs, then, self.tuning.ahead);
        match (self.forms, inputs) {
            (Forms::F32(forms), Inputs::F32(x)) => forms.dot(x, rows, w, out),
            (Forms::F16(forms), Inputs::F32(x)) => forms.dot(x, rows, w, out),
            (Forms::Bf16(forms), Inputs::F32(x)) => forms.dot(x, rows, w, out),
            (Forms::Bf16Dot(forms), Inputs::Bf16(x)) => forms.dot(x, rows, w, out),
            _ => panic!("the inputs are not of dtype {}", self.inputs()),
        }
    }

    /// Computes `out[(p * outputs + r) * PANEL + lane] = Σ_k x[p, lane, k] · w[outputs.start + r, k]`
    /// for every row `lane` of every panel `p`.
    ///
    /// # Panics
    /// If the panels are not whole ones of the weights' columns, an output does not exist, `out`
    /// does not hold `panels * outputs.len() * PANEL` values, or inputs and weights are not of the
    /// kernel's types.
    pub fn lanes(
        &self,
        panels: Inputs<'_>,
        weights: Weights<'_>,
        outputs: Range<usize>,
        out: &mut [f32],
    ) {
        let size = self.panel_len(weights.cols);
        let shape = PanelShape {
            count: panels.len().checked_div(size).unwrap_or(0),
            stride: size,
            step_stride: if self.inputs() == DType::Bf16 { 2 * PANEL } else { PANEL },
        };
        assert_eq!(panels.len(), shape.count * size, "panels");
        self.lanes_of(panels, shape, weights, outputs, out);
    }

    /// [`lanes`](Self::lanes) with values as they lie in rows: `PANEL` neighbours of a row are the
    /// lanes, the rows are the columns to sum over. `values` begins with the first panel, the next
    /// follows beside it.
    ///
    /// # Panics
    /// As `lanes`; also if `values` does not hold `weights` columns' rows `stride` apart.
    pub fn lanes_in_rows(
        &self,
        values: &[f32],
        panels: usize,
        stride: usize,
        weights: Weights<'_>,
        out: &mut [f32],
    ) {
        let needed = weights.cols.checked_sub(1).map_or(0, |rows| rows * stride + panels * PANEL);
        assert!(needed <= values.len(), "values");
        let shape = PanelShape { count: panels, stride: PANEL, step_stride: stride };
        self.lanes_of(Inputs::F32(values), shape, weights, 0..weights.rows, out);
    }

    fn lanes_of(
        &self,
        panels: Inputs<'_>,
        shape: PanelShape,
        weights: Weights<'_>,
        outputs: Range<usize>,
        out: &mut [f32],
    ) {
        let w = (weights, outputs, self.tuning.panel_bytes);
        match (self.forms, panels) {
            (Forms::F32(forms), Inputs::F32(x)) => forms.lanes(x, shape, w, out),
            (Forms::F16(forms), Inputs::F32(x)) => forms.lanes(x, shape, w, out),
            (Forms::Bf16(forms), Inputs::F32(x)) => forms.lanes(x, shape, w, out),
            (Forms::Bf16Dot(forms), Inputs::Bf16(x)) => forms.lanes(x, shape, w, out),
            _ => panic!("the inputs are not of dtype {}", self.inputs()),
        }
    }

    /// How many of `rows` input rows go through [`lanes`](Self::lanes), and in how many panels; the
    /// rest go through [`dot`](Self::dot). A last panel that is full enough is cheaper than as many
    /// dot products.
    pub(crate) fn in_panels(&self, rows: usize) -> (usize, usize) {
        // A panel costs tiles no more than reading the weights. Weight rows of f32 are twice as long:
        // dot products wait for them in the caches.
        let worth_a_panel = match (self.tuning.panel_rows, self.isa, self.forms) {
            (0, Isa::AmxBf16, _) => 7,
            (0, _, Forms::F32(_)) => 8,
            (0, _, Forms::F16(_) | Forms::Bf16(_) | Forms::Bf16Dot(_)) => 13,
            (rows, ..) => rows.min(PANEL),
        };
        let panels = (rows + PANEL - worth_a_panel) / PANEL;
        (rows.min(panels * PANEL), panels)
    }

    /// Values of a panel of `cols` columns.
    pub fn panel_len(&self, cols: usize) -> usize {
        let pair = if self.inputs() == DType::Bf16 { <bf16 as Input>::PAIR } else { 1 };
        cols.next_multiple_of(pair) * PANEL
    }
}

/// Where panels lie.
#[derive(Clone, Copy)]
struct PanelShape {
    count: usize,
    /// From a panel to the next.
    stride: usize,
    /// From a column (a pair of columns) to the next.
    step_stride: usize,
}

impl<X: Input, W: Element> TypedForms<X, W> {
    fn dot(
        self,
        inputs: &[X],
        rows: &[u32],
        (weights, outputs, then, groups_ahead): (
            Weights<'_>,
            Range<usize>,
            Option<Then<'_>>,
            usize,
        ),
        out: &mut [f32],
    ) {
        let cols = weights.cols;
        assert_eq!(out.len(), rows.len() * outputs.len(), "out");
        let existing = inputs.len().checked_div(cols).unwrap_or(usize::MAX);
        assert!(rows.iter().all(|&row| (row as usize) < existing), "input rows");
        let call = DotCall {
            inputs,
            rows,
            weights: weights.rows_of(&outputs),
            row_stride: weights.row_stride,
            outputs: outputs.len(),
            cols,
            next: then.map_or(std::ptr::null(), |then| {
                then.weights.rows_of::<W>(&(then.row..then.weights.rows)).as_ptr()
            }),
            next_stride: then.map_or(0, |then| then.weights.row_stride),
            groups_ahead,
        };
        // SAFETY: `Kernel::all` checked the instruction set before it made the kernel.
        unsafe { (self.dot)(&call, out) };
    }

    fn lanes(
        self,
        panels: &[X],
        shape: PanelShape,
        (weights, outputs, panel_bytes): (Weights<'_>, Range<usize>, usize),
        out: &mut [f32],
    ) {
        assert_eq!(out.len(), shape.count * outputs.len() * PANEL, "out");
        let call = LanesCall {
            panels,
            panel_count: shape.count,
            panel_stride: shape.stride,
            step_stride: shape.step_stride,
            weights: weights.rows_of(&outputs),
            row_stride: weights.row_stride,
            outputs: outputs.len(),
            cols: weights.cols,
            panel_bytes,
        };
        // SAFETY: `Kernel::all` checked the instruction set before it made the kernel.
        unsafe { (self.lanes)(&call, out) };
    }
}

/// Packs up to [`PANEL`] of the rows `[_, cols]` of `inputs` into a panel; the lanes that are left
/// become zero.
///
/// # Panics
/// If there are more rows, one does not exist, or `panel` does not hold a panel of `cols` columns.
pub(crate) fn pack<X: Input>(inputs: &[X], rows: &[u32], cols: usize, panel: &mut [X]) {
    let step = X::PAIR * PANEL;
    assert!(rows.len() <= PANEL && panel.len() == cols.div_ceil(X::PAIR) * step, "panel");
    if rows.len() < PANEL || !cols.is_multiple_of(X::PAIR) {
        panel.fill(X::ZERO);
    }
    // A few cache lines of every row at a time, so that the panel is written in order.
    for (block, panel) in panel.chunks_mut(PANEL / X::PAIR * step).enumerate() {
        let first = block * PANEL;
        let width = PANEL.min(cols - first);
        for (lane, &row) in rows.iter().enumerate() {
            let values = &inputs[row as usize * cols + first..][..width];
            for (col, &value) in values.iter().enumerate() {
                panel[col / X::PAIR * step + lane * X::PAIR + col % X::PAIR] = value;
            }
        }
    }
}

/// Asks for a cache line, into the second-level cache, that is read soon. Any address is allowed.
#[inline(always)]
fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing the program can see and never faults; SSE is part of
        // every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
