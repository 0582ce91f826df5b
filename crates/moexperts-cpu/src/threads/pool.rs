//! A pool of threads, and how work is divided among them.

use std::{
    fmt, io,
    ops::Range,
    sync::{Arc, OnceLock},
};

use rayon::prelude::*;

use super::{
    host::HostThreads,
    team::{self, Team},
};

/// A fixed number of threads. Clones share them.
#[derive(Clone)]
pub(crate) struct Threads {
    keeper: Keeper,
    count: usize,
    parts_per_thread: usize,
}

/// How wide the parts of a grid are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grain {
    /// Columns of a part; parts are as wide as several of these.
    pub(crate) columns: usize,
    /// Columns below which parts get no narrower.
    pub(crate) narrowest: usize,
}

/// Whose threads they are.
#[derive(Clone)]
enum Keeper {
    /// A pool's, asleep while there is nothing to do, and a team's, made when it is first needed.
    Own { pool: Arc<rayon::ThreadPool>, team: Arc<OnceLock<Option<Team>>> },
    /// A host's. The team has no threads.
    Host { host: Arc<dyn HostThreads>, team: Arc<Team> },
}

impl Threads {
    /// Starts `count` threads. `parts_per_thread` is the number of parts per thread, at most, that
    /// work is cut into: more than one, so that others take over the work of a thread that is late.
    pub(crate) fn new(
        count: usize,
        parts_per_thread: usize,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        let name = |index| format!("moexperts-{index}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).thread_name(name).build()?;
        // A thread allocates when it first looks for work, and never again.
        pool.broadcast(|_| rayon::yield_now());
        let keeper = Keeper::Own { pool: Arc::new(pool), team: Arc::default() };
        Ok(Self { keeper, count, parts_per_thread })
    }

    /// Computes with `count` threads of a host.
    pub(crate) fn of_host(
        host: Arc<dyn HostThreads>,
        count: usize,
        parts_per_thread: usize,
    ) -> io::Result<Self> {
        let keeper = Keeper::Host { host, team: Arc::new(Team::new(0)?) };
        Ok(Self { keeper, count, parts_per_thread })
    }

    /// The same threads, with work cut into other numbers of parts.
    pub(crate) fn with_parts_per_thread(self, parts_per_thread: usize) -> Self {
        Self { parts_per_thread, ..self }
    }

    /// Parts per thread, at most, that work is cut into.
    pub(crate) fn parts_per_thread(&self) -> usize {
        self.parts_per_thread
    }

    /// The number of the calling thread among those that do the parts of a task, below
    /// [`count`](Self::count).
    pub(crate) fn current(&self) -> usize {
        match (team::follower(), self.led_here(), &self.keeper) {
            (0, None, Keeper::Own { pool, .. }) => pool.current_thread_index().unwrap_or(0),
            (follower, _, _) => follower,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Runs `work` where [`split`](Self::split) starts fastest.
    pub(crate) fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.keeper {
            Keeper::Own { pool, .. } => pool.install(work),
            Keeper::Host { .. } => self.lead(work),
        }
    }

    /// Runs `work`, many short operations, on the calling thread; the others stay awake between
    /// them. Of several callers at a time the first has the threads awake; the others
    /// [`enter`](Self::enter), or compute alone where the threads are a host's.
    pub(crate) fn lead<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if self.count == 1 {
            return work();
        }
        match &self.keeper {
            Keeper::Own { pool, team } => match own_team(team, self.count).and_then(Team::lead) {
                Some(_leader) => work(),
                None => pool.install(work),
            },
            Keeper::Host { host, team } => team.lead_host(&**host, self.count, work),
        }
    }

    /// The team, if the calling thread leads it.
    fn led_here(&self) -> Option<&Team> {
        let team = match &self.keeper {
            Keeper::Own { team, .. } => team.get()?.as_ref()?,
            Keeper::Host { team, .. } => team,
        };
        team.is_led_here().then_some(team)
    }

    /// Calls `work` with ranges that together are `0..items`, each but the last a multiple of
    /// `grain` long. How they are cut must not matter to the result.
    pub(crate) fn split(&self, items: usize, grain: usize, work: impl Fn(Range<usize>) + Sync) {
        let grains = items.div_ceil(grain.max(1));
        let parts = grains.min(self.count() * self.parts_per_thread);
        if self.count() == 1 || parts <= 1 {
            if items > 0 {
                work(0..items);
            }
            return;
        }
        let part = |index: usize| {
            let edge = |index: usize| (grains * index / parts * grain).min(items);
            work(edge(index)..edge(index + 1));
        };
        if let Some(team) = self.led_here() {
            return team.run(parts, &part);
        }
        match &self.keeper {
            Keeper::Own { pool, .. } => {
                pool.install(|| (0..parts).into_par_iter().with_max_len(1).for_each(part));
            }
            Keeper::Host { .. } => self.lead(|| match self.led_here() {
                Some(team) => team.run(parts, &part),
                None => (0..parts).for_each(part),
            }),
        }
    }

    /// [`split`](Self::split) of two dimensions: the columns first, and the items too where
    /// columns of the `narrowest` grain are fewer than the threads can take.
    pub(crate) fn split_grid(
        &self,
        items: usize,
        columns: usize,
        Grain { columns: grain, narrowest }: Grain,
        work: impl Fn(Range<usize>, Range<usize>) + Sync,
    ) {
        let parts = columns.div_ceil(grain.max(1)).clamp(1, self.count() * self.parts_per_thread);
        let bands =
            if grain > narrowest { 1 } else { self.count() * self.parts_per_thread / parts };
        let bands = bands.clamp(1, items.max(1));
        let per_band = items.div_ceil(bands).max(1);
        let bands = items.div_ceil(per_band);
        // One band after the other, each as wide as the columns.
        let width = columns.next_multiple_of(grain.max(1));
        self.split(bands * width, grain, |range| {
            let mut start = range.start;
            while start < range.end {
                let band = start / width;
                let end = range.end.min((band + 1) * width);
                let cut = |place: usize| (place - band * width).min(columns);
                let items = band * per_band..items.min((band + 1) * per_band);
                work(items, cut(start)..cut(end));
                start = end;
            }
        });
    }
}

/// The threads that follow a caller; made when they are first needed.
fn own_team(team: &OnceLock<Option<Team>>, count: usize) -> Option<&Team> {
    let made = team.get_or_init(|| {
        let team = Team::new(count - 1);
        team.inspect_err(|error| tracing::warn!(%error, "no threads that stay awake")).ok()
    });
    made.as_ref()
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("count", &self.count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Calls the work on the calling thread alone.
    #[derive(Debug)]
    struct Alone;

    impl HostThreads for Alone {
        fn together(&self, _: usize, work: &(dyn Fn() + Sync)) {
            work();
        }
    }

    #[test]
    fn the_parts_are_the_whole() {
        let own = (1..=3).map(|count| Threads::new(count, 8).unwrap());
        let host = (1..=3).map(|count| Threads::of_host(Arc::new(Alone), count, 8).unwrap());
        for threads in own.chain(host) {
            for (items, grain) in [(0, 4), (1, 4), (7, 4), (64, 8), (65, 8), (1000, 1)] {
                let parts = Mutex::new(Vec::new());
                threads.split(items, grain, |range| parts.lock().unwrap().push(range));
                let mut parts = parts.into_inner().unwrap();
                parts.sort_by_key(|range| range.start);
                let mut next = 0;
                for range in parts {
                    assert_eq!(range.start, next);
                    assert!(range.len().is_multiple_of(grain) || range.end == items);
                    next = range.end;
                }
                assert_eq!(next, items);
            }
        }
    }
}
