//! A value for each thread.

use super::pool::Threads;
use crate::shared_rows::SharedRows;

/// Workspaces, one for each thread, kept from call to call.
#[derive(Debug)]
pub(crate) struct PerThread<T>(Vec<T>);

impl<T> Default for PerThread<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Default> PerThread<T> {
    /// The workspaces of these threads, to be used in their parts of a task.
    pub(crate) fn of<'a>(&'a mut self, threads: &'a Threads) -> Workspaces<'a, T> {
        self.all(threads.count());
        Workspaces { all: SharedRows::new(&mut self.0, 1), threads }
    }

    /// The workspaces of at least this number of threads.
    pub(crate) fn all(&mut self, threads: usize) -> &mut [T] {
        self.0.resize_with(threads.max(self.0.len()), T::default);
        &mut self.0
    }
}

/// The workspaces of the threads of a pool, by their numbers.
pub(crate) struct Workspaces<'a, T> {
    all: SharedRows<'a, T>,
    threads: &'a Threads,
}

impl<T> Workspaces<'_, T> {
    /// The workspace of the calling thread.
    ///
    /// # Safety
    /// The caller is a part of [`Threads::split`] on these threads, calls this once, and waits for
    /// no other parallel work while it uses the result: a thread that waits could take another
    /// part.
    #[expect(clippy::mut_from_ref, reason = "each thread has a separate workspace")]
    pub(crate) unsafe fn own(&self) -> &mut T {
        // SAFETY: threads that do parts of a task have different numbers, and a thread does one
        // part at a time, by this function's contract: no other reference to this workspace is in
        // use.
        let [workspace] = (unsafe { self.all.row(self.threads.current()) }) else {
            unreachable!("a row is one workspace")
        };
        workspace
    }
}
