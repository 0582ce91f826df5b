//! Products of activations with weight rows: the one kernel family behind experts, dense layers
//! and attention.
//!
//! `out[i, r] = Σ_k x[i, k] · w[r, k]`, in two forms that both read the weights where they lie:
//!
//! - [`Kernel::dot`], for few input rows: columns in the lanes, a reduction at the end. The weights
//!   pass once, as fast as memory gives them.
//! - [`Kernel::lanes`], for many: sixteen input rows in the lanes, packed into a panel first, and
//!   one weight at a time broadcast to them. No reduction, twice the products per load.
//!
//! Invariant: within a form, an output's order of summation depends on the number of columns and
//! the instruction set alone, not on the tile that happens to compute it. So a result does not
//! depend on the rows beside it or on the number of threads.
//!
//! [`Kernel::all`] is the list, by instruction set and format of the weights, that dispatch, tests
//! and `moexperts inspect` walk. An instruction set is a file of tiles; `dot` and `lanes` walk a
//! block in them, `avx512` and `avx512bf16` fill one tile of 512-bit registers, `zmm`, in.

#[cfg(target_arch = "x86_64")]
mod amxbf16;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod block;
mod dot;
mod gather;
mod kernel;
mod lanes;
mod panel;
mod portable;
mod prefetch;
#[cfg(test)]
mod tests;
mod weights;
#[cfg(target_arch = "x86_64")]
mod zmm;

pub(crate) use self::{block::BlockResults, gather::Gathered, panel::pack};
pub use self::{
    kernel::Kernel,
    panel::PANEL,
    weights::{Inputs, Then, Weights},
};
