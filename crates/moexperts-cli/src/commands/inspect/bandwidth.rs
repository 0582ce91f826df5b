//! How fast the threads together read from memory.

use std::{
    fmt,
    hint::black_box,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::summary::{bytes, counted};

/// Larger than the caches of most machines, so that most reads come from memory.
const BUFFER_BYTES: u64 = 512 << 20;

/// How long it reads.
const TIME: Duration = Duration::from_millis(300);

/// Values between two looks at the clock: a megabyte.
const BLOCK: usize = 1 << 17;

/// A measurement.
#[derive(Debug)]
pub(super) struct Bandwidth {
    pub(super) bytes_per_second: f64,
    buffer_bytes: u64,
    threads: usize,
}

impl Bandwidth {
    /// Reads a buffer again and again, a part a thread; a smaller one if `available` memory is
    /// short.
    pub(super) fn measure(threads: usize, available: Option<u64>) -> Self {
        let buffer_bytes = available.map_or(BUFFER_BYTES, |free| (free / 4).min(BUFFER_BYTES));
        let values = (buffer_bytes as usize / size_of::<u64>() / threads).max(BLOCK);
        let barrier = Barrier::new(threads);
        let bytes_per_second = thread::scope(|scope| {
            let start = |_| scope.spawn(|| read(values, &barrier));
            let readers: Vec<_> = (0..threads).map(start).collect();
            readers.into_iter().map(|reader| reader.join().expect("readers do not panic")).sum()
        });
        let buffer_bytes = (values * threads * size_of::<u64>()) as u64;
        Self { bytes_per_second, buffer_bytes, threads }
    }
}

/// Bytes per second of one thread while the others read too. Each makes its own part, so that the
/// part lies in the memory next to it.
fn read(values: usize, barrier: &Barrier) -> f64 {
    let part = vec![1_u64; values];
    barrier.wait();
    let start = Instant::now();
    let mut count = 0;
    for block in part.chunks_exact(BLOCK).cycle() {
        black_box(block.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value)));
        count += size_of_val(block);
        if start.elapsed() >= TIME {
            break;
        }
    }
    count as f64 / start.elapsed().as_secs_f64()
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gigabytes = self.bytes_per_second / 1e9;
        let (threads, buffer) = (counted(self.threads, "thread"), bytes(self.buffer_bytes));
        write!(f, "{gigabytes:.1} GB/s, measured with {threads} over {buffer}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_memory_is_enough_to_measure() {
        let bandwidth = Bandwidth::measure(2, Some(0));
        assert!(bandwidth.bytes_per_second > 0.0);
        assert!(bandwidth.to_string().ends_with(" GB/s, measured with 2 threads over 2.10 MB"));
    }
}
