//! One cell: some tokens through one layer, by each backend in turn.

use std::time::{Duration, Instant};

use moexperts::{
    Device, Error, ExpertsBackend, ExpertsCall,
    core::{self, DeviceKind, Experts, Scratch, made},
};
use moexperts_report::mean;

use super::routing::{ExpertChoices, Size};
use crate::{
    args::RoutingKind, backends::Backend, error::BenchError, random::Random, runs::enough,
};

/// Different routings of a cell: few tokens hit other experts each time.
const ROUTINGS: usize = 16;

/// What forwards on a GPU take together, at least, between two looks at the clock: it does them
/// while the host is ahead of it, so that one alone would be the time to start it and to hear of its
/// end.
const GPU_SECONDS: f64 = 1e-3;

/// The most forwards between two looks at the clock.
const MAX_FORWARDS: usize = 1000;

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct LayerCell<'a, D: Device> {
    pub(crate) device: &'a D,
    pub(crate) sets: &'a [Experts<D>],
    pub(crate) backends: &'a [Backend<D>],
    pub(crate) size: Size,
    pub(crate) routing: RoutingKind,
    pub(crate) seed: u64,
    pub(crate) time: Duration,
}

/// What one backend took.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: String,
    /// Of a forward, in each run.
    pub(crate) seconds: Vec<f64>,
    /// The mean over its forwards.
    pub(crate) experts_hit: f64,
    /// (token, expert) pairs of a forward.
    pub(crate) pairs: usize,
}

/// A backend at work.
struct Contestant<'a, D: Device> {
    backend: &'a dyn ExpertsBackend<D>,
    routings: Vec<D::Routing>,
    scratch: Scratch,
    /// Forwards of a run.
    forwards: usize,
    /// Forwards so far, of the runs that count.
    done: usize,
    /// Of each run.
    seconds: Vec<f64>,
}

impl<'a, D: Device> LayerCell<'a, D> {
    pub(crate) fn measure(&self) -> Result<Vec<Measured>, BenchError> {
        let mut random = Random::new(self.seed, &[2, self.size.tokens as u64]);
        let draw = |_| ExpertChoices::random(self.routing, self.size, &mut random);
        let choices: Vec<ExpertChoices> = (0..ROUTINGS).map(draw).collect();
        let hits: Vec<f64> = choices.iter().map(|choices| choices.experts_hit() as f64).collect();
        let hidden = self.sets[0].spec().hidden;
        let tokens = self.size.tokens;
        let x: Vec<f32> = (0..tokens * hidden).map(|_| random.within(1.0)).collect();
        let x =
            made(|out| self.device.load_tensor(tokens, hidden, &x, out)).map_err(Error::from)?;

        let mut contestants = self.contestants(&choices)?;
        self.race(&mut contestants, &x)?;
        let measured = |contestant: Contestant<'_, D>| {
            let forwards = contestant.forwards as f64;
            Measured {
                name: contestant.backend.name().to_owned(),
                experts_hit: mean((0..contestant.done).map(|forward| hits[forward % ROUTINGS])),
                pairs: choices[0].pairs(),
                seconds: contestant.seconds.iter().map(|run| run / forwards).collect(),
            }
        };
        Ok(contestants.into_iter().map(measured).collect())
    }

    /// Each with the same choices, among other experts where there are enough: in its turn it
    /// finds nothing that the one before left in a cache.
    fn contestants(&self, choices: &[ExpertChoices]) -> Result<Vec<Contestant<'a, D>>, BenchError> {
        let contestant = |(index, backend): (usize, &'a Backend<D>)| {
            let by = index * self.size.experts / self.backends.len();
            let routing = |choices: &ExpertChoices| {
                let routing = choices.moved(by).routing()?;
                Ok(self.device.load_routing(routing).map_err(Error::from)?)
            };
            let routings = choices.iter().map(routing);
            Ok(Contestant {
                backend: backend.as_ref(),
                routings: routings.collect::<Result<_, BenchError>>()?,
                scratch: Scratch::default(),
                forwards: 1,
                // What does not count is not the routing that counts first.
                done: ROUTINGS - 1,
                seconds: Vec::new(),
            })
        };
        self.backends.iter().enumerate().map(contestant).collect()
    }

    /// A run of each that does not count, then runs in turn until each has had enough.
    fn race(&self, contestants: &mut [Contestant<'_, D>], x: &D::Tensor) -> Result<(), BenchError> {
        let hidden = self.sets[0].spec().hidden;
        let mut out = D::Tensor::default();
        self.device.reset_tensor(&mut out, self.size.tokens, hidden).map_err(Error::from)?;
        let mut sets = self.sets.iter().cycle();
        let mut run = |contestant: &mut Contestant<'_, D>| {
            contestant.run(self.device, &mut sets, x, &mut out).map_err(Error::from)
        };
        for contestant in &mut *contestants {
            if D::KIND == DeviceKind::Gpu {
                // What is made of each set on first use is made now.
                contestant.forwards = self.sets.len();
                run(contestant)?;
                contestant.forwards = 1;
                let mut seconds = run(contestant)?;
                while let Some(more) = longer(contestant.forwards, seconds) {
                    contestant.forwards = more;
                    seconds = run(contestant)?;
                }
            } else {
                run(contestant)?;
            }
            contestant.done = 0;
        }
        while contestants.iter().any(|contestant| !enough(&contestant.seconds, self.time)) {
            for contestant in &mut *contestants {
                if !enough(&contestant.seconds, self.time) {
                    let seconds = run(contestant)?;
                    contestant.seconds.push(seconds);
                }
            }
        }
        Ok(())
    }
}

/// How many forwards to try on a GPU after some that took some seconds; `None` if that was enough.
fn longer(forwards: usize, seconds: f64) -> Option<usize> {
    if seconds >= GPU_SECONDS || forwards >= MAX_FORWARDS {
        return None;
    }
    // A fifth more than would do if all took as long, and at least one; a quotient too large for a
    // number of this type is the largest there is.
    let wanted = (1.2 * GPU_SECONDS / seconds * forwards as f64).ceil() as usize;
    Some(wanted.clamp(forwards + 1, MAX_FORWARDS))
}

impl<D: Device> Contestant<'_, D> {
    /// Seconds of one run, inside the pool, where a model runs its layers.
    fn run<'e>(
        &mut self,
        device: &D,
        sets: &mut (impl Iterator<Item = &'e Experts<D>> + Send),
        x: &D::Tensor,
        out: &mut D::Tensor,
    ) -> core::Result<f64> {
        let Self { backend, routings, scratch, forwards, done, .. } = self;
        device.enter(|| {
            device.synchronize()?;
            let start = Instant::now();
            for experts in sets.take(*forwards) {
                let routing = &routings[*done % ROUTINGS];
                backend.forward(ExpertsCall { device, experts, x, routing, scratch }, out)?;
                *done += 1;
            }
            device.synchronize()?;
            Ok(start.elapsed().as_secs_f64())
        })
    }
}

#[cfg(test)]
mod tests {
    use moexperts::{Cpu, CpuOptions, Cuda, DType, ExpertsInterface, ExpertsSpec};
    use moexperts_cuda_emulator::{EmulatorOptions, test_devices};

    use super::{super::weights::Weights, *};
    use crate::{free_memory::FreeMemory, hardware::Hardware};

    fn measured<D: Hardware + Device<Experts = D>>(device: &D, free: FreeMemory) -> Vec<Measured> {
        let spec = ExpertsSpec::gated_silu(64, 32, 8, DType::Bf16.into());
        let weights = Weights::random(device, spec, 3, free).unwrap();
        let cell = LayerCell {
            device,
            sets: &weights.sets,
            backends: &ExpertsInterface::all(),
            size: Size { tokens: 3, experts: 8, top_k: 2 },
            routing: RoutingKind::Uniform,
            seed: 1,
            time: Duration::ZERO,
        };
        cell.measure().unwrap()
    }

    #[test]
    fn every_backend_is_measured_on_any_device() {
        let gpu = EmulatorOptions { multiprocessors: 4, ..EmulatorOptions::default() };
        let (_, gpu): (_, Cuda) = test_devices(&[gpu]).pop().unwrap();
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let little = Some(1 << 17);
        let on_gpu = measured(&gpu, FreeMemory { machine: little, own: little });
        let on_cpu = measured(&cpu, FreeMemory { machine: little, own: None });
        for all in [&on_gpu, &on_cpu] {
            let names: Vec<&str> = all.iter().map(|measured| measured.name.as_str()).collect();
            assert_eq!(names, ["eager", "batched_mm", "grouped_mm"]);
            for Measured { name, seconds, experts_hit, pairs } in all {
                assert!(seconds.len() >= 5 && seconds.iter().all(|&run| run > 0.0), "{name}");
                assert!((2.0..=6.0).contains(experts_hit), "{name}: {experts_hit}");
                assert_eq!(*pairs, 6, "{name}");
            }
        }
    }

    #[test]
    fn short_forwards_run_together() {
        for (forwards, seconds, expected) in [
            (1, 1.0, None),
            (1, 1e-3, None),
            (1, 0.9e-3, Some(2)),
            (3, 0.9999e-3, Some(4)),
            (2, 1e-4, Some(24)),
            (10, 1e-9, Some(MAX_FORWARDS)),
            (1, 0.0, Some(MAX_FORWARDS)),
            (MAX_FORWARDS, 1e-4, None),
        ] {
            assert_eq!(longer(forwards, seconds), expected, "{forwards}, {seconds}");
        }
    }
}
