//! Rounding f32 to the element types of weights and back.

use std::cmp::Ordering;

use moexperts_core::{DType, Matrix};
use proptest::prelude::*;

fn rounded(value: f32, dtype: DType) -> f32 {
    Matrix::from_f32(1, 1, &[value], dtype).unwrap().to_f32()[0]
}

/// The numbers of a 16-bit element type, by their bits.
fn element(bits: u16, dtype: DType) -> f32 {
    match dtype {
        DType::Bf16 => half::bf16::from_bits(bits).to_f32(),
        _ => half::f16::from_bits(bits).to_f32(),
    }
}

/// The bits of the number nearest to one that is not negative; of two as near, the even one.
fn nearest(value: f64, dtype: DType) -> u16 {
    let infinity = if dtype == DType::Bf16 { 0x7f80 } else { 0x7c00 };
    let number = |bits: u16| f64::from(element(bits, dtype));
    // Numbers of one sign are in the order of their bits, infinity last: the first that is not
    // less.
    let (mut upper, mut end) = (0_u16, infinity);
    while upper < end {
        let middle = upper + (end - upper) / 2;
        if number(middle) < value { upper = middle + 1 } else { end = middle }
    }
    if upper == 0 || number(upper) == value {
        return upper;
    }
    let lower = upper - 1;
    // Beyond the largest finite number, rounding goes by the number that its exponent would allow
    // next.
    let next = match upper == infinity {
        true => 2.0 * number(lower) - number(lower - 1),
        false => number(upper),
    };
    match value.total_cmp(&((number(lower) + next) / 2.0)) {
        Ordering::Less => lower,
        Ordering::Equal => lower + lower % 2,
        Ordering::Greater => upper,
    }
}

#[test]
fn every_16_bit_number_survives_f32_and_back() {
    for dtype in [DType::F16, DType::Bf16] {
        let all: Vec<f32> = (0..=u16::MAX).map(|bits| element(bits, dtype)).collect();
        let back = Matrix::from_f32(1, all.len(), &all, dtype).unwrap().to_f32();
        for (value, back) in all.iter().zip(back) {
            let same = value.to_bits() == back.to_bits() || value.is_nan() && back.is_nan();
            assert!(same, "{dtype}: {value} became {back}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn f32_is_kept_bit_for_bit(bits in any::<u32>()) {
        prop_assert_eq!(rounded(f32::from_bits(bits), DType::F32).to_bits(), bits);
    }

    #[test]
    fn rounding_takes_the_nearest_and_the_even_one_of_two(
        bits in any::<u32>(),
        dtype in prop::sample::select(&[DType::F16, DType::Bf16][..]),
    ) {
        let value = f32::from_bits(bits);
        let got = rounded(value, dtype);
        if value.is_nan() {
            prop_assert!(got.is_nan());
            return Ok(());
        }
        prop_assert_eq!(got.is_sign_negative(), value.is_sign_negative());
        let expected = element(nearest(value.abs().into(), dtype), dtype);
        prop_assert_eq!(got.abs(), expected, "{} of {}", dtype, value);
    }

    #[test]
    fn rounding_is_monotone(
        a in any::<f32>(),
        b in any::<f32>(),
        dtype in prop::sample::select(&DType::ALL[..]),
    ) {
        prop_assert!(rounded(a.min(b), dtype) <= rounded(a.max(b), dtype));
    }

    #[test]
    fn the_relative_error_is_at_most_half_of_epsilon(
        value in prop_oneof![1e-4_f32..6e4, -6e4_f32..-1e-4],
        dtype in prop::sample::select(&DType::ALL[..]),
    ) {
        let (exact, got) = (f64::from(value), f64::from(rounded(value, dtype)));
        prop_assert!((got - exact).abs() <= dtype.epsilon() / 2.0 * exact.abs());
    }
}
