//! Points in a stream.

use cudarc::driver::{
    result::{self, DriverError},
    sys,
};

/// A point in a stream.
#[derive(Debug)]
pub(super) struct Event(pub(super) sys::CUevent);

impl Event {
    pub(super) fn new() -> Result<Self, DriverError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Self)
    }

    pub(super) fn record(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: the event exists until it is dropped; streams come from an open GPU or a capture that the
        // caller holds.
        unsafe { result::event::record(self.0, stream) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: `self` owns the event.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}
