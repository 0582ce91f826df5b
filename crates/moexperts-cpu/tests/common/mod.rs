//! What the integration tests share.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod attention;

use std::{num::NonZero, sync::LazyLock};

use moexperts_conformance::{Random, skipped};
use moexperts_core::{DeviceLinear, Operations, Result, Scratch, Tensor};
use moexperts_cpu::{Cpu, CpuOptions, Isa};

/// The instruction sets of this machine; those it lacks are named once, or fail the tests.
static ISAS: LazyLock<Vec<Isa>> = LazyLock::new(|| {
    let missing = Isa::ALL.into_iter().filter(|isa| !isa.runs_here());
    missing.for_each(|isa| skipped(isa.name()));
    Isa::available().collect()
});

/// A device for every instruction set of this machine.
pub(crate) fn devices() -> impl Iterator<Item = Cpu> {
    ISAS.iter().map(|&isa| device(isa, 2))
}

pub(crate) fn device(isa: Isa, threads: usize) -> Cpu {
    Cpu::new(CpuOptions { threads: NonZero::new(threads), isa: Some(isa) }).unwrap()
}

/// Devices of one instruction set with 1, 2 and 3 threads, for every instruction set.
pub(crate) fn devices_by_threads() -> impl Iterator<Item = [Cpu; 3]> {
    ISAS.iter().map(|&isa| [1, 2, 3].map(|threads| device(isa, threads)))
}

/// Values in `-1 .. 1`.
pub(crate) fn values(len: usize, seed: u64) -> Vec<f32> {
    Random::new(seed).values(len)
}

pub(crate) fn tensor(rows: usize, cols: usize, seed: u64) -> Tensor {
    Tensor::from_vec(rows, cols, values(rows * cols, seed)).unwrap()
}

/// One linear layer, its result and its room its own.
pub(crate) fn linear(cpu: &Cpu, x: &Tensor, linear: &DeviceLinear<Cpu>) -> Result<Tensor> {
    let mut out = Tensor::default();
    cpu.linear(x, &[linear], &mut Scratch::default(), std::slice::from_mut(&mut out))?;
    Ok(out)
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
