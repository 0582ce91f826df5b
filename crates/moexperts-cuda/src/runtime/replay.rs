//! Work that repeats, captured once.
//!
//! A plan asks for the same work at every step: the same kernels on the same addresses; only what is
//! uploaded changes. Within [`with`], what is submitted is written down. If a second run asks for
//! the same, it is captured as a graph, and from the third run on nothing is submitted until
//! somebody reads: then one launch of the graph does it all. Should a run ask for something else
//! (the keys and values moved, say), what it asked for so far is submitted as it was, and the
//! writing down begins anew: a recording changes when things are done, never what.

use std::{cell::RefCell, mem, sync::Arc};

use moexperts_core::Result;

use crate::{
    driver::{DevicePtr, Driver, Graph, Launch, Work},
    kernels::Module,
};

/// What is known of a plan's work.
#[derive(Debug, Default)]
pub struct Recording {
    works: Vec<Kept>,
    /// All of `works`; none while a second run has not asked for the same.
    graph: Option<Box<dyn Graph>>,
    launches: usize,
}

impl Recording {
    /// Runs whose work was one launch of a graph.
    pub fn graph_launches(&self) -> usize {
        self.launches
    }
}

/// [`Work`] with its bytes.
#[derive(Debug)]
enum Kept {
    Launch {
        module: &'static Module,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        params: Box<[u8]>,
    },
    Upload {
        to: DevicePtr,
        bytes: Vec<u8>,
    },
    Copy {
        from: DevicePtr,
        to: DevicePtr,
        bytes: usize,
    },
    Zero {
        at: DevicePtr,
        bytes: usize,
    },
}

impl Kept {
    fn new(work: Work<'_>) -> Self {
        match work {
            Work::Launch(Launch { module, kernel, grid, threads, shared_bytes, params }) => {
                let params = params.into();
                Self::Launch { module, kernel, grid, threads, shared_bytes, params }
            }
            Work::Upload { to, bytes } => Self::Upload { to, bytes: bytes.to_vec() },
            Work::Copy { from, to, bytes } => Self::Copy { from, to, bytes },
            Work::Zero { at, bytes } => Self::Zero { at, bytes },
        }
    }

    fn work(&self) -> Work<'_> {
        match self {
            Self::Launch { module, kernel, grid, threads, shared_bytes, params } => {
                Work::Launch(Launch {
                    module,
                    kernel,
                    grid: *grid,
                    threads: *threads,
                    shared_bytes: *shared_bytes,
                    params,
                })
            }
            Self::Upload { to, bytes } => Work::Upload { to: *to, bytes },
            Self::Copy { from, to, bytes } => Work::Copy { from: *from, to: *to, bytes: *bytes },
            Self::Zero { at, bytes } => Work::Zero { at: *at, bytes: *bytes },
        }
    }

    /// Whether `work` is this, but for what is uploaded, which is taken over then.
    fn takes(&mut self, work: &Work<'_>) -> bool {
        match (&mut *self, work) {
            (Self::Upload { to, bytes }, Work::Upload { to: other, bytes: new })
                if to == other && bytes.len() == new.len() =>
            {
                bytes.copy_from_slice(new);
                true
            }
            (Self::Upload { .. }, _) => false,
            _ => self.work() == *work,
        }
    }
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Everything is submitted and written down.
    Recording,
    /// So much of what is written down was asked for and submitted again.
    Comparing(usize),
    /// So much was asked for; nothing is submitted yet.
    Holding(usize),
    /// Somebody has read: what follows is submitted, no more.
    Done,
}

/// A run in progress.
struct Run {
    driver: Arc<dyn Driver>,
    recording: Recording,
    stage: Stage,
}

thread_local! {
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

/// Calls `work`, whose submissions on this thread are those of the recording.
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
                // Nobody has read, as after an error: what was asked for is done all the same, and
                // the next run begins anew.
                if run.stage != Stage::Done {
                    let _ = run.submit_held();
                    run.recording.works.clear();
                    run.recording.graph = None;
                }
                *self.0 = run.recording;
            }
        }
    }

    let kept = mem::take(recording);
    let stage = match (&kept.graph, kept.works.len()) {
        (Some(_), _) => Stage::Holding(0),
        (None, 0) => Stage::Recording,
        (None, _) => Stage::Comparing(0),
    };
    let outer = RUN.replace(Some(Run { driver: Arc::clone(driver), recording: kept, stage }));
    debug_assert!(outer.is_none(), "a plan does not run within another");
    let end = End(recording);
    let result = work();
    drop(end);
    result
}

/// Submits some work.
pub(crate) fn submit(driver: &Arc<dyn Driver>, work: Work<'_>) -> Result<()> {
    RUN.with_borrow_mut(|run| match run {
        Some(run) if Arc::ptr_eq(&run.driver, driver) => run.submit(work),
        _ => driver.submit(work),
    })
}

/// Reads after everything before.
pub(crate) fn read(driver: &Arc<dyn Driver>, from: DevicePtr, out: &mut [u8]) -> Result<()> {
    before_reading(driver)?;
    driver.read(from, out)
}

/// Waits for everything before.
pub(crate) fn finish(driver: &Arc<dyn Driver>) -> Result<()> {
    before_reading(driver)?;
    driver.synchronize()
}

fn before_reading(driver: &Arc<dyn Driver>) -> Result<()> {
    RUN.with_borrow_mut(|run| match run {
        Some(run) if Arc::ptr_eq(&run.driver, driver) => run.finish(),
        _ => Ok(()),
    })
}

impl Run {
    fn submit(&mut self, work: Work<'_>) -> Result<()> {
        let works = &mut self.recording.works;
        match &mut self.stage {
            Stage::Done => return self.driver.submit(work),
            Stage::Recording => {}
            Stage::Comparing(done) if works.get_mut(*done).is_some_and(|w| w.takes(&work)) => {
                *done += 1;
                return self.driver.submit(work);
            }
            Stage::Holding(done) if works.get_mut(*done).is_some_and(|w| w.takes(&work)) => {
                *done += 1;
                return Ok(());
            }
            Stage::Comparing(_) | Stage::Holding(_) => self.submit_held()?,
        }
        self.driver.submit(work)?;
        self.recording.works.push(Kept::new(work));
        Ok(())
    }

    /// Submits what is held, and goes on by writing down.
    fn submit_held(&mut self) -> Result<()> {
        let Recording { works, graph, .. } = &mut self.recording;
        if let Stage::Comparing(done) | Stage::Holding(done) = self.stage {
            *graph = None;
            works.truncate(done);
        }
        let holding = matches!(self.stage, Stage::Holding(_));
        self.stage = Stage::Recording;
        if holding {
            works.iter().try_for_each(|kept| self.driver.submit(kept.work()))?;
        }
        Ok(())
    }

    /// Sees to it that everything asked for is submitted.
    fn finish(&mut self) -> Result<()> {
        let asked = self.recording.works.len();
        match self.stage {
            Stage::Holding(done) if done == asked => {
                if let Recording { works, graph: Some(graph), launches } = &mut self.recording {
                    let uploads = works.iter().filter_map(|kept| match kept {
                        Kept::Upload { bytes, .. } => Some(&bytes[..]),
                        _ => None,
                    });
                    graph.launch(&uploads.collect::<Vec<_>>())?;
                    *launches += 1;
                }
            }
            Stage::Comparing(done) if done == asked => {
                let works: Vec<Work<'_>> = self.recording.works.iter().map(Kept::work).collect();
                self.recording.graph = Some(self.driver.capture(&works)?);
            }
            Stage::Comparing(_) | Stage::Holding(_) => self.submit_held()?,
            Stage::Recording | Stage::Done => {}
        }
        self.stage = Stage::Done;
        Ok(())
    }
}
