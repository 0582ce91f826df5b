//! Rows whose columns are divided among threads.

use std::{marker::PhantomData, ops::Range};

/// Row-major values that several threads write at once, each its own columns or rows.
pub(crate) struct SharedRows<'a, T> {
    start: *mut T,
    len: usize,
    cols: usize,
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: the one way to the values is `part`, whose caller owes that parts in use at the same
// time are disjoint.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    pub(crate) fn new(values: &'a mut [T], cols: usize) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), cols, values: PhantomData }
    }

    /// Columns `cols` of row `row`.
    ///
    /// # Safety
    /// No other part in use at the same time overlaps this one.
    #[expect(clippy::mut_from_ref, reason = "parts are disjoint, which the caller owes")]
    pub(crate) unsafe fn part(&self, row: usize, cols: Range<usize>) -> &mut [T] {
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns {cols:?}");
        let start = row * self.cols + cols.start;
        assert!(start + cols.len() <= self.len, "row {row}");
        // SAFETY: inside the slice, as just asserted, and not aliased, as the caller owes.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), cols.len()) }
    }

    /// A whole row.
    ///
    /// # Safety
    /// As for [`part`](Self::part).
    #[expect(clippy::mut_from_ref, reason = "parts are disjoint, which the caller owes")]
    pub(crate) unsafe fn row(&self, row: usize) -> &mut [T] {
        // SAFETY: as the caller owes.
        unsafe { self.part(row, 0..self.cols) }
    }

    /// The values of neighbouring rows.
    ///
    /// # Safety
    /// No part of them is in use at the same time.
    pub(crate) unsafe fn rows(&self, rows: Range<usize>) -> &[T] {
        assert!(rows.start <= rows.end && rows.end * self.cols <= self.len, "rows {rows:?}");
        // SAFETY: inside the slice, as just asserted; nobody writes them, as the caller owes.
        unsafe {
            let start = self.start.add(rows.start * self.cols);
            std::slice::from_raw_parts(start, rows.len() * self.cols)
        }
    }
}
