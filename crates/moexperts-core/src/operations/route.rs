//! How router logits become a routing.

use std::cmp::Ordering;

use crate::{
    device::memory::Memory,
    error::{Error, Result},
    operations::elementwise::sigmoid,
    shapes::{length, shape},
};

/// How the router logits of a token become its experts and their weights.
///
/// 1. Each logit becomes a [`score`](Self::score).
/// 2. An expert is picked on its score or its logit ([`pick_on`](Self::pick_on)), plus its
///    [`pick_bias`](RouteOperands::pick_bias) if there is one.
/// 3. With [`groups`](Self::groups), experts outside the best groups are picked on
///    [`masked`](ExpertGroups::masked) instead.
/// 4. The `top_k` experts with the largest values are chosen, in descending order, the lower id
///    first where two are equal.
/// 5. Their weights are their scores, divided by their sum plus an epsilon if
///    [`normalise`](Self::normalise) is set, times [`scale`](Self::scale), times
///    [`per_expert_scale`](RouteOperands::per_expert_scale) if there is one.
///
/// [`reference::route`](crate::reference::route) is the formula,
/// [`checks::router`](crate::checks::router) says which descriptions are valid.
///
/// ```
/// use moexperts_core::{ExpertGroups, RouterSpec};
///
/// // deepseek_v3
/// let groups = ExpertGroups { count: 8, keep: 4, best: 2, masked: f32::NEG_INFINITY };
/// let router =
///     RouterSpec::sigmoid(8).with_groups(groups).with_normalise(1e-20).with_scale(2.5);
/// assert_eq!(router.normalise, Some(1e-20));
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouterSpec {
    /// K: experts per token.
    pub top_k: usize,
    /// How a logit becomes a score.
    pub score: Score,
    /// The values experts are picked on, before the pick bias is added.
    pub pick_on: PickOn,
    /// Groups of experts; only the best groups are picked from.
    pub groups: Option<ExpertGroups>,
    /// The epsilon that is added to the sum of the K scores before they are divided by it. `None`:
    /// they are not divided.
    pub normalise: Option<f32>,
    /// Factor on the weights, after normalising (`routed_scaling_factor`).
    pub scale: f32,
}

/// How a router logit becomes a score.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// The softmax over all experts, whatever groups there are.
    Softmax,
    /// `1 / (1 + e^-logit)`.
    Sigmoid,
    /// `√(ln(1 + e^logit))`, as in deepseek_v4.
    SqrtSoftplus,
}

/// The values that experts are picked on.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickOn {
    /// Their scores.
    Scores,
    /// Their logits; their weights are scores all the same.
    Logits,
}

/// Experts in groups of equal size, one group after another. Experts are picked from the best
/// groups only (DeepSeek-V2 2024).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertGroups {
    /// Number of groups (`n_group`), at most [`MAX_COUNT`](Self::MAX_COUNT).
    pub count: usize,
    /// Number of groups that are kept (`topk_group`), the lower first where two are equal.
    pub keep: usize,
    /// 1 or 2: a group's score is the sum of that many of its largest values, the pick bias
    /// included.
    pub best: usize,
    /// The value that experts of the other groups are picked on: 0 or minus infinity. With 0, they
    /// may still come before kept experts with a negative bias.
    pub masked: f32,
}

impl RouterSpec {
    /// The softmax over all experts; `normalise`: divided by the sum of the K.
    pub const fn softmax(top_k: usize, normalise: bool) -> Self {
        let normalise = if normalise { Some(0.0) } else { None };
        Self { normalise, ..Self::new(top_k, Score::Softmax) }
    }

    /// The sigmoid of each logit, not normalised.
    pub const fn sigmoid(top_k: usize) -> Self {
        Self::new(top_k, Score::Sigmoid)
    }

    /// Picks on scores of one kind, not normalised, without groups.
    pub const fn new(top_k: usize, score: Score) -> Self {
        Self { top_k, score, pick_on: PickOn::Scores, groups: None, normalise: None, scale: 1.0 }
    }

    /// Picks from the best of some groups.
    #[must_use]
    pub const fn with_groups(self, groups: ExpertGroups) -> Self {
        Self { groups: Some(groups), ..self }
    }

    /// Multiplies the weights, after normalising.
    #[must_use]
    pub const fn with_scale(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    /// Divides the weights by their sum plus `eps`.
    #[must_use]
    pub const fn with_normalise(self, eps: f32) -> Self {
        Self { normalise: Some(eps), ..self }
    }

    /// Picks on something else.
    #[must_use]
    pub const fn picking_on(self, pick_on: PickOn) -> Self {
        Self { pick_on, ..self }
    }
}

impl Score {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Softmax, Self::Sigmoid, Self::SqrtSoftplus];

    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Softmax => "softmax",
            Self::Sigmoid => "sigmoid",
            Self::SqrtSoftplus => "sqrtsoftplus",
        }
    }
}

impl PickOn {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Scores, Self::Logits];
}

impl ExpertGroups {
    /// The most groups a router can have.
    pub const MAX_COUNT: usize = 64;
}

/// A shared expert as slices of the width of a routed one, beside them.
#[derive(Debug)]
pub struct SharedSlices<'a, D: Memory> {
    /// Number of slices.
    pub slices: usize,
    /// [T, 1]: each slice's weight is its sigmoid; without it, 1.
    pub gate: Option<&'a D::Tensor>,
}

/// Operands of [`Operations::route`](crate::Operations::route) beside the logits.
#[derive(Debug)]
pub struct RouteOperands<'a, D: Memory> {
    /// `e_score_correction_bias` \[E\]: added to the values that experts are picked on, not to
    /// their weights (DeepSeek-V3 2024).
    pub pick_bias: Option<&'a D::Vector>,
    /// Factor on the weight of an expert \[E\], after everything else.
    pub per_expert_scale: Option<&'a D::Vector>,
    /// A shared expert as further experts that every token goes to.
    pub shared: Option<SharedSlices<'a, D>>,
}

impl<D: Memory> Default for RouteOperands<'_, D> {
    fn default() -> Self {
        Self { pick_bias: None, per_expert_scale: None, shared: None }
    }
}

/// Whether a layer of `experts` experts can have the router.
///
/// # Errors
/// [`Error::Router`].
pub fn check_router(spec: &RouterSpec, experts: usize) -> Result<()> {
    let RouterSpec { top_k, groups, normalise, scale, .. } = *spec;
    if let Some(groups) = groups {
        check_groups(groups, experts)?;
        let size = experts / groups.count;
        router_has("top_k", top_k <= groups.keep * size, || {
            let most = groups.keep * size;
            [
                format!("at most {most}: {} groups of {size} are kept", groups.keep),
                top_k.to_string(),
            ]
        })?;
    }
    router_has("top_k", top_k <= experts, || {
        [format!("at most {experts}, the number of experts"), top_k.to_string()]
    })?;
    let eps = normalise.unwrap_or_default();
    router_has("normalise", eps.is_finite() && eps >= 0.0, || {
        ["a finite number that is not negative".to_owned(), eps.to_string()]
    })?;
    router_has("scale", scale.is_finite(), || ["a finite number".to_owned(), scale.to_string()])
}

fn check_groups(groups: ExpertGroups, experts: usize) -> Result<()> {
    let ExpertGroups { count, keep, best, masked } = groups;
    let most = ExpertGroups::MAX_COUNT;
    let even = (1..=most).contains(&count) && experts.is_multiple_of(count);
    router_has("groups.count", even, || {
        [format!("1 to {most} that divides {experts} experts"), count.to_string()]
    })?;
    router_has("groups.keep", (1..=count).contains(&keep), || {
        [format!("1 to {count}"), keep.to_string()]
    })?;
    let size = experts / count;
    router_has("groups.best", (1..=size.min(2)).contains(&best), || {
        [format!("1 or 2, and at most {size}, the experts of a group"), best.to_string()]
    })?;
    router_has("groups.masked", masked == 0.0 || masked == f32::NEG_INFINITY, || {
        ["0 or -inf".to_owned(), masked.to_string()]
    })
}

fn router_has(
    what: &'static str,
    right: bool,
    expected_got: impl FnOnce() -> [String; 2],
) -> Result<()> {
    if right {
        return Ok(());
    }
    let [expected, got] = expected_got();
    Err(Error::Router { what, expected, got })
}

/// Whether the router fits the experts of the logits, the pick bias and the scale per expert, if
/// any, have a value for each expert, and the gate of a shared expert one for each token.
///
/// # Errors
/// [`Error::Router`], [`Error::Shape`].
pub fn check(
    logits: [usize; 2],
    spec: &RouterSpec,
    [pick_bias, per_expert_scale]: [Option<usize>; 2],
    gate: Option<[usize; 2]>,
) -> Result<()> {
    let [tokens, experts] = logits;
    check_router(spec, experts)?;
    pick_bias.map_or(Ok(()), |len| length("pick bias", len, experts))?;
    per_expert_scale.map_or(Ok(()), |len| length("scale per expert", len, experts))?;
    gate.map_or(Ok(()), |gate| shape("gate", gate, [tokens, 1]))
}

/// The experts of one token and their weights, from its router logits \[E\]: (id, weight), the
/// largest picked value first.
///
/// `pick_bias` \[E\] is added to the values that experts are picked on, `per_expert_scale` \[E\] is
/// a factor on their weights.
///
/// # Panics
/// If [`checks::router`](crate::checks::router) refuses the router, or lengths disagree.
pub fn formula(
    logits: &[f64],
    spec: &RouterSpec,
    pick_bias: Option<&[f64]>,
    per_expert_scale: Option<&[f64]>,
) -> Vec<(u32, f64)> {
    let mut picked_on = picked_on(logits, spec, pick_bias);
    if let Some(groups) = &spec.groups {
        mask_groups(&mut picked_on, groups);
    }
    let chosen = &descending(&picked_on)[..spec.top_k];
    let scores = scores(logits, spec.score);
    let sum: f64 = chosen.iter().map(|&id| scores[id]).sum();
    let divisor = spec.normalise.map_or(1.0, |eps| sum + f64::from(eps));
    let weight = |id: usize| {
        let scale = per_expert_scale.map_or(1.0, |scale| scale[id]);
        scores[id] / divisor * f64::from(spec.scale) * scale
    };
    chosen.iter().map(|&id| (id as u32, weight(id))).collect()
}

/// The score of each router logit of one token, \[E\].
pub fn scores(logits: &[f64], score: Score) -> Vec<f64> {
    match score {
        Score::Softmax => {
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exps: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
            let total: f64 = exps.iter().sum();
            exps.iter().map(|exp| exp / total).collect()
        }
        Score::Sigmoid => logits.iter().map(|&logit| sigmoid(logit)).collect(),
        // max(z, 0) + ln(1 + e^-|z|) is ln(1 + e^z) that does not overflow.
        Score::SqrtSoftplus => {
            logits.iter().map(|z| (z.max(0.0) + (-z.abs()).exp().ln_1p()).sqrt()).collect()
        }
    }
}

/// The value that each expert is picked on before groups are masked, from the router logits \[E\]
/// of one token.
///
/// # Panics
/// If lengths disagree.
pub fn picked_on(logits: &[f64], spec: &RouterSpec, pick_bias: Option<&[f64]>) -> Vec<f64> {
    let mut values = match spec.pick_on {
        PickOn::Scores => scores(logits, spec.score),
        PickOn::Logits => logits.to_vec(),
    };
    if let Some(bias) = pick_bias {
        assert_eq!(bias.len(), values.len(), "pick bias");
        values.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    }
    values
}

/// The score of each group of experts: the sum of its best values.
pub fn group_scores(picked_on: &[f64], groups: &ExpertGroups) -> Vec<f64> {
    let score = |group: &[f64]| -> f64 {
        descending(group)[..groups.best].iter().map(|&id| group[id]).sum()
    };
    picked_on.chunks_exact(picked_on.len() / groups.count).map(score).collect()
}

/// Masks the values of experts outside the best groups.
pub fn mask_groups(picked_on: &mut [f64], groups: &ExpertGroups) {
    let size = picked_on.len() / groups.count;
    for &group in &descending(&group_scores(picked_on, groups))[groups.keep..] {
        picked_on[group * size..][..size].fill(f64::from(groups.masked));
    }
}

/// Indices from the largest value to the smallest, the lower first where two are equal.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    // A stable sort.
    order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap_or(Ordering::Equal));
    order
}

#[cfg(test)]
mod tests;
