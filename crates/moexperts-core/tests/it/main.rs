//! Properties that hold for any input.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail with them")]

mod conversions;
mod matrix;
mod positions;
mod routing;
