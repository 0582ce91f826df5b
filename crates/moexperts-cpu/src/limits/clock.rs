//! How often a second threads do a piece of work.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

/// Measurements of one way; their median counts.
pub(super) const ROUNDS: usize = 21;

/// How long one measurement takes: about as long as a layer, so that on a machine that others use
/// too the median leaves out the times in which they compute, as it does for a layer.
const TIME: Duration = Duration::from_millis(10);

/// The work that all threads do in a second, in the best of several ways.
///
/// Each thread makes its own worker, which does a piece of work in the given way and returns its
/// size. The ways take turns, so that whatever else the machine does hits all alike.
pub(super) fn fastest<W: FnMut(usize) -> u64>(
    threads: usize,
    ways: usize,
    worker: impl Fn() -> W + Sync,
) -> f64 {
    let barrier = Barrier::new(threads);
    let measure = || {
        let mut work = worker();
        let rates = (0..ROUNDS * ways).map(|turn| {
            barrier.wait();
            rate(|| work(turn % ways))
        });
        rates.collect::<Vec<f64>>()
    };
    let rates: Vec<Vec<f64>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(measure)).collect();
        threads.into_iter().map(|thread| thread.join().expect("workers do not panic")).collect()
    });
    let together = |turn: usize| rates.iter().map(|rates| rates[turn]).sum::<f64>();
    let median = |way: usize| {
        let mut rounds: Vec<f64> = (way..ROUNDS * ways).step_by(ways).map(together).collect();
        rounds.sort_by(f64::total_cmp);
        rounds[ROUNDS / 2]
    };
    (0..ways).map(median).fold(0.0, f64::max)
}

/// Does pieces of work until the time is up.
fn rate(mut work: impl FnMut() -> u64) -> f64 {
    let start = Instant::now();
    let mut done = 0;
    loop {
        done += work();
        let elapsed = start.elapsed();
        if elapsed >= TIME {
            return done as f64 / elapsed.as_secs_f64();
        }
    }
}
