//! How many runs make a measurement.

use std::time::{Duration, Instant};

/// Runs that are enough.
const RUNS: usize = 5;

/// Runs that are enough if each takes long.
const SLOW_RUNS: usize = 3;

/// What all runs together take, in times of what they should, for each to take long.
const SLOW: u32 = 5;

/// Whether runs took the time they are given, and are enough.
pub(crate) fn enough(seconds: &[f64], time: Duration) -> bool {
    let spent: f64 = seconds.iter().sum();
    let slow = spent >= (SLOW * time).as_secs_f64() && !time.is_zero();
    seconds.len() >= if slow { SLOW_RUNS } else { RUNS } && spent >= time.as_secs_f64()
}

/// Seconds of each of as many runs as are enough, after one that does not count.
pub(crate) fn timed<T, E>(run: impl Fn() -> Result<T, E>, time: Duration) -> Result<Vec<f64>, E> {
    run()?;
    let mut seconds = Vec::new();
    while !enough(&seconds, time) {
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn five_runs_and_the_time_are_enough_or_three_long_ones() {
        let time = Duration::from_millis(500);
        assert!(!enough(&[0.01; 49], time));
        assert!(enough(&[0.01; 51], time));
        assert!(!enough(&[0.2; 4], time));
        assert!(enough(&[0.2; 5], time));
        assert!(!enough(&[9.0; 2], time));
        assert!(enough(&[9.0; 3], time));
        assert!(!enough(&[9.0; 4], Duration::ZERO));
        assert!(enough(&[9.0; 5], Duration::ZERO));
    }

    #[test]
    fn the_first_run_does_not_count() {
        let runs = Cell::new(0);
        let run = || Ok::<_, &str>(runs.replace(runs.get() + 1));
        assert_eq!(timed(run, Duration::ZERO).unwrap().len(), 5);
        assert_eq!(runs.get(), 6);
        assert_eq!(timed(|| Err::<(), _>("broken"), Duration::ZERO), Err("broken"));
    }
}
