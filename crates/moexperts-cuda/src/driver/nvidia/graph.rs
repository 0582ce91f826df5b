//! Work captured as a CUDA graph.

use std::{ffi::c_void, fmt, slice, sync::Arc};

use cudarc::driver::{
    result::{self, DriverError},
    sys,
};
use moexperts_core::Result;

use super::{Gpu, refused};
use crate::{
    cuda::Cuda,
    driver::{Graph, Work},
};

/// A place in a stream.
#[derive(Debug)]
pub(super) struct Event(pub(super) sys::CUevent);

impl Event {
    pub(super) fn new() -> Result<Self, DriverError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Self)
    }

    pub(super) fn record(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: the event lives, and the stream as long as its GPU.
        unsafe { result::event::record(self.0, stream) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// Memory of the host that the GPU reads by itself.
#[derive(Debug)]
struct Pinned {
    at: *mut c_void,
    bytes: usize,
}

impl Pinned {
    fn new(bytes: usize) -> Result<Self> {
        // SAFETY: flags of 0 ask for nothing special.
        let at = unsafe { result::malloc_host(bytes.max(1), 0) }
            .map_err(refused(&format!("reserving {bytes} bytes of page-locked memory")))?;
        // SAFETY: so many bytes were given.
        unsafe { at.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { at, bytes })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes were given and written, and the borrow keeps others away; the GPU
        // only reads.
        unsafe { slice::from_raw_parts_mut(self.at.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: nobody else has it, and who dropped it has waited for the GPU.
        let _ = unsafe { result::free_host(self.at) };
    }
}

/// Work captured as a CUDA graph.
pub(super) struct NvidiaGraph {
    executable: sys::CUgraphExec,
    /// What the uploads bring, one after another.
    uploads: Pinned,
    lengths: Vec<usize>,
    /// The end of the last launch.
    done: Event,
    /// The last to go, since everything above is of its context.
    gpu: Arc<Gpu>,
}

// SAFETY: handles of the driver, which takes them on any thread; the memory is the graph's own.
unsafe impl Send for NvidiaGraph {}

impl fmt::Debug for NvidiaGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NvidiaGraph").field("uploads", &self.lengths).finish_non_exhaustive()
    }
}

impl NvidiaGraph {
    /// Some work, captured on a stream of its own.
    ///
    /// # Errors
    /// If the device refuses.
    pub(super) fn new(gpu: &Arc<Gpu>, works: &[Work<'_>]) -> Result<Self> {
        let length = |work: &Work<'_>| match work {
            Work::Upload { bytes, .. } => Some(bytes.len()),
            _ => None,
        };
        let lengths: Vec<usize> = works.iter().filter_map(length).collect();
        let mut uploads = Pinned::new(lengths.iter().sum())?;
        let problem = refused("capturing a graph");
        // A stream of its own: what other threads submit meanwhile is not captured.
        let stream = CaptureStream::new().map_err(&problem)?;
        // SAFETY: the stream lives; other threads may do what they like meanwhile.
        unsafe {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            result::stream::begin_capture(stream.0, mode).map_err(&problem)?;
        }
        let mut room = uploads.bytes();
        let submitted = works.iter().try_for_each(|&work| match work {
            Work::Upload { to, bytes } => {
                let (from, rest) = std::mem::take(&mut room).split_at_mut(bytes.len());
                room = rest;
                gpu.submit(stream.0, Work::Upload { to, bytes: from })
            }
            other => gpu.submit(stream.0, other),
        });
        // SAFETY: the capture has to end, whatever came of it.
        let graph = unsafe { result::stream::end_capture(stream.0) };
        submitted?;
        let graph = graph.map_err(&problem)?;
        // SAFETY: the graph was given just now, and is not needed once there is one to launch.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable.map_err(&problem)?
        };
        let done = Event::new().map_err(&problem)?;
        Ok(Self { executable, uploads, lengths, done, gpu: Arc::clone(gpu) })
    }
}

impl Graph for NvidiaGraph {
    fn launch(&mut self, uploads: &[&[u8]]) -> Result<()> {
        self.gpu.bind()?;
        let lengths = uploads.iter().map(|bytes| bytes.len());
        if !lengths.eq(self.lengths.iter().copied()) {
            return Err(Cuda::problem("a graph is launched with uploads of other lengths"));
        }
        let problem = refused("launching a graph");
        // The last launch may still read what is about to be written; an event that was never
        // recorded is done.
        // SAFETY: the event lives.
        unsafe { result::event::synchronize(self.done.0) }.map_err(&problem)?;
        let mut room = self.uploads.bytes();
        for bytes in uploads {
            let (to, rest) = room.split_at_mut(bytes.len());
            to.copy_from_slice(bytes);
            room = rest;
        }
        // SAFETY: the graph lives; the memory it uses does, as who captured it owes.
        unsafe { result::graph::launch(self.executable, self.gpu.stream) }.map_err(&problem)?;
        self.done.record(self.gpu.stream).map_err(&problem)
    }
}

impl Drop for NvidiaGraph {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: nobody else has the graph; it may be under way, and reads `uploads`.
            unsafe {
                let _ = result::event::synchronize(self.done.0);
                let _ = result::graph::exec_destroy(self.executable);
            }
        }
    }
}

/// A stream to capture on.
struct CaptureStream(sys::CUstream);

impl CaptureStream {
    fn new() -> Result<Self, DriverError> {
        result::stream::create(result::stream::StreamKind::NonBlocking).map(Self)
    }
}

impl Drop for CaptureStream {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        let _ = unsafe { result::stream::destroy(self.0) };
    }
}
