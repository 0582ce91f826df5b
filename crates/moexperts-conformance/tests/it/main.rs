//! The integration tests of the suite: that its tolerance is right, for every format.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail with them")]

mod tolerance;
