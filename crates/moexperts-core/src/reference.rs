//! The formulas in plain f64 loops, to read and to test against; never optimised.
//!
//! Each stands beside the description of its operation; here they have the names of the operations.

pub use crate::{
    experts::formula::{expert_output, experts},
    operations::{
        attention::{formula as attention, softmax},
        elementwise::{activate, activate_gated, gate},
        linear::formula as linear,
        norm::{layer_norm, rms_norm},
        rope::formula as rope,
        route::{formula as route, group_scores, mask_groups, picked_on, scores},
    },
};
