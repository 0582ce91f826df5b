//! From router logits to the experts of each token.

use moexperts_core::{Error, Result, RouterSpec, Routing, Tensor};

/// Softmax over all experts, the K largest in descending order, the lower id first of equals.
pub(crate) fn route(logits: &Tensor, spec: &RouterSpec) -> Result<Routing> {
    let (tokens, experts, top_k) = (logits.rows(), logits.cols(), spec.top_k);
    if top_k > experts {
        let (expected, got) = (format!("at most {experts}"), top_k.to_string());
        return Err(Error::Shape { what: "experts per token".into(), expected, got });
    }
    let mut index = Vec::with_capacity(tokens * top_k);
    let mut weights = Vec::with_capacity(tokens * top_k);
    let mut best = Vec::with_capacity(top_k + 1);
    for token in 0..tokens {
        let logits = logits.row(token);
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Err(Error::NotFinite { what: "router logits".into(), token });
        }
        largest(logits, top_k, &mut best);
        let max = best.first().map_or(0.0, |&id: &u32| logits[id as usize]);
        let exp = |logit: f32| f64::from(logit - max).exp();
        let total: f64 = if spec.norm_topk_prob {
            best.iter().map(|&id| exp(logits[id as usize])).sum()
        } else {
            logits.iter().map(|&logit| exp(logit)).sum()
        };
        weights.extend(best.iter().map(|&id| (exp(logits[id as usize]) / total) as f32));
        index.extend_from_slice(&best);
    }
    Routing::new(top_k, index, weights)
}

/// The ids of the `count` largest values, in descending order, the lower id first of equals.
fn largest(values: &[f32], count: usize, best: &mut Vec<u32>) {
    best.clear();
    for (id, &value) in values.iter().enumerate() {
        let place = best.iter().position(|&other| value > values[other as usize]);
        match place {
            Some(place) => best.insert(place, id as u32),
            None if best.len() < count => best.push(id as u32),
            None => {}
        }
        best.truncate(count);
    }
}

#[cfg(test)]
mod tests {
    use moexperts_core::reference;

    use super::*;

    #[test]
    fn the_routing_is_the_references() {
        let logits = [0.5, -1.0, 2.0, 2.0, 0.25, -30.0, 1.5];
        let tensor = Tensor::from_vec(1, 7, logits.to_vec()).unwrap();
        for norm_topk_prob in [false, true] {
            for top_k in 0..=7 {
                let spec = RouterSpec { top_k, norm_topk_prob };
                let routing = route(&tensor, &spec).unwrap();
                let expected = reference::route(&logits.map(f64::from), &spec);
                for ((id, weight), (expected_id, expected_weight)) in
                    routing.top_k_index().iter().zip(routing.top_k_weights()).zip(expected)
                {
                    assert_eq!(*id, expected_id);
                    assert!((f64::from(*weight) - expected_weight).abs() < 1e-7);
                }
            }
        }
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        let logits = Tensor::from_vec(2, 2, vec![0.0, 1.0, f32::NAN, 0.0]).unwrap();
        let spec = RouterSpec { top_k: 1, norm_topk_prob: false };
        let error = route(&logits, &spec).unwrap_err();
        assert_eq!(error.to_string(), "router logits is not finite at token 1");
    }

    #[test]
    fn more_experts_per_token_than_experts_is_an_error() {
        let spec = RouterSpec { top_k: 3, norm_topk_prob: false };
        let error = route(&Tensor::zeros(1, 2), &spec).unwrap_err();
        assert_eq!(error.to_string(), "experts per token has shape 3, expected at most 2");
    }
}
