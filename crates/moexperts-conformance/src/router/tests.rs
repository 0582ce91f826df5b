use super::*;

/// The routing of an exact device.
fn exact(case: &RouterCase, inputs: &RouterInputs) -> Routing {
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let [bias, scale] =
        [&inputs.pick_bias, &inputs.per_expert_scale].map(|v| v.as_deref().map(wide));
    let pairs = inputs.logits.chunks_exact(case.experts).flat_map(|logits| {
        reference::route(&wide(logits), &case.spec, bias.as_deref(), scale.as_deref())
    });
    let (ids, weights): (_, Vec<f64>) = pairs.unzip();
    let weights = weights.iter().map(|&weight| weight as f32).collect();
    Routing::new(case.spec.top_k, ids, weights).unwrap()
}

#[test]
fn the_exact_routing_passes_and_nearly_every_token_is_compared() {
    let (mut decided, mut tokens) = (0, 0);
    for case in router_cases() {
        let inputs = case.inputs();
        decided += case.compare(&inputs, &exact(&case, &inputs)).unwrap();
        tokens += case.tokens;
    }
    assert!(20 * decided > 19 * tokens, "{decided} of {tokens}");
}

/// A device that computes another router, or reads other operands, fails some case.
#[test]
fn each_field_and_operand_shows() {
    type Change = fn(&mut RouterCase, &mut RouterInputs);
    let changes: [(&str, Change); 13] = [
        ("softmax for sigmoid", |case, _| {
            if case.spec.score == Score::Sigmoid {
                case.spec.score = Score::Softmax;
            }
        }),
        ("sigmoid for the root of softplus", |case, _| {
            if case.spec.score == Score::SqrtSoftplus {
                case.spec.score = Score::Sigmoid;
            }
        }),
        ("picked on scores", |case, _| case.spec.pick_on = PickOn::Scores),
        ("picked on logits", |case, _| case.spec.pick_on = PickOn::Logits),
        ("no groups", |case, _| case.spec.groups = None),
        ("one more group", |case, _| {
            if let Some(groups) = &mut case.spec.groups {
                groups.keep = groups.count.min(groups.keep + 1);
            }
        }),
        ("the best one", |case, _| {
            if let Some(groups) = &mut case.spec.groups {
                groups.best = 1;
            }
        }),
        ("never masked to 0", |case, _| {
            if let Some(groups) = &mut case.spec.groups {
                groups.masked = NEVER;
            }
        }),
        ("not normalised", |case, _| case.spec.normalise = None),
        ("no epsilon", |case, _| case.spec.normalise = case.spec.normalise.map(|_| 0.0)),
        ("no scale", |case, _| case.spec.scale = 1.0),
        ("no bias", |_, inputs| inputs.pick_bias = None),
        ("no scale per expert", |_, inputs| inputs.per_expert_scale = None),
    ];
    for (what, change) in changes {
        let shows = router_cases().iter().any(|case| {
            let (mut other, mut others) = (*case, case.inputs());
            change(&mut other, &mut others);
            case.compare(&case.inputs(), &exact(&other, &others)).is_err()
        });
        assert!(shows, "{what}");
    }
}

#[test]
fn another_order_of_equals_and_a_weight_slightly_off_show() {
    for case in router_cases().iter().filter(|case| case.spec.top_k > 1) {
        let inputs = case.inputs();
        if case.compare(&inputs, &exact(case, &inputs)) != Ok(case.tokens) {
            continue;
        }
        let exact = exact(case, &inputs);
        let mut off = exact.top_k_weights().to_vec();
        off[0] = off[0] * 1.001 + 1e-30;
        let off = Routing::new(case.spec.top_k, exact.top_k_index().to_vec(), off).unwrap();
        assert!(case.compare(&inputs, &off).is_err(), "{case:?}");
        let mut swapped = exact.top_k_index().to_vec();
        swapped.swap(0, 1);
        let weights = exact.top_k_weights().to_vec();
        let swapped = Routing::new(case.spec.top_k, swapped, weights).unwrap();
        assert!(case.compare(&inputs, &swapped).is_err(), "{case:?}");
    }
}
