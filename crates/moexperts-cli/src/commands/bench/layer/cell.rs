//! One cell: some tokens through one layer, by each backend in turn.

use std::time::{Duration, Instant};

use moexperts::{
    Cpu, Device as _, Error, ExpertsBackend, ExpertsCall,
    core::{Experts, Routing, Scratch, Tensor},
};

use super::{
    super::{backends::Backend, random::Random, runs::enough, statistics::mean},
    routing::{Choices, Size},
};
use crate::{args::RoutingKind, error::CliError};

/// Different routings of a cell: few tokens hit other experts each time.
const ROUTINGS: usize = 16;

/// What is to be measured.
#[derive(Debug)]
pub(super) struct Cell<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) sets: &'a [Experts<Cpu>],
    pub(super) backends: &'a [Backend],
    pub(super) size: Size,
    pub(super) routing: RoutingKind,
    pub(super) seed: u64,
    pub(super) time: Duration,
}

/// What one backend took.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) seconds: Vec<f64>,
    /// The mean over its runs.
    pub(super) experts_hit: f64,
    /// (token, expert) pairs of a run.
    pub(super) pairs: usize,
}

/// A backend at work.
struct Contestant<'a> {
    backend: &'a dyn ExpertsBackend<Cpu>,
    routings: Vec<Routing>,
    scratch: Scratch,
    seconds: Vec<f64>,
}

impl<'a> Cell<'a> {
    pub(super) fn measure(&self) -> Result<Vec<Measured>, CliError> {
        let mut random = Random::new(self.seed, &[2, self.size.tokens as u64]);
        let draw = |_| Choices::random(self.routing, self.size, &mut random);
        let choices: Vec<Choices> = (0..ROUTINGS).map(draw).collect();
        let hits: Vec<f64> = choices.iter().map(|choices| choices.experts_hit() as f64).collect();
        let hidden = self.sets[0].spec().hidden;
        let x = (0..self.size.tokens * hidden).map(|_| random.within(1.0)).collect();
        let x = Tensor::from_vec(self.size.tokens, hidden, x).map_err(Error::from)?;

        let mut contestants = self.contestants(&choices)?;
        self.race(&mut contestants, &x)?;
        let measured = |contestant: Contestant<'_>| Measured {
            name: contestant.backend.name().to_owned(),
            experts_hit: mean((0..contestant.seconds.len()).map(|run| hits[run % ROUTINGS])),
            pairs: choices[0].pairs(),
            seconds: contestant.seconds,
        };
        Ok(contestants.into_iter().map(measured).collect())
    }

    /// Each with the same choices, among experts of its own where there are enough: in its turn it
    /// finds nothing that the one before left in a cache.
    fn contestants(&self, choices: &[Choices]) -> Result<Vec<Contestant<'a>>, CliError> {
        let contestant = |(index, backend): (usize, &'a Backend)| {
            let by = index * self.size.experts / self.backends.len();
            let routings = choices.iter().map(|choices| choices.moved(by).routing());
            Ok(Contestant {
                backend: backend.as_ref(),
                routings: routings.collect::<Result<_, CliError>>()?,
                scratch: Scratch::default(),
                seconds: Vec::new(),
            })
        };
        self.backends.iter().enumerate().map(contestant).collect()
    }

    /// A run of each that does not count, then runs in turn until each has had enough.
    fn race(&self, contestants: &mut [Contestant<'_>], x: &Tensor) -> Result<(), CliError> {
        let mut out = Tensor::zeros(x.rows(), x.cols());
        let mut sets = self.sets.iter().cycle();
        let mut run = |contestant: &mut Contestant<'_>, routing: usize| {
            let experts = sets.next().expect("there is a set");
            contestant.run(self.cpu, experts, x, routing, &mut out)
        };
        for contestant in &mut *contestants {
            run(contestant, ROUTINGS - 1)?;
        }
        while contestants.iter().any(|contestant| !enough(&contestant.seconds, self.time)) {
            for contestant in &mut *contestants {
                if !enough(&contestant.seconds, self.time) {
                    let seconds = run(contestant, contestant.seconds.len() % ROUTINGS)?;
                    contestant.seconds.push(seconds);
                }
            }
        }
        Ok(())
    }
}

impl Contestant<'_> {
    /// Seconds of one run, inside the pool, where a model runs its layers.
    fn run(
        &mut self,
        device: &Cpu,
        experts: &Experts<Cpu>,
        x: &Tensor,
        routing: usize,
        out: &mut Tensor,
    ) -> Result<f64, CliError> {
        let (routing, scratch) = (&self.routings[routing], &mut self.scratch);
        let seconds = device.enter(|| {
            let start = Instant::now();
            self.backend.forward(ExpertsCall { device, experts, x, routing, scratch }, out)?;
            Ok(start.elapsed().as_secs_f64())
        });
        Ok(seconds.map_err(|error: moexperts::core::Error| Error::from(error))?)
    }
}
