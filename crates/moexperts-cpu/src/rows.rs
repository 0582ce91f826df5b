//! Activations where they lie, in the dtype they have.

use half::{bf16, f16, slice::HalfFloatSliceExt};
use moexperts_core::{Elements, Error, Result, Tensor, checks};

use crate::{cpu::Cpu, elementwise::Elementwise, shared_rows::SharedRows};

/// Borrowed activations `[rows, cols]`; the values of a row are neighbours.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    elements: Elements<'a>,
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows of which `r` starts at `r * row_stride`.
    ///
    /// # Errors
    /// [`Error::Count`] if they do not lie inside `elements`.
    pub fn new(
        elements: Elements<'a>,
        [rows, cols]: [usize; 2],
        row_stride: usize,
    ) -> Result<Self> {
        let last = rows.saturating_sub(1).checked_mul(row_stride);
        let end = last.and_then(|last| last.checked_add(cols));
        if rows > 0 && end.is_none_or(|end| end > elements.len()) {
            let what = format!("values for [{rows}, {cols}] with row stride {row_stride}");
            let least = end.map_or("more".to_owned(), |end| format!("at least {end}"));
            return Err(Error::count(what, least, elements.len()));
        }
        Ok(Self { elements, rows, cols, row_stride })
    }

    /// [rows, cols].
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// All values, if the rows follow one another without gaps.
    pub(crate) fn packed(&self) -> Option<Elements<'a>> {
        let packed = self.row_stride == self.cols || self.rows <= 1;
        packed.then(|| self.elements.slice(0..self.rows * self.cols))
    }

    /// Row `index`.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn row(&self, index: usize) -> Elements<'a> {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        let start = index * self.row_stride;
        self.elements.slice(start..start + self.cols)
    }
}

impl<'a> From<&'a Tensor> for Rows<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        let [rows, cols] = tensor.shape();
        Self { elements: Elements::F32(tensor.data()), rows, cols, row_stride: cols }
    }
}

/// A borrowed buffer for activations `[rows, cols]`, row-major without gaps.
#[derive(Debug)]
pub struct RowsMut<'a> {
    values: ValuesMut<'a>,
    cols: usize,
}

/// Values of one dtype, to be written.
#[derive(Debug)]
#[non_exhaustive]
pub enum ValuesMut<'a> {
    /// IEEE binary32.
    F32(&'a mut [f32]),
    /// IEEE binary16.
    F16(&'a mut [f16]),
    /// The upper half of binary32.
    Bf16(&'a mut [bf16]),
}

impl<'a> RowsMut<'a> {
    /// Rows of `cols` values.
    ///
    /// # Errors
    /// [`Error::Shape`] if `values` does not hold `rows * cols` values.
    pub fn new(values: ValuesMut<'a>, [rows, cols]: [usize; 2]) -> Result<Self> {
        checks::tensor_data(values.len(), [rows, cols])?;
        Ok(Self { values, cols })
    }

    /// [rows, cols].
    pub fn shape(&self) -> [usize; 2] {
        [self.values.len().checked_div(self.cols).unwrap_or(0), self.cols]
    }

    /// The rows for threads that divide them, and their columns, among each other.
    pub(crate) fn shared(self) -> SharedOut<'a> {
        match self.values {
            ValuesMut::F32(values) => SharedOut::F32(SharedRows::new(values, self.cols)),
            ValuesMut::F16(values) => SharedOut::F16(SharedRows::new(values, self.cols)),
            ValuesMut::Bf16(values) => SharedOut::Bf16(SharedRows::new(values, self.cols)),
        }
    }

    /// The f32 values to add results up in: those of these rows, if they are f32, else `sums`,
    /// and then the rows that the sums are rounded into.
    pub(crate) fn sums(self, sums: &'a mut Vec<f32>) -> (&'a mut [f32], Option<Self>) {
        match self.values {
            ValuesMut::F32(values) => (values, None),
            values => {
                let len = values.len();
                sums.resize(len.max(sums.len()), 0.0);
                (&mut sums[..len], Some(Self { values, cols: self.cols }))
            }
        }
    }
}

impl ValuesMut<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a mut Tensor> for RowsMut<'a> {
    fn from(tensor: &'a mut Tensor) -> Self {
        let cols = tensor.cols();
        Self { values: ValuesMut::F32(tensor.data_mut()), cols }
    }
}

/// Rows of results that several threads write, each its own rows or columns.
pub(crate) enum SharedOut<'a> {
    F32(SharedRows<'a, f32>),
    F16(SharedRows<'a, f16>),
    Bf16(SharedRows<'a, bf16>),
}

impl SharedOut<'_> {
    /// Rounds values into columns of a row, from column `start` on.
    ///
    /// # Safety
    /// No other thread uses these columns of this row.
    pub(crate) unsafe fn store(&self, cpu: &Cpu, row: usize, start: usize, values: &[f32]) {
        let cols = start..start + values.len();
        match self {
            // SAFETY: no other thread uses the part, by this function's contract.
            Self::F32(rows) => unsafe { rows.part(row, cols) }.copy_from_slice(values),
            // SAFETY: no other thread uses the part, by this function's contract.
            Self::F16(rows) => unsafe { rows.part(row, cols) }.convert_from_f32_slice(values),
            // SAFETY: no other thread uses the part, by this function's contract.
            Self::Bf16(rows) => cpu.elementwise().round(values, unsafe { rows.part(row, cols) }),
        }
    }
}

/// Rounds one row to bf16.
pub(crate) fn to_bf16(elementwise: &Elementwise, row: Elements<'_>, out: &mut [bf16]) {
    match row {
        Elements::F32(values) => elementwise.round(values, out),
        Elements::Bf16(values) => out.copy_from_slice(values),
        Elements::F16(values) => {
            for (out, value) in out.iter_mut().zip(values) {
                *out = bf16::from_f32(value.to_f32());
            }
        }
    }
}
