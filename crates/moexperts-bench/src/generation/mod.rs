//! Generations to be timed: what `bench model` and `bench sweep` have in common.

mod counting;
mod timed;
mod variants;

pub(crate) use self::{
    counting::{Counted, count},
    timed::{Taken, TimedGeneration},
    variants::{Chosen, Variant, Variants},
};
