//! The pairs of a routing, ordered by expert.

use std::ops::Range;

use moexperts_core::Routing;

use crate::product::PANEL;

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
    /// The experts that were hit.
    all: Vec<ExpertPairs>,
    /// Pairs per expert while sorting, then where the next pair of each goes.
    counts: Vec<usize>,
}

/// The pairs of one expert: first those in panels, then those in rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ExpertPairs {
    pub(super) expert: usize,
    /// Places in the ordered pairs.
    pub(super) pairs: Range<usize>,
    /// Panels among the panels of all groups.
    pub(super) panels: Range<usize>,
    /// Rows among the rows of all groups.
    pub(super) rows: Range<usize>,
}

impl ExpertPairs {
    /// The pairs in a panel of this group.
    pub(super) fn pairs_of_panel(&self, panel: usize) -> Range<usize> {
        let start = self.pairs.start + (panel - self.panels.start) * PANEL;
        start..(start + PANEL).min(self.pairs.end - self.rows.len())
    }

    /// The pairs in some rows of this group.
    pub(super) fn pairs_of_rows(&self, rows: &Range<usize>) -> Range<usize> {
        let end = |row: usize| self.pairs.end - (self.rows.end - row);
        end(rows.start)..end(rows.end)
    }

    /// Its panels, each with its pairs.
    pub(super) fn panels(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        self.panels.clone().map(|panel| (panel, self.pairs_of_panel(panel)))
    }
}

impl Groups {
    /// Orders the pairs by counting them. `in_panels` says, of a number of pairs of one expert, how
    /// many of them go into panels, and into how many panels.
    pub(super) fn order(
        &mut self,
        routing: &Routing,
        experts: usize,
        in_panels: impl Fn(usize) -> (usize, usize),
    ) {
        self.counts.clear();
        self.counts.resize(experts, 0);
        for &id in routing.top_k_index() {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        self.all.clear();
        // The next call could hit this many, and must not allocate.
        self.all.reserve(experts.min(routing.top_k_index().len()));
        let [mut pairs, mut panel, mut row] = [0; 3];
        for (expert, count) in self.counts.iter_mut().enumerate() {
            let start = pairs;
            if *count > 0 {
                let (paneled, count_panels) = in_panels(*count);
                let rows = *count - paneled;
                self.all.push(ExpertPairs {
                    expert,
                    pairs: start..start + *count,
                    panels: panel..panel + count_panels,
                    rows: row..row + rows,
                });
                pairs += *count;
                panel += count_panels;
                row += rows;
            }
            *count = start;
        }
        self.pairs.clear();
        self.pairs.resize(pairs, Pair { token: 0, weight: 0.0 });
        self.tokens.clear();
        self.tokens.resize(pairs, 0);
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
    pub(super) fn all(&self) -> &[ExpertPairs] {
        &self.all
    }

    /// Panels of all groups.
    pub(super) fn panels(&self) -> usize {
        self.all.last().map_or(0, |group| group.panels.end)
    }

    /// Rows of all groups.
    pub(super) fn rows(&self) -> usize {
        self.all.last().map_or(0, |group| group.rows.end)
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
        groups.order(&routing, 4, |_| (0, 0));
        let group = |expert, pairs: Range<usize>| ExpertPairs {
            expert,
            pairs: pairs.clone(),
            panels: 0..0,
            rows: pairs,
        };
        assert_eq!(groups.all(), [group(0, 0..1), group(2, 1..5)]);
        assert_eq!(groups.tokens(), [0, 0, 1, 2, 2]);
        let weights: Vec<f32> = groups.pairs().iter().map(|pair| pair.weight).collect();
        assert_eq!(weights, [0.2, 0.1, 0.4, 0.5, 0.6]);
    }

    #[test]
    fn panels_and_rows_together_are_the_pairs() {
        for count in 0..100 {
            let routing = Routing::new(1, vec![0; count], vec![1.0; count]).unwrap();
            let mut groups = Groups::default();
            // A last panel from 13 pairs on, so that some are not full.
            groups.order(&routing, 1, |pairs| {
                let panels = (pairs + PANEL - 13) / PANEL;
                (pairs.min(panels * PANEL), panels)
            });
            let mut next = 0;
            for group in groups.all() {
                for (_, pairs) in group.panels() {
                    assert_eq!(pairs.start, next);
                    next = pairs.end;
                }
                assert_eq!(group.pairs_of_rows(&group.rows).start, next);
                next = group.pairs_of_rows(&group.rows).end;
            }
            assert_eq!(next, count);
            groups.order(&routing, 1, |_| (0, 0));
            assert_eq!((groups.panels(), groups.rows()), (0, count));
        }
    }
}
