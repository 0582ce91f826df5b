//! Matrix products: dense layers, and grouped products of experts.

pub(crate) mod grouped;
pub(crate) mod hopper;
pub(crate) mod linear;
pub(crate) mod narrow;
pub(crate) mod params;
pub(crate) mod tiles;
