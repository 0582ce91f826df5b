//! Which experts random tokens go to.

use moexperts::{Error, core::Routing};

use crate::{args::RoutingKind, error::BenchError, random::Random};

/// Tokens, E and K of the routings of a cell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) tokens: usize,
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
}

/// The expert ids [T, K] of random tokens, those of a token all different.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExpertChoices {
    top_k: usize,
    experts: usize,
    ids: Vec<u32>,
}

impl ExpertChoices {
    pub(crate) fn random(kind: RoutingKind, size: Size, random: &mut Random) -> Self {
        let Size { tokens, experts, top_k } = size;
        let mut shuffled: Vec<u32> = (0..experts as u32).collect();
        shuffle(&mut shuffled, experts, random);
        let (top_k, ids) = match kind {
            RoutingKind::OneExpert => (1, vec![shuffled[0]; tokens]),
            RoutingKind::Uniform => {
                let mut token = || {
                    shuffle(&mut shuffled, top_k, random);
                    shuffled[..top_k].to_vec()
                };
                (top_k, (0..tokens).flat_map(|_| token()).collect())
            }
            RoutingKind::Zipf => {
                let mut ranks = Vec::new();
                let mut token = || {
                    by_popularity(&mut ranks, experts, top_k, random);
                    ranks.iter().map(|&(_, rank)| shuffled[rank]).collect::<Vec<u32>>()
                };
                (top_k, (0..tokens).flat_map(|_| token()).collect())
            }
        };
        Self { top_k, experts, ids }
    }

    /// The same choices among other experts: each id moved up, the last follow the first.
    pub(crate) fn moved(&self, by: usize) -> Self {
        let moved = |&id: &u32| ((id as usize + by) % self.experts) as u32;
        Self { ids: self.ids.iter().map(moved).collect(), ..*self }
    }

    /// Different experts.
    pub(crate) fn experts_hit(&self) -> usize {
        let mut hit = vec![false; self.experts];
        self.ids.iter().for_each(|&id| hit[id as usize] = true);
        hit.into_iter().filter(|&hit| hit).count()
    }

    /// (token, expert) pairs.
    pub(crate) fn pairs(&self) -> usize {
        self.ids.len()
    }

    /// With equal weights.
    pub(crate) fn routing(self) -> Result<Routing, BenchError> {
        let weights = vec![1.0 / self.top_k as f32; self.ids.len()];
        Ok(Routing::new(self.top_k, self.ids, weights).map_err(Error::from)?)
    }
}

/// Puts a random choice of `count` values, in random order, at the front.
fn shuffle(values: &mut [u32], count: usize, random: &mut Random) {
    for place in 0..count {
        let other = place + random.below(values.len() - place);
        values.swap(place, other);
    }
}

/// Draws `top_k` different ranks, the chance of rank r in proportion to 1 / (r + 1): the smallest
/// of exponentially distributed keys are such a draw without replacement.
fn by_popularity(ranks: &mut Vec<(f64, usize)>, experts: usize, top_k: usize, random: &mut Random) {
    ranks.clear();
    ranks.extend((0..experts).map(|rank| (-random.fraction().ln() * (rank + 1) as f64, rank)));
    if top_k < experts {
        ranks.select_nth_unstable_by(top_k, |a, b| a.0.total_cmp(&b.0));
        ranks.truncate(top_k);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [RoutingKind; 3] =
        [RoutingKind::Uniform, RoutingKind::Zipf, RoutingKind::OneExpert];

    fn choices(kind: RoutingKind, tokens: usize, experts: usize, top_k: usize) -> ExpertChoices {
        ExpertChoices::random(kind, Size { tokens, experts, top_k }, &mut Random::new(3, &[]))
    }

    /// How often each expert is chosen, the most popular first.
    fn popularity(choices: &ExpertChoices) -> Vec<usize> {
        let mut counts = vec![0; choices.experts];
        choices.ids.iter().for_each(|&id| counts[id as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    #[test]
    fn the_experts_of_a_token_differ_and_a_seed_repeats_them() {
        for kind in KINDS {
            for (experts, top_k) in [(8, 2), (8, 8), (1, 1), (60, 4)] {
                let first = choices(kind, 33, experts, top_k);
                assert_eq!(first, choices(kind, 33, experts, top_k));
                for token in first.ids.chunks(first.top_k) {
                    let mut token = token.to_vec();
                    token.sort_unstable();
                    token.dedup();
                    assert_eq!(token.len(), first.top_k, "{kind:?}");
                    assert!(token.iter().all(|&id| (id as usize) < experts), "{kind:?}");
                }
                let routing = first.clone().routing().unwrap();
                assert_eq!((routing.tokens(), routing.top_k_index()), (33, &first.ids[..]));
            }
        }
    }

    #[test]
    fn uniform_is_even_and_zipf_is_skewed() {
        let uniform = popularity(&choices(RoutingKind::Uniform, 1000, 8, 2));
        assert!(uniform.iter().all(|count| (200..300).contains(count)), "{uniform:?}");
        let zipf = popularity(&choices(RoutingKind::Zipf, 4000, 8, 1));
        let ratio = zipf[0] as f64 / zipf[1] as f64;
        assert!((1.7..2.3).contains(&ratio), "{zipf:?}");
        assert!(zipf[0] > 5 * zipf[7], "{zipf:?}");
    }

    #[test]
    fn one_expert_takes_every_token() {
        let one = choices(RoutingKind::OneExpert, 10, 8, 2);
        assert_eq!((one.experts_hit(), one.pairs(), one.top_k), (1, 10, 1));
    }

    #[test]
    fn moved_choices_hit_as_many_other_experts() {
        let first = choices(RoutingKind::Uniform, 1, 8, 2);
        let moved = first.moved(8 + 1);
        assert_eq!(moved.experts_hit(), 2);
        assert_ne!(moved, first);
        assert_eq!(moved.moved(7), first);
    }
}
