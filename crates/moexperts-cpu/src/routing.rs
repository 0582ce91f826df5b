//! From router logits to the experts of each token.

use std::sync::atomic::{AtomicUsize, Ordering};

use moexperts_core::{
    Error, Execution, ExpertGroups, PickOn, Result, RouteOperands, RouterSpec, Routing, Score,
    Tensor, checks,
};

use crate::{
    cpu::{Cpu, MIN_VALUES},
    elementwise::portable::sigmoid,
    shared_rows::SharedRows,
};

/// The experts of each token and their weights, then the slices of a shared expert.
pub(crate) fn route(
    cpu: &Cpu,
    logits: &Tensor,
    spec: &RouterSpec,
    operands: RouteOperands<'_, Cpu>,
    out: &mut Routing,
) -> Result<()> {
    let RouteOperands { pick_bias, per_expert_scale, shared } = operands;
    let (tokens, experts, top_k) = (logits.rows(), logits.cols(), spec.top_k);
    let slices = shared.as_ref().map_or(0, |shared| shared.slices);
    let gate = shared.and_then(|shared| shared.gate);
    let lengths = [pick_bias, per_expert_scale].map(|vector| vector.map(Vec::len));
    checks::route(logits.shape(), spec, lengths, gate.map(Tensor::shape))?;
    let router = Router::new(spec, pick_bias, per_expert_scale)?;
    if tokens > 0 && !pick_bias.is_none_or(|bias| is_finite(bias)) {
        return Err(Error::NotFinite { what: "values of the pick bias".into(), token: 0 });
    }
    let pairs = top_k + slices;
    let (index, weights) = out.reset(tokens, pairs);
    let (index, weights) = (SharedRows::new(index, pairs), SharedRows::new(weights, pairs));
    let failed = AtomicUsize::new(usize::MAX);
    cpu.threads().split(tokens, MIN_VALUES.div_ceil(experts.max(1)), |range| {
        for token in range {
            let logits = logits.row(token);
            if !is_finite(logits) {
                failed.fetch_min(token, Ordering::Relaxed);
                return;
            }
            // SAFETY: `split` gives each token to one part.
            let (index, weights) = unsafe { (index.row(token), weights.row(token)) };
            let ((index, shared), (weights, shared_weights)) =
                (index.split_at_mut(top_k), weights.split_at_mut(top_k));
            router.pick(logits, index);
            router.weigh(logits, index, weights);
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

fn is_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

/// A router with its vectors. Scores are f64, and computed where they are needed: nothing is kept
/// for each expert.
struct Router<'a> {
    /// The score of a logit; none for a softmax, which depends on the others.
    score: Option<fn(f64) -> f64>,
    picks_on_logits: bool,
    spec: &'a RouterSpec,
    pick_bias: Option<&'a [f32]>,
    per_expert_scale: Option<&'a [f32]>,
}

impl<'a> Router<'a> {
    fn new(
        spec: &'a RouterSpec,
        pick_bias: Option<&'a Vec<f32>>,
        per_expert_scale: Option<&'a Vec<f32>>,
    ) -> Result<Self> {
        let missing = |what: String| {
            let problem = format!("a router cannot have {what}");
            Err(Error::Device { device: Cpu::NAME, problem })
        };
        let score: Option<fn(f64) -> f64> = match spec.score {
            Score::Softmax => None,
            Score::Sigmoid => Some(|z| 1.0 / (1.0 + (-z).exp())),
            Score::SqrtSoftplus => Some(|z| (z.max(0.0) + (-z.abs()).exp().ln_1p()).sqrt()),
            other => return missing(format!("{} scores", other.name())),
        };
        let picks_on_logits = match spec.pick_on {
            PickOn::Scores => false,
            PickOn::Logits => true,
            other => return missing(format!("experts picked on {other:?}")),
        };
        let [pick_bias, per_expert_scale] =
            [pick_bias, per_expert_scale].map(|vector| vector.map(Vec::as_slice));
        Ok(Self { score, picks_on_logits, spec, pick_bias, per_expert_scale })
    }

    /// The experts of a token.
    fn pick(&self, logits: &[f32], index: &mut [u32]) {
        if self.pick_bias.is_none() && self.spec.groups.is_none() {
            // A larger logit has a larger score.
            return largest(logits.len(), |id| logits[id], index);
        }
        let whole = match self.score {
            None if !self.picks_on_logits => Some(Softmax::new(logits)),
            _ => None,
        };
        let picked_on = |id: usize| {
            let logit = f64::from(logits[id]);
            let value = match (&whole, self.score) {
                (Some(whole), _) => whole.score(logit),
                (None, Some(score)) if !self.picks_on_logits => score(logit),
                _ => logit,
            };
            self.pick_bias.map_or(value, |bias| value + f64::from(bias[id]))
        };
        let Some(groups) = &self.spec.groups else {
            return largest(logits.len(), picked_on, index);
        };
        let size = logits.len() / groups.count;
        let kept = kept_groups(groups, size, picked_on);
        let masked = f64::from(groups.masked);
        let is_kept = |id: usize| kept >> (id / size) & 1 == 1;
        largest(logits.len(), |id| if is_kept(id) { picked_on(id) } else { masked }, index);
    }

    /// The weights of the experts of a token.
    fn weigh(&self, logits: &[f32], index: &[u32], weights: &mut [f32]) {
        let chosen = || index.iter().map(|&id| logits[id as usize]);
        // Relative to the largest of them, so that not all scores of a softmax vanish.
        let max = chosen().fold(f32::NEG_INFINITY, f32::max);
        let score = |logit: f32| match self.score {
            None => f64::from(logit - max).exp(),
            Some(score) => score(f64::from(logit)),
        };
        // The sum of which the scores are fractions.
        let whole = || match self.score {
            None => logits.iter().map(|&logit| score(logit)).sum(),
            Some(_) => 1.0,
        };
        let divisor: f64 = match self.spec.normalise {
            None => whole(),
            Some(eps) => {
                let sum: f64 = chosen().map(score).sum();
                if eps > 0.0 { sum + f64::from(eps) * whole() } else { sum }
            }
        };
        for (weight, &id) in weights.iter_mut().zip(index) {
            let scale = self.per_expert_scale.map_or(1.0, |scale| f64::from(scale[id as usize]));
            let share = score(logits[id as usize]) / divisor;
            *weight = (share * f64::from(self.spec.scale) * scale) as f32;
        }
    }
}

/// The softmax over the logits of a token.
struct Softmax {
    max: f64,
    total: f64,
}

impl Softmax {
    fn new(logits: &[f32]) -> Self {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        Self { max, total: logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum() }
    }

    fn score(&self, logit: f64) -> f64 {
        (logit - self.max).exp() / self.total
    }
}

/// The groups that are kept, a bit each.
fn kept_groups(groups: &ExpertGroups, size: usize, picked_on: impl Fn(usize) -> f64) -> u64 {
    let mut scores = [0.0; ExpertGroups::MAX_COUNT];
    for (group, score) in scores[..groups.count].iter_mut().enumerate() {
        let [mut first, mut second] = [f64::NEG_INFINITY; 2];
        for value in (group * size..(group + 1) * size).map(&picked_on) {
            if value > first {
                (first, second) = (value, first);
            } else if value > second {
                second = value;
            }
        }
        *score = if groups.best == 2 { first + second } else { first };
    }
    let mut kept = [0; ExpertGroups::MAX_COUNT];
    let kept = &mut kept[..groups.keep];
    largest(groups.count, |group| scores[group], kept);
    kept.iter().fold(0, |bits, group| bits | 1 << group)
}

/// Writes the indices of as many of the `count` largest values as fit into `best`, descending; the
/// lower index first where two are equal.
fn largest<T: PartialOrd + Copy>(count: usize, value: impl Fn(usize) -> T, best: &mut [u32]) {
    let mut found = 0;
    // The last of the best, once there are enough.
    let mut least = None;
    for id in 0..count {
        let new = value(id);
        if found == best.len() && least.is_none_or(|least| new <= least) {
            continue;
        }
        let place = best[..found].partition_point(|&other| value(other as usize) >= new);
        found = (found + 1).min(best.len());
        best[place..found].rotate_right(1);
        best[place] = id as u32;
        if found == best.len() {
            least = Some(value(best[found - 1] as usize));
        }
    }
}

#[cfg(test)]
mod tests {
    use moexperts_core::{SharedSlices, made};

    use super::*;
    use crate::CpuOptions;

    fn routed(logits: &Tensor, spec: &RouterSpec) -> Result<Routing> {
        let cpu = Cpu::new(CpuOptions::default())?;
        made(|out| route(&cpu, logits, spec, RouteOperands::default(), out))
    }

    /// Plans and models rely on this order and rounding for equal results.
    #[test]
    fn a_softmax_is_summed_in_the_order_of_its_experts_and_rounded_once() {
        let logits = [0.5, -1.0, 2.0, 2.0, 0.25, -30.0, 1.5_f32];
        let tensor = Tensor::from_vec(1, 7, logits.to_vec()).unwrap();
        let order = [2, 3, 6, 0, 4, 1, 5];
        for normalise in [false, true] {
            for top_k in 0..=7 {
                let routing = routed(&tensor, &RouterSpec::softmax(top_k, normalise)).unwrap();
                let ids = routing.top_k_index().iter().map(|&id| id as usize);
                assert!(ids.eq(order[..top_k].iter().copied()));
                let exp = |id: usize| f64::from(logits[id] - 2.0).exp();
                let total: f64 = match normalise {
                    true => order[..top_k].iter().map(|&id| exp(id)).sum(),
                    false => (0..7).map(exp).sum(),
                };
                let weights = order[..top_k].iter().map(|&id| (exp(id) / total) as f32);
                assert_eq!(routing.top_k_weights(), weights.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn experts_picked_far_below_the_largest_logit_have_weights() {
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let logits = Tensor::from_vec(1, 3, vec![3e38, -3e38, -3e38]).unwrap();
        let bias = vec![0.0, 2.0, 2.0];
        let weights = |spec: RouterSpec| {
            let operands = RouteOperands { pick_bias: Some(&bias), ..RouteOperands::default() };
            let routing = made(|out| route(&cpu, &logits, &spec, operands, out)).unwrap();
            assert_eq!(routing.top_k_index(), [1, 2]);
            routing.top_k_weights().to_vec()
        };
        assert_eq!(weights(RouterSpec::softmax(2, true)), [0.5; 2]);
        assert_eq!(weights(RouterSpec::softmax(2, false)), [0.0; 2]);
        assert_eq!(weights(RouterSpec::softmax(2, false).with_normalise(1e-20)), [0.0; 2]);
    }

    #[test]
    fn a_nan_among_the_logits_is_an_error() {
        let logits = Tensor::from_vec(2, 2, vec![0.0, 1.0, f32::NAN, 0.0]).unwrap();
        let error = routed(&logits, &RouterSpec::softmax(1, false)).unwrap_err();
        assert_eq!(error.to_string(), "router logits are not finite at token 1");
    }

    #[test]
    fn a_pick_bias_that_is_not_finite_is_an_error() {
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let bias = vec![0.0, bad];
            let operands = RouteOperands { pick_bias: Some(&bias), ..RouteOperands::default() };
            let (logits, spec) = (Tensor::zeros(1, 2), RouterSpec::sigmoid(1));
            let error = made(|out| route(&cpu, &logits, &spec, operands, out)).unwrap_err();
            assert_eq!(error.to_string(), "values of the pick bias are not finite at token 0");
        }
    }

    #[test]
    fn more_experts_per_token_than_experts_is_an_error() {
        let error = routed(&Tensor::zeros(1, 2), &RouterSpec::softmax(3, false)).unwrap_err();
        let expected = "router: `top_k` is 3, expected at most 2, the number of experts";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn every_token_goes_to_every_slice_of_a_shared_expert() {
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let logits = Tensor::from_vec(2, 3, vec![0.0, 1.0, 2.0, 3.0, 2.0, 1.0]).unwrap();
        let spec = RouterSpec::softmax(1, true);
        let gate = Tensor::from_vec(2, 1, vec![0.0, f32::INFINITY]).unwrap();
        let shared = |gate| {
            let shared = Some(SharedSlices { slices: 2, gate });
            RouteOperands { shared, ..RouteOperands::default() }
        };
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
