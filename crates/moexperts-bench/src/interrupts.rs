//! Ctrl-C.

use std::{
    process,
    sync::atomic::{AtomicU8, Ordering},
};

use crate::error::BenchError;

/// The exit code of a program that Ctrl-C ended: 128 and the number of the signal.
pub const EXIT_CODE: u8 = 130;

const WAITING: u8 = 0;
const WORKING: u8 = 1;
const STOPPED: u8 = 2;

/// What the program is doing when Ctrl-C comes.
static STATE: AtomicU8 = AtomicU8::new(WAITING);

/// While it lives Ctrl-C stops the work; a second one, or one at another time, ends the program.
#[derive(Debug)]
pub struct Interrupts(());

impl Interrupts {
    /// To be called before any work. A handler that is there already stays.
    ///
    /// # Errors
    /// If the system has no handler for it.
    pub fn listen() -> Result<(), BenchError> {
        let set = ctrlc::set_handler(|| {
            let stop =
                STATE.compare_exchange(WORKING, STOPPED, Ordering::Relaxed, Ordering::Relaxed);
            if stop.is_err() {
                process::exit(EXIT_CODE.into());
            }
        });
        match set {
            Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
            Err(error) => Err(BenchError::Terminal(error.into())),
        }
    }

    /// Work begins.
    pub fn during_work() -> Self {
        STATE.store(WORKING, Ordering::Relaxed);
        Self(())
    }

    /// Whether the work is to stop.
    pub fn stopped(&self) -> bool {
        STATE.load(Ordering::Relaxed) == STOPPED
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        STATE.store(WAITING, Ordering::Relaxed);
    }
}
