//! The pairs of a routing, ordered by expert.

use std::ops::Range;

use moexperts_core::Routing;

/// One (token, expert) pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) token: u32,
    pub(super) weight: f32,
}

/// The pairs in ascending expert id; within an expert in the order of the tokens. Sentinels are
/// left out.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pairs: Vec<Pair>,
    /// Token of each pair: the input rows of the products.
    tokens: Vec<u32>,
    /// Experts with at least one pair, and where their pairs end.
    ends: Vec<(u32, usize)>,
    /// Pairs per expert while sorting, then where the next pair of each goes.
    counts: Vec<usize>,
}

/// The pairs of one expert.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) expert: usize,
    /// Places in the ordered pairs.
    pub(super) pairs: Range<usize>,
}

impl Groups {
    /// Orders the pairs by counting them.
    pub(super) fn order(&mut self, routing: &Routing, experts: usize) {
        self.counts.clear();
        self.counts.resize(experts, 0);
        for &id in routing.top_k_index() {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        self.ends.clear();
        let mut total = 0;
        for (expert, count) in self.counts.iter_mut().enumerate() {
            let start = total;
            total += *count;
            if *count > 0 {
                self.ends.push((expert as u32, total));
            }
            *count = start;
        }
        self.pairs.clear();
        self.pairs.resize(total, Pair { token: 0, weight: 0.0 });
        self.tokens.clear();
        self.tokens.resize(total, 0);
        for token in 0..routing.tokens() {
            for (id, weight) in routing.pairs(token) {
                if let Some(next) = self.counts.get_mut(id as usize) {
                    self.pairs[*next] = Pair { token: token as u32, weight };
                    self.tokens[*next] = token as u32;
                    *next += 1;
                }
            }
        }
    }

    pub(super) fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The experts that were hit, in ascending id.
    pub(super) fn iter(&self) -> impl Iterator<Item = Group> + Clone + Sync {
        self.ends.iter().scan(0, |start, &(expert, end)| {
            let pairs = *start..end;
            *start = end;
            Some(Group { expert: expert as usize, pairs })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_by_expert_then_token_and_sentinels_are_left_out() {
        let ids = vec![2, 0, 9, 2, 2, 2];
        let routing = Routing::new(2, ids, vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).unwrap();
        let mut groups = Groups::default();
        groups.order(&routing, 4);
        let found: Vec<_> = groups.iter().map(|group| (group.expert, group.pairs)).collect();
        assert_eq!(found, [(0, 0..1), (2, 1..5)]);
        assert_eq!(groups.tokens(), [0, 0, 1, 2, 2]);
        let weights: Vec<f32> = groups.pairs().iter().map(|pair| pair.weight).collect();
        assert_eq!(weights, [0.2, 0.1, 0.4, 0.5, 0.6]);
    }
}
