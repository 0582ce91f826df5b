//! Work that repeats is captured once.
//!
//! A plan submits the same work at every step: the same kernels on the same addresses; only the
//! uploaded bytes change. Within [`with`], submitted work is recorded. If a second run submits the
//! same, it is captured as a graph, and from the third run on nothing is submitted until something is
//! read: then one launch of the graph does it all. If a run submits something else (the keys and
//! values moved, say), its work so far is submitted as it was, and recording starts over: a recording
//! changes when work is done, never which.

use std::{cell::RefCell, mem, sync::Arc};

use moexperts_core::Result;

use crate::driver::{BorrowedWork, DevicePtr, Driver, Graph, OwnedWork};

/// The work of a plan, as far as it is known.
#[derive(Debug, Default)]
pub struct Recording {
    works: Vec<OwnedWork>,
    /// All of `works`; `None` until a second run has submitted the same.
    graph: Option<Box<dyn Graph>>,
    launches: usize,
}

impl Recording {
    /// Number of runs whose work was one launch of a graph.
    pub fn graph_launches(&self) -> usize {
        self.launches
    }
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Everything is submitted and recorded.
    Recording,
    /// This many recorded works came again, and were submitted again.
    Comparing(usize),
    /// This many recorded works came again; nothing is submitted yet.
    Holding(usize),
    /// Something was read: what follows is submitted and not recorded.
    Done,
}

/// A run of a plan.
struct Run {
    driver: Arc<dyn Driver>,
    recording: Recording,
    progress: Progress,
}

thread_local! {
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

/// Calls `work`, whose submissions on this thread are recorded or replayed.
pub(crate) fn with<R>(
    driver: &Arc<dyn Driver>,
    recording: &mut Recording,
    work: impl FnOnce() -> R,
) -> R {
    /// Ends the run however `work` ends.
    struct End<'a>(&'a mut Recording);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            if let Some(mut run) = RUN.take() {
                // Nothing was read, as after an error: the work is done all the same, and the next run
                // is recorded anew.
                if run.progress != Progress::Done {
                    let _ = run.submit_held();
                    run.recording.works.clear();
                    run.recording.graph = None;
                }
                *self.0 = run.recording;
            }
        }
    }

    let recorded = mem::take(recording);
    let progress = match (&recorded.graph, recorded.works.len()) {
        (Some(_), _) => Progress::Holding(0),
        (None, 0) => Progress::Recording,
        (None, _) => Progress::Comparing(0),
    };
    let run = Run { driver: Arc::clone(driver), recording: recorded, progress };
    let outer = RUN.replace(Some(run));
    debug_assert!(outer.is_none(), "a plan does not run within another");
    let end = End(recording);
    let result = work();
    drop(end);
    result
}

/// Calls `work` with the run of this thread, if there is one on this driver.
fn with_run<R>(driver: &Arc<dyn Driver>, work: impl FnOnce(Option<&mut Run>) -> R) -> R {
    RUN.with_borrow_mut(|run| work(run.as_mut().filter(|run| Arc::ptr_eq(&run.driver, driver))))
}

/// Submits some work, or holds it until something is read.
///
/// # Safety
/// What [`Driver::submit`] requires, until the work is done or memory that it uses is given to [`free`].
pub(crate) unsafe fn submit(driver: &Arc<dyn Driver>, work: BorrowedWork<'_>) -> Result<()> {
    with_run(driver, |run| match run {
        Some(run) => run.submit(work),
        // SAFETY: the caller promises what the driver requires.
        None => unsafe { driver.submit(work) },
    })
}

/// Frees memory after the work submitted so far, also that which is held.
///
/// # Safety
/// What [`Driver::free`] requires.
pub(crate) unsafe fn free(driver: &Arc<dyn Driver>, ptr: DevicePtr) {
    // Work that is held may use the memory, and would be done after it is freed. An error is not lost:
    // the device reports it again at the next call. A thread that ends has no run any more.
    let _ = RUN.try_with(|run| match &mut *run.borrow_mut() {
        Some(run) if Arc::ptr_eq(&run.driver, driver) && run.holds_work() => run.submit_held(),
        _ => Ok(()),
    });
    // SAFETY: the caller promises what the driver requires; no held work is left.
    unsafe { driver.free(ptr) }
}

/// Reads after all work submitted before.
///
/// # Safety
/// What [`Driver::read`] requires.
pub(crate) unsafe fn read(driver: &Arc<dyn Driver>, from: DevicePtr, out: &mut [u8]) -> Result<()> {
    before_reading(driver)?;
    // SAFETY: the caller promises what the driver requires.
    unsafe { driver.read(from, out) }
}

/// Waits for all work submitted before.
pub(crate) fn finish(driver: &Arc<dyn Driver>) -> Result<()> {
    before_reading(driver)?;
    driver.synchronize()
}

fn before_reading(driver: &Arc<dyn Driver>) -> Result<()> {
    with_run(driver, |run| run.map_or(Ok(()), Run::finish))
}

impl Run {
    /// Whether work came that is not submitted yet.
    fn holds_work(&self) -> bool {
        matches!(self.progress, Progress::Holding(1..))
    }

    fn submit(&mut self, work: BorrowedWork<'_>) -> Result<()> {
        let works = &mut self.recording.works;
        let mut comes_again = |done: usize| {
            works.get_mut(done).is_some_and(|recorded| recorded.replace_upload(&work))
        };
        match &mut self.progress {
            Progress::Done => return self.submit_now(work),
            Progress::Recording => {}
            Progress::Comparing(done) if comes_again(*done) => {
                *done += 1;
                return self.submit_now(work);
            }
            Progress::Holding(done) if comes_again(*done) => {
                *done += 1;
                return Ok(());
            }
            Progress::Comparing(_) | Progress::Holding(_) => self.submit_held()?,
        }
        self.submit_now(work)?;
        self.recording.works.push(work.to_owned());
        Ok(())
    }

    fn submit_now(&self, work: BorrowedWork<'_>) -> Result<()> {
        // SAFETY: `submit` of this module was called with this work, and its caller promised what the
        // driver requires, until memory is given to `free`, which submits held work first.
        unsafe { self.driver.submit(work) }
    }

    /// Submits the work that is held, and continues by recording.
    fn submit_held(&mut self) -> Result<()> {
        let progress = mem::replace(&mut self.progress, Progress::Recording);
        if let Progress::Comparing(done) | Progress::Holding(done) = progress {
            self.recording.graph = None;
            self.recording.works.truncate(done);
        }
        if matches!(progress, Progress::Holding(_)) {
            self.recording.works.iter().try_for_each(|work| self.submit_now(work.borrowed()))?;
        }
        Ok(())
    }

    /// Makes sure that all work that came is submitted.
    fn finish(&mut self) -> Result<()> {
        let recorded = self.recording.works.len();
        match self.progress {
            Progress::Holding(done) if done == recorded => self.launch_graph()?,
            Progress::Comparing(done) if done == recorded => {
                let works = self.recording.works.iter().map(OwnedWork::borrowed);
                let works: Vec<BorrowedWork<'_>> = works.collect();
                self.recording.graph = Some(self.driver.capture(&works)?);
            }
            Progress::Comparing(_) | Progress::Holding(_) => self.submit_held()?,
            Progress::Recording | Progress::Done => {}
        }
        self.progress = Progress::Done;
        Ok(())
    }

    fn launch_graph(&mut self) -> Result<()> {
        let Recording { works, graph, launches } = &mut self.recording;
        if let Some(graph) = graph {
            let uploads: Vec<&[u8]> = works.iter().filter_map(OwnedWork::upload).collect();
            // SAFETY: all of this work came again in this run, and its callers promised that the memory
            // is allocated until it is given to `free`, which ends holding first.
            unsafe { graph.launch(&uploads) }?;
            *launches += 1;
        }
        Ok(())
    }
}
