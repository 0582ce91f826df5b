//! Operations on arbitrary shapes, and weights that are arbitrary parts of a matrix.

use moexperts_core::{DType, Linear, Matrix, RopePairing};
use proptest::prelude::*;

use super::{
    check_rope,
    linear::check_linear,
    norm::{check_layer_norm, check_rms_norm},
};
use crate::common::{devices, tensor, values};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_linear_layer_takes_any_rows_and_columns_of_a_matrix(
        [tokens, inputs, outputs] in [0_usize..50, 0..70, 0..70],
        [above, below, left, right] in [0_usize..4, 0..4, 0..9, 1..9],
        step in 1_usize..4,
        bias in any::<bool>(),
    ) {
        let [rows, cols] = [above + outputs * step + below, left + inputs + right];
        for cpu in devices() {
            for dtype in DType::ALL {
                let stored = values(rows * cols, 2);
                let stored = Matrix::from_f32(rows, cols, &stored, dtype).unwrap();
                let weight = stored
                    .rows_stepped(above..above + outputs * step, step)
                    .col_range(left..left + inputs);
                let layer = Linear { weight, bias: bias.then(|| values(outputs, 3)) };
                check_linear(&cpu, &tensor(tokens, inputs, 1), &layer, dtype);
            }
        }
    }

    #[test]
    fn rope_turns_any_part_of_heads_of_any_size(
        [tokens, heads, head_dim] in [0_usize..6, 1..5, 1..70],
        part in 0.0..=1.0,
    ) {
        let half = ((head_dim / 2) as f64 * part) as usize;
        for cpu in devices() {
            for pairing in RopePairing::ALL {
                check_rope(&cpu, [tokens, heads], [head_dim, half], pairing);
            }
        }
    }

    #[test]
    fn norms_take_rows_of_any_size([rows, heads, width] in [1_usize..6, 1..5, 1..140]) {
        for cpu in devices() {
            check_rms_norm(&cpu, [rows, heads * width], width);
            check_layer_norm(&cpu, [rows, width]);
        }
    }
}
