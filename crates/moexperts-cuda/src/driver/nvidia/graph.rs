//! Work captured as a CUDA graph.

use std::{ffi::c_void, fmt, slice, sync::Arc};

use cudarc::driver::{
    result::{self, DriverError},
    sys,
};
use moexperts_core::Result;

use super::{error::refused, event::Event, gpu::Gpu};
use crate::{
    driver::{BorrowedWork, Graph, Work},
    error::problem as device_problem,
};

/// Page-locked memory of the host, which the GPU reads by itself.
#[derive(Debug)]
struct Pinned {
    at: *mut c_void,
    bytes: usize,
}

impl Pinned {
    fn new(bytes: usize) -> Result<Self> {
        // SAFETY: allocates; 0 are the default flags.
        let at = unsafe { result::malloc_host(bytes.max(1), 0) }
            .map_err(refused(&format!("reserving {bytes} bytes of page-locked memory")))?;
        // SAFETY: `malloc_host` returned `bytes` bytes, which nothing else uses yet.
        unsafe { at.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { at, bytes })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `new` allocated and zeroed `bytes` bytes, and `self` is borrowed mutably. The GPU reads
        // them during a launch of the graph, whose end is waited for before they are borrowed again.
        unsafe { slice::from_raw_parts_mut(self.at.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: `self` owns the memory; `NvidiaGraph::drop` has waited for the GPU to read it.
        let _ = unsafe { result::free_host(self.at) };
    }
}

/// Work captured as a CUDA graph.
pub(super) struct NvidiaGraph {
    executable: sys::CUgraphExec,
    /// The bytes of the uploads, one after another.
    uploads: Pinned,
    lengths: Vec<usize>,
    /// The end of the last launch.
    done: Event,
    /// The last field, dropped last: all others belong to its context.
    gpu: Arc<Gpu>,
}

// SAFETY: handles, which the driver takes on any thread, and memory that only this graph accesses.
unsafe impl Send for NvidiaGraph {}

impl fmt::Debug for NvidiaGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NvidiaGraph").field("uploads", &self.lengths).finish_non_exhaustive()
    }
}

impl NvidiaGraph {
    /// Captures some work.
    ///
    /// # Errors
    /// If the device refuses.
    pub(super) fn new(gpu: &Arc<Gpu>, works: &[BorrowedWork<'_>]) -> Result<Self> {
        let length = |work: &BorrowedWork<'_>| match work {
            Work::Upload { bytes, .. } => Some(bytes.len()),
            _ => None,
        };
        let lengths: Vec<usize> = works.iter().filter_map(length).collect();
        let mut uploads = Pinned::new(lengths.iter().sum())?;
        let problem = refused("capturing a graph");
        // A separate stream, so that work that other threads submit meanwhile is not captured.
        let stream = CaptureStream::new().map_err(&problem)?;
        // SAFETY: `stream` exists until this returns. The mode is that of a capture by this thread: calls of
        // other threads are not affected.
        unsafe {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            result::stream::begin_capture(stream.0, mode).map_err(&problem)?;
        }
        let mut left = uploads.bytes();
        let submitted = works.iter().try_for_each(|&work| {
            let work = match work {
                Work::Upload { to, bytes } => {
                    let (from, rest) = std::mem::take(&mut left).split_at_mut(bytes.len());
                    left = rest;
                    BorrowedWork::Upload { to, bytes: from }
                }
                other => other,
            };
            // SAFETY: the stream is captured, so nothing is accessed now; the caller of `launch` promises
            // that the memory is allocated then. `uploads` stays as long as the graph.
            unsafe { gpu.submit(stream.0, work) }
        });
        // SAFETY: the capture was begun on this stream; it has to end even if it failed.
        let graph = unsafe { result::stream::end_capture(stream.0) };
        submitted?;
        let graph = graph.map_err(&problem)?;
        // SAFETY: the graph was captured just now; what is launched does not depend on it any more.
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
    unsafe fn launch(&mut self, uploads: &[&[u8]]) -> Result<()> {
        self.gpu.bind()?;
        let lengths = uploads.iter().map(|bytes| bytes.len());
        if !lengths.eq(self.lengths.iter().copied()) {
            return Err(device_problem("a graph is launched with uploads of other lengths"));
        }
        let problem = refused("launching a graph");
        // The last launch may still read what is about to be written; an event that was never
        // recorded is done.
        // SAFETY: the event exists as long as the graph.
        unsafe { result::event::synchronize(self.done.0) }.map_err(&problem)?;
        let mut left = self.uploads.bytes();
        for bytes in uploads {
            let (to, rest) = left.split_at_mut(bytes.len());
            to.copy_from_slice(bytes);
            left = rest;
        }
        // SAFETY: the executable graph is destroyed when `self` is dropped; the caller promises that the
        // memory it uses is allocated.
        unsafe { result::graph::launch(self.executable, self.gpu.stream) }.map_err(&problem)?;
        self.done.record(self.gpu.stream).map_err(&problem)
    }
}

impl Drop for NvidiaGraph {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: `self` owns the event and the graph, which may still run and read `uploads`: its end is
            // waited for.
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
        // SAFETY: `self` owns the stream.
        let _ = unsafe { result::stream::destroy(self.0) };
    }
}
