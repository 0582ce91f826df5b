//! How router logits become a routing, as data.

use crate::{Memory, SharedSlices};

/// How the router logits of a token become its experts and their weights.
///
/// 1. Each logit becomes a [`score`](Self::score).
/// 2. What an expert is picked on is its score or its logit ([`pick_on`](Self::pick_on)), plus its
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
    /// What experts are picked on, before the pick bias is added.
    pub pick_on: PickOn,
    /// Groups of experts of which only the best are picked from.
    pub groups: Option<ExpertGroups>,
    /// The epsilon that is added to the sum of the K scores before they are divided by it; `None`:
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
    /// `√(ln(1 + e^logit))`, as deepseek_v4 has it.
    SqrtSoftplus,
}

/// What experts are picked on.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickOn {
    /// Their scores.
    Scores,
    /// Their logits; their weights are scores all the same.
    Logits,
}

/// Experts in groups of equal size, one group after another, of which only the best are picked from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertGroups {
    /// How many groups (`n_group`), at most [`MAX_COUNT`](Self::MAX_COUNT).
    pub count: usize,
    /// How many of them are kept (`topk_group`), the lower first where two are equal.
    pub keep: usize,
    /// 1 or 2: how many of the largest values of a group, the pick bias included, make its score,
    /// which is their sum.
    pub best: usize,
    /// What the experts of the other groups are picked on: 0 or minus infinity. With 0 they may
    /// still come before experts that are kept, whose bias is negative.
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

    /// What messages call it.
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

/// What [`Operations::route`](crate::Operations::route) reads beside the logits.
#[derive(Debug)]
pub struct RouteOperands<'a, D: Memory> {
    /// `e_score_correction_bias` \[E\]: added to what experts are picked on, not to their weights.
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
