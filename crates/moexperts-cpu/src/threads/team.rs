//! Threads that stay awake while one caller needs them again and again.
//!
//! A plan is hundreds of short operations. Waking threads for each, and waking the caller when they
//! are done, takes longer than many of them (bench/record/2026-11-23-kernel-choices-zen3.md). Here
//! the caller itself leads: it does parts of every operation, and the others stay awake until the
//! next one, and for a short time after the last.

use std::{
    cell::Cell,
    hint, io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::host::HostThreads;

/// How often a thread looks for work before it yields the processor: for tens of microseconds,
/// longer than the leader takes between two operations.
const SPINS: usize = 1000;

/// How long a thread stays awake without a leader: longer than a caller takes between two tokens.
const LINGER: Duration = Duration::from_micros(500);

thread_local! {
    /// Its address identifies a thread, at less cost than `thread::current`: no other has it.
    static PLACE: u8 = const { 0 };
    /// The index of this thread in the team; 0 for the leader, and for threads of no team.
    static FOLLOWER: Cell<usize> = const { Cell::new(0) };
}

/// Followers and their threads, which end with this; no threads where they are a host's.
pub(super) struct Team {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// The state that leader and followers share.
#[derive(Default)]
struct Shared {
    /// The address of the leader's `PLACE`; 0 if there is no leader.
    leader: AtomicUsize,
    /// The parts that are left of a task in the lower half, the number of the task in the upper: a
    /// follower that is late cannot take a part of a task it has not seen.
    task: AtomicU64,
    work: AtomicPtr<TeamTask<'static>>,
    /// Whether the leader is in a task.
    busy: AtomicBool,
    /// Followers that have started.
    started: AtomicUsize,
    /// Followers that sleep or are about to.
    asleep: AtomicUsize,
    /// Held to look whether there is a leader before sleeping, and to wake.
    lock: Mutex<()>,
    wake: Condvar,
    closed: AtomicBool,
}

/// Work that the threads divide.
struct TeamTask<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    done: AtomicUsize,
    panicked: AtomicBool,
}

/// The number of this thread among those of the team it follows, from 1 on; 0 for any other.
pub(super) fn follower() -> usize {
    FOLLOWER.get()
}

fn place() -> usize {
    PLACE.with(|place| ptr::from_ref(place) as usize)
}

impl Team {
    /// Starts the threads beside the leader.
    pub(super) fn new(followers: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut team = Self { shared, threads: Vec::with_capacity(followers) };
        for number in 1..=followers {
            let shared = Arc::clone(&team.shared);
            let thread = thread::Builder::new().name(format!("moexperts-team-{number}"));
            team.threads.push(thread.spawn(move || {
                FOLLOWER.set(number);
                shared.started.fetch_add(1, Ordering::Release);
                shared.follow();
            })?);
        }
        // A thread allocates when it starts, and never again.
        while team.shared.started.load(Ordering::Acquire) < followers {
            thread::yield_now();
        }
        Ok(team)
    }

    /// Whether the calling thread leads.
    pub(super) fn is_led_here(&self) -> bool {
        self.shared.leader.load(Ordering::Relaxed) == place()
    }

    /// Makes the calling thread the leader, if there is none.
    pub(super) fn lead(&self) -> Option<Leader<'_>> {
        let Shared { leader, asleep, lock, wake, .. } = &*self.shared;
        leader.compare_exchange(0, place(), Ordering::SeqCst, Ordering::Relaxed).ok()?;
        if asleep.load(Ordering::SeqCst) > 0 {
            drop(lock.lock().unwrap_or_else(PoisonError::into_inner));
            wake.notify_all();
        }
        Some(Leader { team: self })
    }

    /// Runs `work`, with `threads` threads of a host as a team that the calling thread leads;
    /// alone, if another thread leads.
    pub(super) fn lead_host<R: Send>(
        &self,
        host: &dyn HostThreads,
        threads: usize,
        work: impl FnOnce() -> R + Send,
    ) -> R {
        let Some(leader) = self.lead() else { return work() };
        let task = Mutex::new(Some((leader, work)));
        let outcome = Mutex::new(None);
        let numbers = AtomicUsize::new(1);
        host.together(threads, &|| {
            if self.is_led_here() {
                let task = task.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some((leader, work)) = task {
                    // A panic must not unwind through the host's frames.
                    let result = catch_unwind(AssertUnwindSafe(work));
                    drop(leader);
                    *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                }
            } else {
                FOLLOWER.set(numbers.fetch_add(1, Ordering::Relaxed));
                self.shared.follow_leader();
                FOLLOWER.set(0);
            }
        });
        match outcome.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => resume_unwind(panic),
            None => unreachable!("a host calls the work on the calling thread"),
        }
    }

    /// Calls `work` with every number below `parts`, on any of the threads; from within a part, on
    /// the calling thread alone. Only the leader may call this.
    ///
    /// # Panics
    /// If a part does, after all are done.
    pub(super) fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        assert!(self.is_led_here(), "the leader runs tasks");
        if shared.busy.swap(true, Ordering::Relaxed) {
            return (0..parts).for_each(work);
        }
        let task = TeamTask { work, done: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
        // The lifetime is erased: this function returns only after all parts are done.
        let pointer = ptr::from_ref(&task).cast::<TeamTask<'static>>().cast_mut();
        shared.work.store(pointer, Ordering::Relaxed);
        let number = (shared.task.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared.task.store(number << 32 | u64::from(parts as u32), Ordering::Release);
        loop {
            let task = shared.task.load(Ordering::Acquire);
            if task as u32 == 0 {
                break;
            }
            shared.take_part(task);
        }
        let mut idle = 0;
        while task.done.load(Ordering::Acquire) < parts {
            idle += 1;
            if idle < SPINS { hint::spin_loop() } else { thread::yield_now() }
        }
        shared.busy.store(false, Ordering::Relaxed);
        assert!(!task.panicked.load(Ordering::Relaxed), "a part of an operation panicked");
    }
}

impl Shared {
    /// Takes parts of the leader's tasks until the team ends.
    fn follow(&self) {
        let (mut idle, mut since) = (0, None);
        while !self.closed.load(Ordering::Relaxed) {
            if self.take_part(self.task.load(Ordering::Acquire)) {
                (idle, since) = (0, None);
                continue;
            }
            idle += 1;
            if idle < SPINS {
                hint::spin_loop();
            } else if self.leader.load(Ordering::Relaxed) != 0 {
                since = None;
                thread::yield_now();
            } else if since.get_or_insert_with(Instant::now).elapsed() < LINGER {
                thread::yield_now();
            } else {
                self.sleep();
                (idle, since) = (0, None);
            }
        }
    }

    /// Takes parts of the leader's tasks as long as there is a leader.
    fn follow_leader(&self) {
        let mut idle = 0;
        while self.leader.load(Ordering::Acquire) != 0 {
            if self.take_part(self.task.load(Ordering::Acquire)) {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle < SPINS { hint::spin_loop() } else { thread::yield_now() }
        }
    }

    /// Sleeps until there is a leader.
    fn sleep(&self) {
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.leader.load(Ordering::SeqCst) == 0 && !self.closed.load(Ordering::SeqCst) {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// Does the last of the parts that are left of a task; returns whether it could take it.
    fn take_part(&self, task: u64) -> bool {
        let left = task as u32;
        if left == 0 {
            return false;
        }
        let work = self.work.load(Ordering::Relaxed);
        let [taken, not] = [Ordering::Acquire, Ordering::Relaxed];
        if self.task.compare_exchange(task, task - 1, taken, not).is_err() {
            return false;
        }
        // SAFETY: the exchange succeeded, so the number was still that of `task`, and `work`, which
        // is stored before the number, is its task; the leader stays in `run`, where the task
        // lives, until the part that was just taken is done.
        unsafe { TeamTask::part(work, left as usize - 1) };
        true
    }
}

impl TeamTask<'_> {
    /// Does a part. A panic is kept until all parts are done, because they share borrowed data.
    ///
    /// # Safety
    /// The task lives until the part is done. It may be gone before this returns, so no reference
    /// to it may be an argument.
    unsafe fn part(task: *const Self, part: usize) {
        // SAFETY: the part is not done, so the task lives, by this function's contract.
        let (work, panicked) = unsafe { ((*task).work, &(*task).panicked) };
        if catch_unwind(AssertUnwindSafe(|| work(part))).is_err() {
            panicked.store(true, Ordering::Relaxed);
        }
        // SAFETY: the task lives until this addition makes the part done; nothing uses it after.
        unsafe { (*task).done.fetch_add(1, Ordering::Release) };
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        drop(self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A follower does not panic: it keeps the panics of its parts for the leader.
            let _ = thread.join();
        }
    }
}

/// The lead of a team, until it is dropped.
pub(super) struct Leader<'a> {
    team: &'a Team,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.team.shared.leader.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once_with_any_number_of_followers() {
        for followers in 0..=3 {
            let team = Team::new(followers).unwrap();
            for nap in [0, 2] {
                let leader = team.lead().unwrap();
                assert!(team.is_led_here() && team.lead().is_none());
                thread::scope(|scope| {
                    scope.spawn(|| assert!(!team.is_led_here() && team.lead().is_none()));
                });
                for round in 0..2000 {
                    let parts = round % 9;
                    let done = [const { AtomicUsize::new(0) }; 9];
                    team.run(parts, &|part| {
                        assert!(follower() <= followers);
                        done[part].fetch_add(1, Ordering::Relaxed);
                    });
                    for (part, done) in done.iter().enumerate() {
                        assert_eq!(done.load(Ordering::Relaxed), usize::from(part < parts));
                    }
                }
                drop(leader);
                // The second time the followers sleep first.
                thread::sleep(Duration::from_millis(nap));
            }
        }
    }

    /// Makes threads for each call, some of which start late.
    #[derive(Debug)]
    struct Host;

    impl HostThreads for Host {
        fn together(&self, threads: usize, work: &(dyn Fn() + Sync)) {
            thread::scope(|scope| {
                for thread in 1..threads {
                    scope.spawn(move || {
                        thread::sleep(Duration::from_micros(100 * (thread as u64 % 3)));
                        work();
                        assert_eq!(follower(), 0);
                    });
                }
                work();
            });
        }
    }

    #[test]
    fn every_part_is_done_once_by_the_threads_of_a_host() {
        let team = Team::new(0).unwrap();
        for threads in 1..=4 {
            let done = [const { AtomicUsize::new(0) }; 64];
            let sum = team.lead_host(&Host, threads, || {
                for _ in 0..50 {
                    team.run(done.len(), &|part| {
                        assert!(follower() < threads);
                        done[part].fetch_add(1, Ordering::Relaxed);
                    });
                }
                // Another caller computes alone.
                thread::scope(|scope| {
                    scope.spawn(|| team.lead_host(&Host, threads, || assert!(!team.is_led_here())));
                });
                done.iter().map(|done| done.load(Ordering::Relaxed)).sum::<usize>()
            });
            assert_eq!(sum, 50 * done.len());
            assert!(!team.is_led_here());
        }
    }

    #[test]
    fn a_panic_passes_the_host_and_reaches_the_caller() {
        let team = Team::new(0).unwrap();
        for in_a_part in [false, true] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.lead_host(&Host, 2, || {
                    team.run(4, &|part| assert!(!in_a_part || part != 3, "meant"));
                    assert!(in_a_part, "meant");
                });
            }));
            assert!(result.is_err());
        }
        // The team goes on.
        assert_eq!(team.lead_host(&Host, 2, || 5), 5);
    }

    #[test]
    fn a_task_in_a_task_runs_where_it_is() {
        let team = Team::new(2).unwrap();
        let _leader = team.lead().unwrap();
        let done = AtomicUsize::new(0);
        team.run(4, &|_| {
            if team.is_led_here() {
                team.run(3, &|_| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            } else {
                done.fetch_add(3, Ordering::Relaxed);
            }
        });
        assert_eq!(done.load(Ordering::Relaxed), 12);
    }

    #[test]
    fn a_panic_reaches_the_leader_after_all_parts_are_done() {
        let team = Team::new(1).unwrap();
        let _leader = team.lead().unwrap();
        let done = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.run(8, &|part| {
                assert_ne!(part, 3, "meant");
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        assert!(result.is_err());
        assert_eq!(done.load(Ordering::Relaxed), 7);
        // The team goes on.
        team.run(2, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 9);
    }
}
