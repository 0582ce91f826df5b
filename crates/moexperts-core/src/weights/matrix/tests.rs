use super::*;

#[test]
fn a_view_of_every_second_row_shares_the_bytes() {
    let whole = Matrix::from_vec(4, 2, vec![0.0_f32, 1., 2., 3., 4., 5., 6., 7.]).unwrap();
    let odd = whole.rows_stepped(1..4, 2);
    assert_eq!((odd.rows(), odd.cols(), odd.row_stride()), (2, 2, 4));
    assert_eq!(odd.to_f32(), [2., 3., 6., 7.]);
    assert_eq!(whole.row_range(2..2).to_f32(), Vec::<f32>::new());
}

#[test]
fn a_block_of_rows_and_columns_shares_the_bytes() {
    let whole = Matrix::from_vec(3, 3, (0..9_u8).map(f32::from).collect()).unwrap();
    let block = whole.block(1..3, 1..2);
    assert_eq!((block.rows(), block.cols(), block.row_stride()), (2, 1, 3));
    assert_eq!(block.to_f32(), [4., 7.]);
    assert_eq!(whole.block(3..3, 0..3).to_f32(), Vec::<f32>::new());
}

#[test]
fn refuses_a_matrix_outside_its_storage() {
    let storage: Arc<dyn Storage> = Arc::new(Heap(vec![0_f32; 4]));
    let layout = MatrixLayout::row_major(8, DType::F32, 2, 2);
    let error = Matrix::new(Arc::clone(&storage), layout).unwrap_err();
    assert_eq!(error.to_string(), "matrix: [2, 2] f32 at byte 8 does not fit in 16 bytes");
    let huge = MatrixLayout { rows: usize::MAX, row_stride: usize::MAX, ..layout };
    assert!(Matrix::new(Arc::clone(&storage), huge).is_err());
    let unaligned = MatrixLayout { offset_bytes: 2, rows: 1, ..layout };
    let error = Matrix::new(storage, unaligned).unwrap_err();
    assert_eq!(error.to_string(), "matrix: f32 elements are not aligned to 4 bytes");
}

#[test]
fn a_view_of_columns_as_rows_shares_the_bytes() {
    let whole = Matrix::from_vec(3, 4, (0..12_u8).map(f32::from).collect()).unwrap();
    // Of the columns, every second: an interleaved gate stored [in, out].
    let gate = whole.exchanged().rows_stepped(0..4, 2);
    assert_eq!((gate.rows(), gate.cols()), (2, 3));
    assert_eq!((gate.row_stride(), gate.col_stride()), (2, 4));
    assert!(!gate.rows_are_contiguous());
    assert_eq!(gate.to_f32(), [0., 4., 8., 2., 6., 10.]);
    assert_eq!(gate.block(1..2, 1..3).to_f32(), [6., 10.]);
    let copy = gate.row_major().unwrap();
    assert_eq!((copy.to_f32(), copy.col_stride()), (gate.to_f32(), 1));
    assert_eq!(gate.transposed().unwrap().to_f32(), [0., 2., 4., 6., 8., 10.]);
    assert_eq!(gate.exchanged().to_f32(), [0., 2., 4., 6., 8., 10.]);
}

#[test]
fn refuses_elements_that_overlap() {
    let storage: Arc<dyn Storage> = Arc::new(Heap(vec![0_f32; 64]));
    let layout = |row_stride, col_stride| MatrixLayout {
        row_stride,
        col_stride,
        ..MatrixLayout::row_major(0, DType::F32, 3, 4)
    };
    for (row_stride, col_stride) in [(4, 1), (9, 1), (1, 3), (2, 6), (10, 3), (1, 9)] {
        let matrix = Matrix::new(Arc::clone(&storage), layout(row_stride, col_stride));
        assert!(matrix.is_ok(), "{row_stride} {col_stride}");
    }
    for (row_stride, col_stride) in [(3, 1), (0, 1), (4, 0), (1, 2), (2, 4), (0, 0)] {
        let error = Matrix::new(Arc::clone(&storage), layout(row_stride, col_stride));
        let expected =
            format!("matrix: strides {row_stride} and {col_stride} let elements of [3, 4] overlap");
        assert_eq!(error.unwrap_err().to_string(), expected);
    }
}
