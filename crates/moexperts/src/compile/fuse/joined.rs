//! Experts layers that fusing makes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use moexperts_core::{Device, DeviceLinear, Experts};

use crate::compile::same_arc::{ByArc, SameArc};

/// Routed experts with the slices of a shared one beside them, and dense layers as one expert: made
/// once for all plans of a model.
#[derive(Debug)]
pub(in crate::compile) struct JoinedExperts<D: Device>(Mutex<Made<D>>);

#[derive(Debug)]
struct Made<D: Device> {
    /// By the routed experts.
    with_shared: ByArc<Experts<D::Experts>, Experts<D::Experts>>,
    /// By the gate projection.
    dense: ByArc<DeviceLinear<D>, Experts<D::Experts>>,
}

impl<D: Device> Default for JoinedExperts<D> {
    fn default() -> Self {
        Self(Mutex::new(Made { with_shared: HashMap::new(), dense: HashMap::new() }))
    }
}

impl<D: Device> JoinedExperts<D> {
    /// All of them.
    pub(in crate::compile) fn all(&self) -> Vec<Arc<Experts<D::Experts>>> {
        let made = self.made();
        made.with_shared.values().chain(made.dense.values()).cloned().collect()
    }

    /// What `join` makes of routed experts and the slices of a shared one, or made before.
    pub(super) fn with_shared(
        &self,
        routed: &Arc<Experts<D::Experts>>,
        join: impl FnOnce() -> Experts<D::Experts>,
    ) -> Arc<Experts<D::Experts>> {
        let mut made = self.made();
        let joined = made.with_shared.entry(SameArc::new(routed));
        Arc::clone(joined.or_insert_with(|| Arc::new(join())))
    }

    /// A dense layer as one expert: this one, or that which was made before.
    pub(super) fn dense(
        &self,
        gate_proj: &Arc<DeviceLinear<D>>,
        experts: Experts<D::Experts>,
    ) -> Arc<Experts<D::Experts>> {
        let mut made = self.made();
        let joined = made.dense.entry(SameArc::new(gate_proj));
        Arc::clone(joined.or_insert_with(|| Arc::new(experts)))
    }

    fn made(&self) -> MutexGuard<'_, Made<D>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
