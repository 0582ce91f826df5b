//! The experts backends of the CPU, and what they share.
//!
//! All three compute the same products and add a token's experts in ascending
//! id; they differ in how the work is cut, and in which pairs pass an expert's weights together.

mod batched_mm;
mod eager;
mod grouped_mm;
mod groups;
mod layer;

pub use batched_mm::BatchedMm;
pub use eager::Eager;
pub use grouped_mm::GroupedMm;

use moexperts_core::{Error, ExpertsSpec, Orientation, Result};

use crate::cpu::Cpu;

/// What every backend of this crate needs of the experts.
fn check(name: &str, spec: &ExpertsSpec) -> Result<()> {
    let missing = |problem: &str| {
        Err(Error::Backend {
            name: name.to_owned(),
            device: <Cpu as moexperts_core::Device>::NAME,
            problem: problem.to_owned(),
        })
    };
    if spec.post_expert_norm {
        return missing("a norm after each expert is not supported");
    }
    if spec.orientation == Orientation::InOut {
        return missing("projections stored [in, out] have to be transposed first");
    }
    if !spec.gated && matches!(spec.activation, moexperts_core::Activation::ClampedSwiglu { .. }) {
        return missing("the clamped swiglu needs a gate projection");
    }
    Ok(())
}
