//! Operations a second: chains of multiply-and-add on registers, enough of them to keep every unit
//! busy while each waits for its own last result.

use std::hint::black_box;

use moexperts_core::{DType, WeightFormat};

#[cfg(target_arch = "x86_64")]
use super::{amxbf16, avx2, avx512, avx512bf16};
use super::{clock::fastest, portable, sizes::CHAINS};
use crate::{cpu::Cpu, isa::Isa};

/// Steps between two looks at the clock: about 50 microseconds, against which a look is nothing.
const STEPS: u64 = 1 << 14;

/// The most multiplications and additions a second.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Peak {
    /// Multiplications and additions a second, all threads together; a fused one counts as two.
    pub flops_per_second: f64,
    /// The instruction set they were done with.
    pub isa: Isa,
    /// The dtype of what is multiplied; sums are f32.
    pub inputs: DType,
}

/// Measures what the threads of `cpu` can compute at most with weights of a format: with bf16 dot
/// products where inputs may be rounded to bf16 and the instruction set has them, in f32 otherwise.
pub fn peak(cpu: &Cpu, format: impl Into<WeightFormat>) -> Peak {
    let chains = Chains::select(cpu.isa(), format.into());
    let flops_per_second = fastest(cpu.thread_count(), 1, || {
        |_| {
            let starts: [f32; CHAINS] = std::array::from_fn(|chain| chain as f32);
            black_box(chains.run(&black_box(starts), black_box(0.5), black_box(1.0), STEPS));
            STEPS * chains.flops_per_step
        }
    });
    Peak { flops_per_second, isa: chains.isa, inputs: chains.inputs }
}

/// The chains of one instruction set, known to run on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chains {
    pub(super) isa: Isa,
    pub(super) inputs: DType,
    /// Multiplications and additions of one step of all chains.
    pub(super) flops_per_step: u64,
    /// Unsafe to call: the processor must have the instruction set.
    run: unsafe fn(&[f32; CHAINS], f32, f32, u64) -> f32,
}

impl Chains {
    /// The chains that this machine can run, the best first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let entry = |isa, inputs, flops_per_chain, run| {
            let flops_per_step = CHAINS as u64 * flops_per_chain;
            Self { isa, inputs, flops_per_step, run }
        };
        let chains = [
            #[cfg(target_arch = "x86_64")]
            entry(Isa::AmxBf16, DType::Bf16, amxbf16::FLOPS, amxbf16::chains as _),
            #[cfg(target_arch = "x86_64")]
            entry(Isa::Avx512Bf16, DType::Bf16, avx512bf16::FLOPS, avx512bf16::chains as _),
            #[cfg(target_arch = "x86_64")]
            entry(Isa::Avx512, DType::F32, avx512::FLOPS, avx512::chains as _),
            #[cfg(target_arch = "x86_64")]
            entry(Isa::Avx2, DType::F32, avx2::FLOPS, avx2::chains as _),
            entry(Isa::Portable, DType::F32, portable::FLOPS, portable::chains as _),
        ];
        chains.into_iter().filter(|chains| chains.isa.runs_here())
    }

    /// The first chains for weights of this format whose instruction set `isa` includes.
    ///
    /// # Panics
    /// Never: the portable chains run everywhere.
    pub(super) fn select(isa: Isa, format: WeightFormat) -> Self {
        let fits = |inputs: DType| inputs == DType::F32 || inputs == format.input_dtype();
        Self::all()
            .find(|chains| isa.includes(chains.isa) && fits(chains.inputs))
            .expect("the portable chains run everywhere")
    }

    /// Does `steps` of `sum = sum · factor + summand` on every lane of every chain, or, for bf16,
    /// `sum = sum + products · factor · summand`, 2 products, or 32 with AMX; the sum of all lanes.
    pub(super) fn run(&self, starts: &[f32; CHAINS], factor: f32, summand: f32, steps: u64) -> f32 {
        // SAFETY: `all` makes only chains whose instruction set runs here.
        unsafe { (self.run)(starts, factor, summand, steps) }
    }
}
