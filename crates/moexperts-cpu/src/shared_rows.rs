//! Rows whose columns are divided among threads.

use std::{marker::PhantomData, ops::Range};

/// Row-major values that several threads write at once, each its own columns or rows.
pub(crate) struct SharedRows<'a, T> {
    start: *mut T,
    len: usize,
    cols: usize,
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: a thread that has a `&SharedRows` reaches the values through `part`, `row` and `rows`
// alone. The first two give it a `&mut [T]` that no other thread has, by their contract: `T: Send`.
// The last gives several threads the same `&[T]`: `T: Sync`.
unsafe impl<T: Send + Sync> Sync for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    pub(crate) fn new(values: &'a mut [T], cols: usize) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), cols, values: PhantomData }
    }

    /// Columns `cols` of row `row`.
    ///
    /// # Safety
    /// No other part or row in use at the same time overlaps this one.
    ///
    /// # Panics
    /// If there are no such columns.
    #[expect(clippy::mut_from_ref, reason = "no other part in use overlaps this one")]
    pub(crate) unsafe fn part(&self, row: usize, cols: Range<usize>) -> &mut [T] {
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns {cols:?}");
        let start = row * self.cols + cols.start;
        assert!(start <= self.len && cols.len() <= self.len - start, "row {row}");
        // SAFETY: `start` and `len` are those of a slice that is borrowed for `'a`, and the two
        // assertions keep the part inside it; it is not aliased, by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), cols.len()) }
    }

    /// A whole row.
    ///
    /// # Safety
    /// No other part or row in use at the same time overlaps this one.
    ///
    /// # Panics
    /// If there is no such row.
    #[expect(clippy::mut_from_ref, reason = "no other part in use overlaps this one")]
    pub(crate) unsafe fn row(&self, row: usize) -> &mut [T] {
        // SAFETY: the row is the part of all its columns, and this contract is that of `part`.
        unsafe { self.part(row, 0..self.cols) }
    }

    /// The values of neighbouring rows.
    ///
    /// # Safety
    /// No part of these rows is written while the result is in use.
    ///
    /// # Panics
    /// If there are no such rows.
    pub(crate) unsafe fn rows(&self, rows: Range<usize>) -> &[T] {
        let (start, len) = (rows.start * self.cols, rows.len() * self.cols);
        let inside = start <= self.len && len <= self.len - start;
        assert!(rows.start <= rows.end && inside, "rows {rows:?}");
        // SAFETY: `start` and `len` are those of a slice that is borrowed for `'a`, and the
        // assertion keeps the rows inside it; nothing writes them, by this function's contract.
        unsafe { std::slice::from_raw_parts(self.start.add(start), len) }
    }
}
