use super::*;

fn refused(result: Result<()>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_router_is_one_of_its_experts() {
    let groups = |count, keep, best, masked| ExpertGroups { count, keep, best, masked };
    let grouped = |top_k, groups| RouterSpec::sigmoid(top_k).with_groups(groups);
    let most = ExpertGroups::MAX_COUNT;
    for (spec, experts) in [
        (RouterSpec::softmax(0, true), 0),
        (RouterSpec::softmax(3, true).with_scale(-1.0), 3),
        (RouterSpec::sigmoid(1).with_normalise(1e-20), 1),
        (grouped(4, groups(4, 2, 2, 0.0)), 8),
        (grouped(0, groups(4, 4, 1, -f32::INFINITY)), 4),
        (grouped(1, groups(most, 1, 2, 0.0)), 2 * most),
    ] {
        assert_eq!(check_router(&spec, experts), Ok(()), "{spec:?}");
    }
    let best = "router: `groups.best` is";
    let not_negative = "a finite number that is not negative";
    for (spec, experts, expected) in [
        (
            RouterSpec::softmax(3, false),
            2,
            "router: `top_k` is 3, expected at most 2, the number of experts".to_owned(),
        ),
        (
            grouped(5, groups(4, 2, 2, 0.0)),
            8,
            "router: `top_k` is 5, expected at most 4: 2 groups of 2 are kept".to_owned(),
        ),
        (
            grouped(2, groups(3, 2, 2, 0.0)),
            8,
            "router: `groups.count` is 3, expected 1 to 64 that divides 8 experts".to_owned(),
        ),
        (
            grouped(0, groups(0, 0, 1, 0.0)),
            0,
            "router: `groups.count` is 0, expected 1 to 64 that divides 0 experts".to_owned(),
        ),
        (
            grouped(1, groups(65, 1, 1, 0.0)),
            65,
            "router: `groups.count` is 65, expected 1 to 64 that divides 65 experts".to_owned(),
        ),
        (
            grouped(0, groups(4, 0, 1, 0.0)),
            8,
            "router: `groups.keep` is 0, expected 1 to 4".to_owned(),
        ),
        (
            grouped(1, groups(4, 5, 1, 0.0)),
            8,
            "router: `groups.keep` is 5, expected 1 to 4".to_owned(),
        ),
        (
            grouped(1, groups(4, 2, 3, 0.0)),
            16,
            format!("{best} 3, expected 1 or 2, and at most 4, the experts of a group"),
        ),
        (
            grouped(1, groups(4, 2, 2, 0.0)),
            4,
            format!("{best} 2, expected 1 or 2, and at most 1, the experts of a group"),
        ),
        (
            grouped(1, groups(4, 2, 0, 0.0)),
            8,
            format!("{best} 0, expected 1 or 2, and at most 2, the experts of a group"),
        ),
        (
            grouped(1, groups(4, 2, 1, 0.5)),
            8,
            "router: `groups.masked` is 0.5, expected 0 or -inf".to_owned(),
        ),
        (
            grouped(1, groups(4, 2, 1, f32::NAN)),
            8,
            "router: `groups.masked` is NaN, expected 0 or -inf".to_owned(),
        ),
        (
            RouterSpec::sigmoid(1).with_normalise(-1.0),
            8,
            format!("router: `normalise` is -1, expected {not_negative}"),
        ),
        (
            RouterSpec::sigmoid(1).with_normalise(f32::INFINITY),
            8,
            format!("router: `normalise` is inf, expected {not_negative}"),
        ),
        (
            RouterSpec::sigmoid(1).with_scale(f32::NAN),
            8,
            "router: `scale` is NaN, expected a finite number".to_owned(),
        ),
    ] {
        assert_eq!(refused(check_router(&spec, experts)), expected);
        assert_eq!(refused(check([2, experts], &spec, [None; 2], None)), expected);
    }
}

#[test]
fn what_a_router_reads_is_of_its_experts_and_tokens() {
    let check = |vectors, gate| check([2, 3], &RouterSpec::sigmoid(1), vectors, gate);
    assert_eq!(check([None; 2], None), Ok(()));
    assert_eq!(check([Some(3); 2], Some([2, 1])), Ok(()));
    assert_eq!(refused(check([Some(2), None], None)), "pick bias has shape [2], expected [3]");
    assert_eq!(
        refused(check([None, Some(4)], None)),
        "scale per expert has shape [4], expected [3]"
    );
    assert_eq!(refused(check([None; 2], Some([1, 1]))), "gate has shape [1, 1], expected [2, 1]");
}

#[test]
fn routing_takes_the_largest_and_the_lower_id_of_equals() {
    let spec = RouterSpec::softmax(2, true);
    let chosen = formula(&[1.0, 2.0, 2.0, 0.0], &spec, None, None);
    assert_eq!(chosen, [(1, 0.5), (2, 0.5)]);
    let spec = RouterSpec::softmax(1, false).with_scale(3.0);
    assert_eq!(formula(&[-0.0, 0.0], &spec, None, Some(&[0.5, 9.0])), [(0, 0.75)]);
}

fn assert_near(got: &[(u32, f64)], expected: &[(u32, f64)]) {
    let near = |(got, expected): (&(u32, f64), &(u32, f64))| {
        got.0 == expected.0 && (got.1 - expected.1).abs() < 1e-15 * expected.1.abs().max(1.0)
    };
    let all = got.len() == expected.len() && got.iter().zip(expected).all(near);
    assert!(all, "{got:?}, expected {expected:?}");
}

#[test]
fn a_bias_picks_and_does_not_weigh() {
    let logits = [2.0, 1.0, 0.0, -1.0];
    let bias = [0.0, -1.0, 1.0, 0.0];
    let s = |z: f64| 1.0 / (1.0 + (-z).exp());
    // Scores 0.88, 0.73, 0.5, 0.27; with the bias 0.88, -0.27, 1.5, 0.27.
    let spec = RouterSpec::sigmoid(3);
    let expected = [(2, 0.5), (0, s(2.0)), (3, s(-1.0))];
    assert_near(&formula(&logits, &spec, Some(&bias), None), &expected);
    // Logits with the bias 2, 0, 1, -1.
    let spec = spec.picking_on(PickOn::Logits);
    let expected = [(0, s(2.0)), (2, 0.5), (1, s(1.0))];
    assert_near(&formula(&logits, &spec, Some(&bias), None), &expected);
    // The sum plus epsilon is 1.
    let spec = RouterSpec::sigmoid(1).with_normalise(0.5).with_scale(3.0);
    assert_near(&formula(&logits, &spec, Some(&bias), None), &[(2, 1.5)]);
    // Of all experts, the kept and the others.
    let spec = RouterSpec::softmax(1, false);
    let total: f64 = logits.iter().map(|z: &f64| z.exp()).sum();
    assert_near(&formula(&logits, &spec, Some(&bias), None), &[(2, 1.0 / total)]);
}

#[test]
fn experts_outside_the_best_groups_are_masked() {
    let logits = [3.0, -9.0, 2.0, 1.0, 2.5, -2.0];
    let chosen = |top_k, keep, best, masked, bias: Option<&[f64]>| {
        let groups = ExpertGroups { count: 3, keep, best, masked };
        let spec = RouterSpec::sigmoid(top_k).with_groups(groups);
        formula(&logits, &spec, bias, None).iter().map(|pair| pair.0).collect::<Vec<_>>()
    };
    let never = f32::NEG_INFINITY;
    // By the best of each group 0 and 2 are kept; by the best two, 1 and 2.
    assert_eq!(chosen(3, 2, 1, never, None), [0, 4, 5]);
    assert_eq!(chosen(3, 2, 2, never, None), [4, 2, 3]);
    assert_eq!(chosen(2, 1, 2, never, None), [2, 3]);
    assert_eq!(chosen(6, 3, 2, never, None), [0, 4, 2, 3, 5, 1]);
    // A negative bias of those that are kept lets a masked 0 be picked, its lowest id first.
    let bias = [0.0, 0.0, 1.0, -0.9, 0.0, 0.0];
    assert_eq!(chosen(2, 1, 1, never, Some(&bias)), [2, 3]);
    assert_eq!(chosen(2, 1, 1, 0.0, Some(&bias)), [2, 0]);
}

#[test]
fn the_root_of_softplus_neither_overflows_nor_vanishes() {
    for z in [-700.0_f64, -1.0, 0.0, 1.0, 30.0, 700.0] {
        // ln(1 + e^z) is e^z for the first and z for the last, to all digits.
        let expected = match z {
            ..-100.0 => (z / 2.0).exp(),
            100.0.. => z.sqrt(),
            _ => (1.0 + z.exp()).ln().sqrt(),
        };
        let [got] = scores(&[z], Score::SqrtSoftplus)[..] else { panic!() };
        assert!((got / expected - 1.0).abs() < 1e-12, "{z}");
    }
}
