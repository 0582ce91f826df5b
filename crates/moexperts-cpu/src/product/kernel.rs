//! The list of kernels, and the calls that reach them.

use std::ops::Range;

use half::{bf16, f16};
use moexperts_core::{DType, Element, WeightFormat};

#[cfg(target_arch = "x86_64")]
use super::{amxbf16, avx2, avx512, avx512bf16};
use super::{
    dot::DotCall,
    lanes::LanesCall,
    panel::{Input, PANEL},
    portable,
    weights::{Inputs, Then, Weights},
};
use crate::{isa::Isa, tuning::Tuning};

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
/// Unsafe to call: the processor must have the kernel's instruction set, and the call must be one
/// whose rows and panels exist, as [`DotCall`] and [`LanesCall`] say.
#[derive(Debug, Clone, Copy)]
struct TypedForms<X, W> {
    dot: unsafe fn(&DotCall<'_, X, W>, out: &mut [f32]),
    lanes: unsafe fn(&LanesCall<'_, X, W>, out: &mut [f32]),
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

    /// Computes `out[i * outputs + r] = Σ_k x[rows[i], k] · w[outputs.start + r, k]`. The first
    /// rows of the weights that are read `then` are prefetched.
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
        let groups_ahead = self.tuning.ahead;
        let call = DotArguments { rows, weights, outputs, then, groups_ahead };
        match (self.forms, inputs) {
            (Forms::F32(forms), Inputs::F32(x)) => forms.dot(x, call, out),
            (Forms::F16(forms), Inputs::F32(x)) => forms.dot(x, call, out),
            (Forms::Bf16(forms), Inputs::F32(x)) => forms.dot(x, call, out),
            (Forms::Bf16Dot(forms), Inputs::Bf16(x)) => forms.dot(x, call, out),
            _ => panic!("the inputs are not of dtype {}", self.inputs()),
        }
    }

    /// Computes `out[(p * outputs + r) * PANEL + lane] = Σ_k x[p, lane, k] · w[outputs.start + r,
    /// k]` for every row `lane` of every panel `p`.
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
        // Panels of no columns have no values, but results.
        let count = match panels.len().checked_div(size) {
            Some(count) => count,
            None => out.len().checked_div(outputs.len() * PANEL).unwrap_or(0),
        };
        assert_eq!(panels.len(), count * size, "panels");
        let step_stride = if self.inputs() == DType::Bf16 { 2 * PANEL } else { PANEL };
        let shape = PanelShape { count, stride: size, step_stride };
        self.lanes_of(panels, LanesArguments { shape, weights, outputs }, out);
    }

    /// [`lanes`](Self::lanes) with values as they lie in rows: `PANEL` neighbours of a row are the
    /// lanes, the rows are the columns to sum over. `values` begins with the first panel, the next
    /// follows beside it.
    ///
    /// # Panics
    /// As `lanes`; also if `values` does not hold a row for each column of `weights`, `stride`
    /// apart, or the kernel is not one for weights of f32.
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
        assert_eq!(self.format(), WeightFormat::F32, "weights over values in rows");
        let shape = PanelShape { count: panels, stride: PANEL, step_stride: stride };
        let call = LanesArguments { shape, weights, outputs: 0..weights.rows };
        self.lanes_of(Inputs::F32(values), call, out);
    }

    fn lanes_of(&self, panels: Inputs<'_>, call: LanesArguments<'_>, out: &mut [f32]) {
        let panel_bytes = self.tuning.panel_bytes;
        match (self.forms, panels) {
            (Forms::F32(forms), Inputs::F32(x)) => forms.lanes(x, call, panel_bytes, out),
            (Forms::F16(forms), Inputs::F32(x)) => forms.lanes(x, call, panel_bytes, out),
            (Forms::Bf16(forms), Inputs::F32(x)) => forms.lanes(x, call, panel_bytes, out),
            (Forms::Bf16Dot(forms), Inputs::Bf16(x)) => forms.lanes(x, call, panel_bytes, out),
            _ => panic!("the inputs are not of dtype {}", self.inputs()),
        }
    }

    /// How many of `rows` input rows go through [`lanes`](Self::lanes), and in how many panels; the
    /// rest go through [`dot`](Self::dot). A last panel that is full enough is cheaper than as many
    /// dot products.
    pub(crate) fn in_panels(&self, rows: usize) -> (usize, usize) {
        // Where a panel that is not full takes as long as dot products, as measured: an AMX tile
        // computes a panel in the time in which its weights are read; rows of f32 are twice as long
        // as those of 16 bits, and dot products wait for them in the caches.
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

/// The arguments of [`Kernel::dot`] beside inputs and result.
struct DotArguments<'a> {
    /// Indices of input rows.
    rows: &'a [u32],
    weights: Weights<'a>,
    outputs: Range<usize>,
    then: Option<Then<'a>>,
    groups_ahead: usize,
}

/// The arguments of [`Kernel::lanes`] beside panels and result.
struct LanesArguments<'a> {
    shape: PanelShape,
    weights: Weights<'a>,
    outputs: Range<usize>,
}

impl<X: Input, W: Element> TypedForms<X, W> {
    fn dot(self, inputs: &[X], call: DotArguments<'_>, out: &mut [f32]) {
        let DotArguments { rows, weights, outputs, then, groups_ahead } = call;
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
        // SAFETY: `Kernel::all` checked the instruction set before it made the kernel; the rows are
        // those of the inputs and `out` holds their results, as just asserted; `Weights` are made
        // only of rows that lie inside their elements.
        unsafe { (self.dot)(&call, out) };
    }

    fn lanes(self, panels: &[X], call: LanesArguments<'_>, panel_bytes: usize, out: &mut [f32]) {
        let LanesArguments { shape, weights, outputs } = call;
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
        // SAFETY: `Kernel::all` checked the instruction set before it made the kernel; the callers
        // of this function checked that the panels exist; `out` holds their results, as just
        // asserted; `Weights` are made only of rows that lie inside their elements.
        unsafe { (self.lanes)(&call, out) };
    }
}
