//! The operations of a device, as data.

mod route;

pub use route::{ExpertGroups, PickOn, RouteOperands, RouterSpec, Score};
