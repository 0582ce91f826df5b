//! From router logits to the experts of each token.

use std::sync::atomic::{AtomicUsize, Ordering};

use moexperts_core::{Error, Result, RouterSpec, Routing, SharedSlices, Tensor, checks};

use crate::{
    cpu::{Cpu, MIN_VALUES},
    elementwise::portable::sigmoid,
    shared_rows::SharedRows,
};

/// Softmax over all experts, the K largest in descending order, the lower id first of equals.
pub(crate) fn route(
    cpu: &Cpu,
    logits: &Tensor,
    spec: &RouterSpec,
    shared: Option<SharedSlices<'_, Cpu>>,
    out: &mut Routing,
) -> Result<()> {
    let (tokens, experts, top_k) = (logits.rows(), logits.cols(), spec.top_k);
    let slices = shared.as_ref().map_or(0, |shared| shared.slices);
    let gate = shared.and_then(|shared| shared.gate);
    checks::route(logits.shape(), spec, gate.map(Tensor::shape))?;
    let pairs = top_k + slices;
    let (index, weights) = out.reset(tokens, pairs);
    let (index, weights) = (SharedRows::new(index, pairs), SharedRows::new(weights, pairs));
    let failed = AtomicUsize::new(usize::MAX);
    cpu.threads().split(tokens, MIN_VALUES.div_ceil(experts.max(1)), |range| {
        for token in range {
            let logits = logits.row(token);
            if !logits.iter().all(|logit| logit.is_finite()) {
                failed.fetch_min(token, Ordering::Relaxed);
                return;
            }
            // SAFETY: the tokens are divided among the threads.
            let (index, weights) = unsafe { (index.row(token), weights.row(token)) };
            let ((index, shared), (weights, shared_weights)) =
                (index.split_at_mut(top_k), weights.split_at_mut(top_k));
            choose(logits, spec, index, weights);
            for (slice, id) in shared.iter_mut().enumerate() {
                *id = (experts + slice) as u32;
            }
            shared_weights.fill(gate.map_or(1.0, |gate| sigmoid(gate.row(token)[0])));
        }
    });
    match failed.into_inner() {
        usize::MAX => Ok(()),
        token => Err(Error::NotFinite { what: "router logits".into(), token }),
    }
}

/// The experts of one token and their weights.
fn choose(logits: &[f32], spec: &RouterSpec, index: &mut [u32], weights: &mut [f32]) {
    largest(logits, index);
    let max = index.first().map_or(0.0, |&id: &u32| logits[id as usize]);
    let exp = |logit: f32| f64::from(logit - max).exp();
    let total: f64 = if spec.norm_topk_prob {
        index.iter().map(|&id| exp(logits[id as usize])).sum()
    } else {
        logits.iter().map(|&logit| exp(logit)).sum()
    };
    for (weight, &id) in weights.iter_mut().zip(&*index) {
        *weight = (exp(logits[id as usize]) / total) as f32;
    }
}

/// Writes the indices of as many of the largest values as fit into `best`, descending; the lower
/// index first where two are equal.
fn largest(values: &[f32], best: &mut [u32]) {
    let mut found = 0;
    for (id, &value) in values.iter().enumerate() {
        let smaller = |&other: &u32| value > values[other as usize];
        let place = best[..found].iter().position(smaller).unwrap_or(found);
        if place < best.len() {
            found = (found + 1).min(best.len());
            best[place..found].rotate_right(1);
            best[place] = id as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use moexperts_core::{made, reference};

    use super::*;
    use crate::CpuOptions;

    fn routed(logits: &Tensor, spec: &RouterSpec) -> Result<Routing> {
        let cpu = Cpu::new(CpuOptions::default())?;
        made(|out| route(&cpu, logits, spec, None, out))
    }

    #[test]
    fn the_routing_is_the_references() {
        let logits = [0.5, -1.0, 2.0, 2.0, 0.25, -30.0, 1.5];
        let tensor = Tensor::from_vec(1, 7, logits.to_vec()).unwrap();
        for norm_topk_prob in [false, true] {
            for top_k in 0..=7 {
                let spec = RouterSpec { top_k, norm_topk_prob };
                let routing = routed(&tensor, &spec).unwrap();
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
        let error = routed(&logits, &spec).unwrap_err();
        assert_eq!(error.to_string(), "router logits is not finite at token 1");
    }

    #[test]
    fn more_experts_per_token_than_experts_is_an_error() {
        let spec = RouterSpec { top_k: 3, norm_topk_prob: false };
        let error = routed(&Tensor::zeros(1, 2), &spec).unwrap_err();
        assert_eq!(error.to_string(), "experts per token has shape 3, expected at most 2");
    }

    #[test]
    fn every_token_goes_to_every_slice_of_a_shared_expert() {
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let logits = Tensor::from_vec(2, 3, vec![0.0, 1.0, 2.0, 3.0, 2.0, 1.0]).unwrap();
        let spec = RouterSpec { top_k: 1, norm_topk_prob: true };
        let gate = Tensor::from_vec(2, 1, vec![0.0, f32::INFINITY]).unwrap();
        let shared = |gate| Some(SharedSlices { slices: 2, gate });
        let gated = made(|out| route(&cpu, &logits, &spec, shared(Some(&gate)), out)).unwrap();
        assert_eq!(gated.top_k_index(), [2, 3, 4, 0, 3, 4]);
        assert_eq!(gated.top_k_weights(), [1.0, 0.5, 0.5, 1.0, 1.0, 1.0]);
        let plain = made(|out| route(&cpu, &logits, &spec, shared(None), out)).unwrap();
        assert_eq!(plain.top_k_index(), gated.top_k_index());
        assert_eq!(plain.top_k_weights(), [1.0; 6]);
        let error = made(|out| route(&cpu, &logits, &spec, shared(Some(&logits)), out));
        assert_eq!(error.unwrap_err().to_string(), "gate has shape [2, 3], expected [2, 1]");
    }
}
