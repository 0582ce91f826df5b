//! Copies of weights, where they are faster than the weights in their mapped file.

use std::{collections::HashMap, sync::Arc};

use moexperts_core::{Device, DeviceLinear, Experts, Linear, Weight};

use crate::{
    compile::same_arc::{ByArc, SameArc},
    error::Result,
    graph::{Op, Router, Step},
};

/// Copies of weights that plans use, within a budget.
#[derive(Debug)]
pub(super) struct Copies<D: Device> {
    left_bytes: usize,
    used_bytes: usize,
    linears: ByArc<DeviceLinear<D>, DeviceLinear<D>>,
    experts: ByArc<Experts<D::Experts>, Experts<D::Experts>>,
}

impl<D: Device> Copies<D> {
    /// None, with a budget of bytes for some.
    pub(super) fn new(budget_bytes: usize) -> Self {
        Self {
            left_bytes: budget_bytes,
            used_bytes: 0,
            linears: HashMap::new(),
            experts: HashMap::new(),
        }
    }

    /// Bytes that are left of the budget.
    pub(super) fn left_bytes(&self) -> usize {
        self.left_bytes
    }

    /// Bytes of the copies.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// The experts that are copies.
    pub(super) fn experts(&self) -> Vec<Arc<Experts<D::Experts>>> {
        self.experts.values().cloned().collect()
    }

    /// Puts copies in the place of a step's weights, as far as the budget goes.
    pub(super) fn replace(&mut self, step: &mut Step<D>) -> Result<()> {
        let device = step.device.clone();
        match &mut step.op {
            Op::Linear(linears) | Op::Router { linears, .. } => {
                for linear in linears {
                    if let Some(copy) = self.copy_of_linear(&device, linear)? {
                        *linear = copy;
                    }
                }
            }
            Op::Experts { experts, .. } => {
                if let Some(copy) = self.copy_of_experts(&device, experts)? {
                    *experts = copy;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn copy_of_linear(
        &mut self,
        device: &D,
        linear: &Arc<DeviceLinear<D>>,
    ) -> Result<Option<Arc<DeviceLinear<D>>>> {
        let key = SameArc::new(linear);
        if let Some(copy) = self.linears.get(&key) {
            return Ok(Some(Arc::clone(copy)));
        }
        if linear.weight.size_bytes() > self.left_bytes {
            return Ok(None);
        }
        let (copy, bytes) = copied_linear(device, linear)?;
        self.take(bytes);
        self.linears.insert(key, Arc::clone(&copy));
        Ok(Some(copy))
    }

    fn copy_of_experts(
        &mut self,
        device: &D,
        experts: &Arc<Experts<D::Experts>>,
    ) -> Result<Option<Arc<Experts<D::Experts>>>> {
        let key = SameArc::new(experts);
        if let Some(copy) = self.experts.get(&key) {
            return Ok(Some(Arc::clone(copy)));
        }
        let spec = experts.spec();
        if spec.experts * spec.bytes_per_expert() > self.left_bytes {
            return Ok(None);
        }
        let (copy, bytes) = copied_experts(device, experts)?;
        self.take(bytes);
        self.experts.insert(key, Arc::clone(&copy));
        Ok(Some(copy))
    }

    fn take(&mut self, bytes: usize) {
        self.left_bytes -= bytes;
        self.used_bytes += bytes;
    }
}

/// A layer with a copy of its weight, if the device makes one, and the bytes of the copy.
fn copied_linear<D: Device>(
    device: &D,
    linear: &Arc<DeviceLinear<D>>,
) -> Result<(Arc<DeviceLinear<D>>, usize)> {
    Ok(match device.resident_copy(&linear.weight)? {
        Some(weight) => {
            let bytes = weight.size_bytes();
            (Arc::new(Linear { weight, bias: linear.bias.clone() }), bytes)
        }
        None => (Arc::clone(linear), 0),
    })
}

/// Experts with copies of those weights that the device makes copies of, and the bytes of these.
fn copied_experts<D: Device>(
    device: &D,
    experts: &Experts<D::Experts>,
) -> Result<(Arc<Experts<D::Experts>>, usize)> {
    let mut bytes = 0;
    let copy = |weight: &D::Matrix| {
        let copy = device.resident_copy(weight)?;
        bytes += copy.as_ref().map_or(0, Weight::size_bytes);
        Ok(copy.unwrap_or_else(|| weight.clone()))
    };
    let copies = Arc::new(experts.with_matrices(copy)?);
    Ok((copies, bytes))
}

/// A step with copies of its weights, whatever they take.
pub(super) fn with_copies<D: Device>(step: &mut Step<D>) -> Result<Op<D>> {
    let device = step.device.clone();
    let copied = |linears: &[Arc<DeviceLinear<D>>]| {
        let copies = linears.iter().map(|linear| Ok(copied_linear(&device, linear)?.0));
        copies.collect::<Result<Vec<_>>>()
    };
    let copy = match &step.op {
        Op::Linear(linears) => Op::Linear(copied(linears)?),
        Op::Router { linears, router, shared_slices } => Op::Router {
            linears: copied(linears)?,
            router: Router::clone(router),
            shared_slices: *shared_slices,
        },
        Op::Experts { experts, run_by } => {
            Op::Experts { experts: copied_experts(&device, experts)?.0, run_by: run_by.clone() }
        }
        _ => unreachable!("only products have weights that are copied"),
    };
    Ok(std::mem::replace(&mut step.op, copy))
}
