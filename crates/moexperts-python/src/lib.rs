//! The experts backends of moexperts as a Python extension module: `moexperts._native`.
//!
//! Python's side (`python/moexperts`) knows torch and transformers; this side knows addresses. A
//! [`layer::Layer`] describes weights where torch keeps them, a call brings the addresses of the
//! activations.

mod addresses;
mod arguments;
mod inspect;
mod layer;
mod openmp;
mod projection;
mod worker;

use pyo3::prelude::*;

/// What `moexperts` is made of; not for users.
#[pymodule(name = "_native")]
mod native {
    #[pymodule_export]
    use super::inspect::inspect;
    #[pymodule_export]
    use super::layer::Layer;
    #[pymodule_export]
    use super::openmp::use_openmp_of;
    #[pymodule_export]
    use super::projection::Projection;
}
