//! Bytes a second from memory: one stream a thread, and four, as a product reads four rows of a
//! weight at once.

use std::hint::black_box;

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use super::{clock::fastest, portable, sizes::BLOCK};
use crate::{cpu::Cpu, isa::Isa};

/// Larger than the caches of most machines, so that reads come from memory.
const BUFFER_BYTES: u64 = 512 << 20;

/// The least for one thread: with many threads the caches they share are large.
const PART_BYTES: u64 = 16 << 20;

/// How fast threads read from memory.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ReadBandwidth {
    /// Bytes a second, all threads together.
    pub bytes_per_second: f64,
    /// How many threads read.
    pub threads: usize,
    /// Bytes that all threads read.
    pub buffer_bytes: u64,
}

/// Measures how fast the threads of `cpu` read from memory.
///
/// - `available_bytes`: memory that is free, if that is known; at most a quarter of it is used
pub fn read_bandwidth(cpu: &Cpu, available_bytes: Option<u64>) -> ReadBandwidth {
    let threads = cpu.thread_count();
    let wanted = BUFFER_BYTES.max(PART_BYTES * threads as u64);
    let buffer_bytes = available_bytes.map_or(wanted, |free| wanted.min(free / 4));
    let part_bytes = buffer_bytes / threads as u64;
    let blocks = (part_bytes as usize / size_of::<[u64; BLOCK]>()).max(1);
    let readers = Readers::select(cpu.isa());
    let bytes_per_second = fastest(threads, readers.run.len(), || {
        // Each thread makes what it reads, so that it lies in the memory next to it.
        let mut part = vec![1; blocks * BLOCK];
        let mut next = 0;
        move |way| {
            let (blocks, _) = black_box(&mut part).as_chunks::<BLOCK>();
            black_box(readers.run(way, &blocks[next]));
            next = (next + 1) % blocks.len();
            size_of::<[u64; BLOCK]>() as u64
        }
    });
    let buffer_bytes = (threads * blocks * size_of::<[u64; BLOCK]>()) as u64;
    ReadBandwidth { bytes_per_second, threads, buffer_bytes }
}

/// The ways to read of one instruction set, known to run on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readers {
    pub(super) isa: Isa,
    /// Unsafe to call: the processor must have the instruction set.
    run: [unsafe fn(&[u64; BLOCK]) -> u64; 2],
}

impl Readers {
    /// The readers that this machine can run, the best first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let readers = [
            #[cfg(target_arch = "x86_64")]
            Self { isa: Isa::Avx512, run: [avx512::one_stream, avx512::four_streams] },
            #[cfg(target_arch = "x86_64")]
            Self { isa: Isa::Avx2, run: [avx2::one_stream, avx2::four_streams] },
            Self { isa: Isa::Portable, run: [portable::one_stream, portable::four_streams] },
        ];
        readers.into_iter().filter(|readers| readers.isa.runs_here())
    }

    /// The first whose instruction set `isa` includes.
    ///
    /// # Panics
    /// Never: the portable ones run everywhere.
    fn select(isa: Isa) -> Self {
        Self::all()
            .find(|readers| isa.includes(readers.isa))
            .expect("the portable readers run everywhere")
    }

    /// Reads a block in one of the ways; the exclusive or of its values.
    pub(super) fn run(&self, way: usize, block: &[u64; BLOCK]) -> u64 {
        // SAFETY: `all` makes only readers whose instruction set runs here.
        unsafe { (self.run[way])(block) }
    }
}
