//! Memory full of random values, filled by all threads.

use std::{
    fmt,
    ops::Range,
    sync::{Mutex, PoisonError},
    thread,
};

use bytemuck::{cast_slice, cast_slice_mut};
use moexperts::{
    DType,
    core::{Elements, Matrix, Storage},
};

use crate::{hardware::Hardware, random::Random};

/// A pool begins at a multiple of this: a cache line.
pub(crate) const ALIGNMENT: usize = 64;

/// The weights of trained models are about this large.
pub(crate) const SCALE: f32 = 0.025;

const WORD_BYTES: usize = size_of::<u64>();

/// Values for weights, first touched by the threads that fill them.
pub(crate) struct Pool {
    words: Vec<u64>,
    /// Words before the first that is aligned.
    skipped: usize,
    size_bytes: usize,
}

/// Numbers evenly spread between `-limit` and `limit`, the same for the same seed and purpose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uniform {
    pub(crate) dtype: DType,
    pub(crate) limit: f32,
    pub(crate) seed: u64,
    pub(crate) purpose: u64,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} bytes)", self.size_bytes)
    }
}

impl Storage for Pool {
    fn bytes(&self) -> &[u8] {
        &cast_slice(&self.words[self.skipped..])[..self.size_bytes]
    }
}

impl Pool {
    /// Words of a block that is filled at once.
    const BLOCK: usize = 1 << 17;

    /// Zeros, which cost nothing until they are written.
    pub(crate) fn zeros(size_bytes: usize) -> Self {
        let words = vec![0_u64; (size_bytes + ALIGNMENT).div_ceil(WORD_BYTES)];
        let skipped = words.as_ptr().align_offset(ALIGNMENT);
        Self { words, skipped, size_bytes }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut cast_slice_mut(&mut self.words[self.skipped..])[..self.size_bytes]
    }

    /// Writes random values, the same whatever the threads, into whole words of eight bytes: those
    /// too that the range takes a part of.
    pub(crate) fn fill(&mut self, bytes: Range<usize>, values: Uniform, threads: usize) {
        let Uniform { dtype, limit, seed, purpose } = values;
        let table = table(dtype, limit);
        let width = 8 * dtype.size_bytes() as u32;
        let range = bytes.start / WORD_BYTES..bytes.end.div_ceil(WORD_BYTES);
        let words = &mut self.words[self.skipped..][range];
        let blocks = Mutex::new(words.chunks_mut(Self::BLOCK).enumerate());
        let fill = || {
            loop {
                let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((index, block)) = next else { return };
                let mut random = Random::new(seed, &[purpose, index as u64]);
                for word in block {
                    let draw = random.next();
                    let value = |place| table[(draw >> (16 * place)) as usize & (TABLE - 1)];
                    let places = 0..u64::BITS / width;
                    *word = places.fold(0, |word, place| word | value(place) << (width * place));
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(fill);
            }
        });
    }

    /// Writes one value again and again.
    pub(crate) fn repeat(&mut self, bytes: Range<usize>, value: f32, dtype: DType) {
        let size = dtype.size_bytes();
        let bits = bits(&[value], dtype)[0].to_le_bytes();
        for place in self.bytes_mut()[bytes].chunks_exact_mut(size) {
            place.copy_from_slice(&bits[..size]);
        }
    }
}

/// How many threads fill a pool for a device: as many as it computes with, or all.
pub(crate) fn filling_threads(device: &dyn Hardware) -> usize {
    let all = || thread::available_parallelism().map_or(1, usize::from);
    device.threads().unwrap_or_else(all)
}

/// Different values in a pool.
const TABLE: usize = 1 << 16;

/// Numbers evenly spread between `-limit` and `limit`, rounded, as bits.
fn table(dtype: DType, limit: f32) -> Vec<u64> {
    let value = |index: usize| (2.0 * (index as f32 + 0.5) / TABLE as f32 - 1.0) * limit;
    bits(&(0..TABLE).map(value).collect::<Vec<f32>>(), dtype)
}

fn bits(values: &[f32], dtype: DType) -> Vec<u64> {
    let rounded = Matrix::from_f32(1, values.len(), values, dtype).expect("one row of all values");
    match rounded.elements() {
        Elements::F32(values) => values.iter().map(|value| value.to_bits().into()).collect(),
        Elements::F16(values) => values.iter().map(|value| value.to_bits().into()).collect(),
        Elements::Bf16(values) => values.iter().map(|value| value.to_bits().into()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use moexperts::core::MatrixLayout;

    use super::*;

    fn values(pool: Pool, dtype: DType) -> Vec<f32> {
        let cols = pool.size_bytes / dtype.size_bytes();
        Matrix::new(Arc::new(pool), MatrixLayout::row_major(0, dtype, 1, cols)).unwrap().to_f32()
    }

    #[test]
    fn values_repeat_with_the_seed_whatever_the_threads() {
        // More than a block.
        let size_bytes = (Pool::BLOCK + 1) * WORD_BYTES + 4;
        for dtype in DType::ALL {
            let filled = |threads, seed, purpose| {
                let mut pool = Pool::zeros(size_bytes);
                let uniform = Uniform { dtype, limit: 0.5, seed, purpose };
                pool.fill(0..size_bytes, uniform, threads);
                assert!((pool.bytes().as_ptr() as usize).is_multiple_of(ALIGNMENT));
                values(pool, dtype)
            };
            let first = filled(1, 7, 0);
            assert!(first == filled(3, 7, 0) && first != filled(1, 8, 0), "{dtype}");
            assert_ne!(first, filled(1, 7, 1), "{dtype}");
            assert!(first.iter().all(|value| value.abs() <= 0.5));
            let mean = first.iter().sum::<f32>() / first.len() as f32;
            assert!(mean.abs() < 0.01, "{dtype}: {mean}");
            let large = first.iter().filter(|value| value.abs() > 0.25).count();
            assert!((0.49..0.51).contains(&(large as f64 / first.len() as f64)), "{dtype}");
        }
    }

    #[test]
    fn a_part_is_written_and_the_rest_left() {
        for dtype in DType::ALL {
            let size = dtype.size_bytes();
            let mut pool = Pool::zeros(12 * size);
            let uniform = Uniform { dtype, limit: 1.0, seed: 0, purpose: 0 };
            pool.fill(4 * size..8 * size, uniform, 2);
            pool.repeat(7 * size..9 * size, 1.0, dtype);
            let got = values(pool, dtype);
            assert_eq!(got[..4], [0.0; 4], "{dtype}");
            assert!(got[4..7].iter().all(|&value| value != 0.0), "{dtype}: {got:?}");
            assert_eq!(got[7..], [1.0, 1.0, 0.0, 0.0, 0.0], "{dtype}");
        }
    }
}
