//! Views of matrices with layouts that a stranger wrote.

use std::sync::Arc;

use moexperts_core::{DType, Elements, Matrix, MatrixLayout, Storage};
use proptest::prelude::*;

/// Bytes whose first is aligned for every element type.
#[derive(Debug)]
struct Words(Vec<u32>, usize);

impl Storage for Words {
    fn bytes(&self) -> &[u8] {
        // Any bytes will do: a view of them is compared with what the bytes at its places are.
        &bytemuck::cast_slice(&self.0)[..self.1]
    }
}

fn storage(len_bytes: usize) -> Arc<Words> {
    // All 16-bit elements differ, and none is NaN, so that values tell places.
    let words = (0..len_bytes.div_ceil(4) as u32).map(|at| (2 * at) | (2 * at + 1) << 16);
    Arc::new(Words(words.collect(), len_bytes))
}

/// Small numbers, for layouts that fit, and any numbers, for those that must be refused.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0_usize..9,
        1 => any::<usize>(),
        1 => prop::sample::select(&[usize::MAX, usize::MAX / 2 + 1, usize::MAX / 4, 1 << 62][..]),
    ]
}

fn layout() -> impl Strategy<Value = MatrixLayout> {
    let dtype = prop::sample::select(&DType::ALL[..]);
    (size(), dtype, size(), size(), size(), size()).prop_map(
        |(offset_bytes, dtype, rows, cols, row_stride, col_stride)| MatrixLayout {
            offset_bytes,
            dtype,
            rows,
            cols,
            row_stride,
            col_stride,
        },
    )
}

/// The value of an element that begins at a byte.
fn value_at(bytes: &[u8], dtype: DType, at: usize) -> f32 {
    let bytes = &bytes[at..at + dtype.size_bytes()];
    match dtype {
        DType::F32 => f32::from_ne_bytes(bytes.try_into().unwrap()),
        DType::F16 => half::f16::from_ne_bytes(bytes.try_into().unwrap()).to_f32(),
        DType::Bf16 => half::bf16::from_ne_bytes(bytes.try_into().unwrap()).to_f32(),
    }
}

/// What a matrix of this layout holds, by the definition of strides.
fn expected(bytes: &[u8], layout: &MatrixLayout) -> Vec<f32> {
    let MatrixLayout { offset_bytes, dtype, rows, cols, row_stride, col_stride } = *layout;
    let at = |row: usize, col: usize| {
        offset_bytes + (row * row_stride + col * col_stride) * dtype.size_bytes()
    };
    if rows == 0 || cols == 0 {
        return Vec::new();
    }
    let places = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
    places.map(|(row, col)| value_at(bytes, dtype, at(row, col))).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Calls everything that reads a matrix.
fn read(matrix: &Matrix) -> Vec<f32> {
    let values = matrix.to_f32();
    let _ = matrix.elements();
    assert_eq!(matrix.row_major().unwrap().to_f32().len(), values.len());
    let transposed = matrix.transposed().unwrap();
    assert_eq!((transposed.rows(), transposed.cols()), (matrix.cols(), matrix.rows()));
    assert_eq!(bits(&transposed.transposed().unwrap().to_f32()), bits(&values));
    assert_eq!(bits(&matrix.exchanged().to_f32()), bits(&transposed.to_f32()));
    for row in 0..matrix.rows().min(9) {
        if matrix.rows_are_contiguous() {
            assert_eq!(matrix.row(row).len(), matrix.cols());
        }
    }
    values
}

/// A range of `0 ..= len`, from two drawn numbers.
fn range(len: usize, [a, b]: [usize; 2]) -> std::ops::Range<usize> {
    let [a, b] = [a, b].map(|end| if len == usize::MAX { end } else { end % (len + 1) });
    a.min(b)..a.max(b)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_layout_is_refused_or_read_inside_its_storage(
        layout in layout(),
        len_bytes in 0_usize..400,
    ) {
        let storage = storage(len_bytes);
        let Ok(matrix) = Matrix::new(storage.clone(), layout) else { return Ok(()) };
        prop_assert_eq!(bits(&read(&matrix)), bits(&expected(storage.bytes(), &layout)));
    }

    #[test]
    fn what_fits_without_overlap_is_taken(
        dtype in prop::sample::select(&DType::ALL[..]),
        [rows, cols, gap, skipped] in prop::array::uniform4(0_usize..7),
    ) {
        let (offset_bytes, row_stride) = (skipped * dtype.size_bytes(), cols + gap);
        let layout = MatrixLayout { offset_bytes, dtype, rows, cols, row_stride, col_stride: 1 };
        let needed = match (rows, cols) {
            (0, _) | (_, 0) => offset_bytes,
            _ => offset_bytes + ((rows - 1) * row_stride + cols) * dtype.size_bytes(),
        };
        prop_assert!(Matrix::new(storage(needed), layout).is_ok());
        let col_stride = row_stride;
        let exchanged =
            MatrixLayout { rows: cols, cols: rows, row_stride: 1, col_stride, ..layout };
        prop_assert!(Matrix::new(storage(needed), exchanged).is_ok());
        if needed > 0 {
            prop_assert!(Matrix::new(storage(needed - 1), layout).is_err());
        }
    }

    #[test]
    fn a_block_holds_the_values_at_its_places(
        layout in layout(),
        rows in any::<[usize; 2]>(),
        cols in any::<[usize; 2]>(),
        step in prop_oneof![1_usize..4, any::<usize>().prop_map(|step| step.max(1))],
    ) {
        let storage = storage(400);
        let Ok(matrix) = Matrix::new(storage.clone(), layout) else { return Ok(()) };
        let (rows, cols) = (range(matrix.rows(), rows), range(matrix.cols(), cols));
        let block = matrix.rows_stepped(rows.clone(), step).col_range(cols.clone());
        let picked = rows.clone().step_by(step);
        prop_assert_eq!((block.rows(), block.cols()), (rows.len().div_ceil(step), cols.len()));
        let mut expected = Vec::new();
        if !cols.is_empty() && !rows.is_empty() {
            let value = |row, col| {
                let element = row * layout.row_stride + col * layout.col_stride;
                let at = layout.offset_bytes + element * layout.dtype.size_bytes();
                value_at(storage.bytes(), layout.dtype, at)
            };
            for row in picked {
                expected.extend(cols.clone().map(|col| value(row, col)));
            }
        }
        prop_assert_eq!(bits(&read(&block)), bits(&expected));
    }

    #[test]
    fn data_of_another_length_is_refused(rows in size(), cols in size(), len in 0_usize..40) {
        let matrix = Matrix::from_vec(rows, cols, vec![0.0_f32; len]);
        // An empty matrix can have many rows or columns, but not more bytes than there are
        // addresses.
        let counted = [rows, cols].iter().all(|count| count.checked_mul(4).is_some());
        prop_assert_eq!(matrix.is_ok(), counted && rows.checked_mul(cols) == Some(len));
    }
}

#[test]
fn a_view_after_the_last_row_of_a_matrix_with_gaps_is_empty() {
    // The gap after the last row is not in the storage.
    let layout = MatrixLayout { row_stride: 4, ..MatrixLayout::row_major(0, DType::F32, 2, 1) };
    let matrix = Matrix::new(storage(20), layout).unwrap();
    let none = matrix.row_range(2..2);
    assert_eq!((none.rows(), none.elements()), (0, Elements::F32(&[])));
    let none = matrix.exchanged().col_range(2..2);
    assert_eq!((none.cols(), none.elements()), (0, Elements::F32(&[])));
}
