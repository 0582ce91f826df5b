use super::*;

#[test]
fn a_moved_argument_stays_inside_the_bound_and_the_bound_is_near_the_slope() {
    let tolerance = Tolerance::new(DType::F32);
    for activation in Activation::ALL {
        for step in -1200..=1200 {
            let z = f64::from(step) / 100.0;
            for error in [1e-4, 1e-2, 0.5] {
                let bound = tolerance.activate(activation, Bounded { value: z, error });
                for part in [-1.0, -0.5, 0.5, 1.0] {
                    let moved = reference::activate(activation, z + part * error);
                    let name = activation.name();
                    assert!((moved - bound.value).abs() <= bound.error, "{name} at {z}");
                }
            }
            let small = tolerance.activate(activation, Bounded { value: z, error: 1e-4 });
            let across = reference::activate(activation, z + 1e-4)
                - reference::activate(activation, z - 1e-4);
            assert!(small.error <= across.abs() + 1e-4 * (0.2 + z.abs() / 100.0));
        }
    }
}

#[test]
fn both_inputs_of_a_gated_activation_may_move() {
    let tolerance = Tolerance::new(DType::F32);
    for activation in Activation::ALL {
        for (gate, up) in
            [(0.3, -2.0), (6.99, 7.01), (10.01, -9.99), (-1.3, 0.0), (12.0, -12.0), (-5.0, 3.0)]
        {
            let error = 0.05;
            let bounded = |value| Bounded { value, error };
            let bound = tolerance.activate_gated(activation, bounded(gate), bounded(up));
            for (g, u) in [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)] {
                let (gate, up) = (gate + g * error, up + u * error);
                let moved = reference::activate_gated(activation, gate, up);
                assert!((moved - bound.value).abs() <= bound.error, "{}", activation.name());
            }
        }
    }
}

#[test]
fn what_a_clamp_takes_away_does_not_count() {
    let tolerance = Tolerance::new(DType::F32);
    for (activation, limit) in [(Activation::CLAMPED_SWIGLU, 7.0), (Activation::CLAMPED_SILU, 10.0)]
    {
        let bound = |[gate, up]: [Bounded; 2]| tolerance.activate_gated(activation, gate, up);
        let [above, below] = [20.0, -13.0].map(|value| Bounded { value, error: 3.0 });
        let at_limits = bound([limit, -limit].map(Bounded::exact));
        assert_eq!(bound([above, below]), at_limits, "{}", activation.name());
    }
    let astride = Bounded { value: 9.5, error: 3.0 };
    assert_eq!(astride.clamp(-10.0, 10.0), astride);
    let astride = Bounded { value: 11.0, error: 3.0 };
    assert_eq!(astride.clamp(-10.0, 10.0), Bounded { value: 10.0, error: 2.0 });
}

#[test]
fn an_exact_input_is_rounded_only_as_far_as_it_is_inexact() {
    let rounding = |dtype, value| Tolerance::new(dtype).input_rounding(Bounded::exact(value));
    assert_eq!(rounding(DType::Bf16, 1.5), 0.0);
    assert_eq!(rounding(DType::Bf16, 1.0 + 1.0 / 256.0), 1.0 / 256.0);
    assert_eq!(rounding(DType::F16, 1.0 + 1.0 / 256.0), 0.0);
    assert_eq!(rounding(DType::F32, f64::from(0.1_f32)), 0.0);
}

#[test]
fn nan_is_a_mismatch() {
    let mismatch = Mismatch::find(&[0.0, 0.0, f32::NAN], &[0.0; 3], &[1.0; 3], 2).unwrap_err();
    assert_eq!((mismatch.token, mismatch.column), (1, 0));
    assert_eq!(Mismatch::find(&[0.5], &[0.0], &[0.5], 1), Ok(()));
}
