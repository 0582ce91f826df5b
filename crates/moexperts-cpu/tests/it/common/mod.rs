//! Helpers that the integration tests share.

#![allow(dead_code, reason = "the test of allocations uses a part")]

pub(crate) mod attention;

use std::{num::NonZero, sync::LazyLock};

use moexperts_conformance::{Random, skipped};
use moexperts_core::{DeviceLinear, Operations, Result, Scratch, Tensor};
use moexperts_cpu::{Cpu, CpuOptions, Isa};

/// Devices with 1, 2 and 3 threads, for every instruction set of this machine; those it lacks are
/// named once, or fail the tests. Made once: tests use them at the same time, as callers do.
static DEVICES: LazyLock<Vec<[Cpu; 3]>> = LazyLock::new(|| {
    let missing = Isa::ALL.into_iter().filter(|isa| !isa.runs_here());
    missing.for_each(|isa| skipped(isa.name()));
    let with_threads = |isa: Isa| {
        [1, 2, 3].map(|threads| {
            let options = CpuOptions { threads: NonZero::new(threads), isa: Some(isa) };
            Cpu::new(options).unwrap()
        })
    };
    Isa::available().map(with_threads).collect()
});

/// A device for every instruction set of this machine.
pub(crate) fn devices() -> impl Iterator<Item = Cpu> {
    devices_by_threads().map(|[_, two, _]| two)
}

/// The device of an instruction set with 1, 2 or 3 threads.
pub(crate) fn device(isa: Isa, threads: usize) -> Cpu {
    let mut devices = devices_by_threads().flatten();
    devices.find(|cpu| cpu.isa() == isa && cpu.thread_count() == threads).unwrap()
}

/// Devices of one instruction set with 1, 2 and 3 threads, for every instruction set.
pub(crate) fn devices_by_threads() -> impl Iterator<Item = [Cpu; 3]> {
    DEVICES.iter().cloned()
}

/// Values in `-1 .. 1`.
pub(crate) fn values(len: usize, seed: u64) -> Vec<f32> {
    Random::new(seed).values(len)
}

pub(crate) fn tensor(rows: usize, cols: usize, seed: u64) -> Tensor {
    Tensor::from_vec(rows, cols, values(rows * cols, seed)).unwrap()
}

/// One linear layer, with a new result and new scratch.
pub(crate) fn linear(cpu: &Cpu, x: &Tensor, linear: &DeviceLinear<Cpu>) -> Result<Tensor> {
    let mut out = Tensor::default();
    cpu.linear(x, &[linear], &mut Scratch::default(), std::slice::from_mut(&mut out))?;
    Ok(out)
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
