//! The conformance suite catches backends that break its rules, each in one way.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::common::device;
use moexperts_conformance::{Problem, agree, agree_exactly, run, same_bits};
use moexperts_core::{
    Error, Execution, ExpertsBackend, ExpertsCall, ExpertsSpec, Result, Routing, Tensor,
};
use moexperts_cpu::{Cpu, GroupedMm, Isa};

/// A backend that is right but for one thing.
#[derive(Debug)]
struct Broken {
    way: Way,
    calls: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Not,
    AddsToOutput,
    SkipsLastColumn,
    WrapsSentinels,
    DropsLastToken,
    IgnoresNegativeWeights,
    LeaksBetweenRows,
    HidesNan,
    ChangesEveryThirdCall,
    DependsOnScratch,
    DependsOnThreads,
    AcceptsWrongShapes,
    PanicsOnWrongShapes,
    RefusesAndRuns,
    FailsUnannounced,
    OffByOneBit,
    OffByOnePercent,
}

fn broken(way: Way) -> Broken {
    Broken { way, calls: AtomicUsize::new(0) }
}

impl ExpertsBackend<Cpu> for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cpu) -> Result<()> {
        if self.way == Way::RefusesAndRuns && spec.bias {
            return Err(refused("no bias"));
        }
        GroupedMm.check(spec, device)
    }

    fn forward(&self, call: ExpertsCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
        let call_index = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.way == Way::FailsUnannounced && call.x.rows() == 31 {
            return Err(refused("no 31 tokens"));
        }
        let threads = call.device.thread_count();
        let scratch_uses = call.scratch.slot::<usize>();
        *scratch_uses += 1;
        let used = *scratch_uses > 1;
        let before = out.clone();
        let routing = self.wrong_routing(call.routing, call.experts.spec().experts);
        let result = GroupedMm.forward(ExpertsCall { routing: &routing, ..call }, out);
        match (self.way, &result) {
            (Way::AcceptsWrongShapes, _) => return Ok(()),
            (Way::PanicsOnWrongShapes, Err(error)) if !error.to_string().contains("cannot run") => {
                panic!("{error}")
            }
            (_, Err(_)) => return result,
            (_, Ok(())) => {}
        }
        if out.rows() > 0 {
            let flips = match self.way {
                Way::ChangesEveryThirdCall => call_index % 3 == 2,
                Way::DependsOnScratch => used,
                Way::DependsOnThreads => threads == 3,
                Way::OffByOneBit => true,
                _ => false,
            };
            self.spoil(&before, out, flips);
        }
        Ok(())
    }
}

impl Broken {
    fn wrong_routing(&self, routing: &Routing, experts: usize) -> Routing {
        let mut ids = routing.top_k_index().to_vec();
        let mut weights = routing.top_k_weights().to_vec();
        match self.way {
            Way::WrapsSentinels => ids.iter_mut().for_each(|id| *id %= experts as u32),
            Way::IgnoresNegativeWeights => weights.iter_mut().for_each(|w| *w = w.max(0.0)),
            _ => {}
        }
        Routing::new(routing.top_k(), ids, weights).unwrap()
    }

    fn spoil(&self, before: &Tensor, out: &mut Tensor, flips: bool) {
        let (rows, cols) = (out.rows(), out.cols());
        match self.way {
            Way::AddsToOutput => {
                let pairs = out.data_mut().iter_mut().zip(before.data());
                pairs.for_each(|(out, before)| *out += before);
            }
            Way::SkipsLastColumn => {
                out.row_mut(rows - 1)[cols - 1] = before.row(rows - 1)[cols - 1];
            }
            Way::DropsLastToken => out.row_mut(rows - 1).fill(0.0),
            Way::LeaksBetweenRows => {
                let leak = 0.0 * out.row(rows / 2)[0];
                out.data_mut().iter_mut().for_each(|value| *value += leak);
            }
            Way::HidesNan => {
                out.data_mut().iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = 0.0);
            }
            Way::OffByOnePercent => out.data_mut().iter_mut().for_each(|value| *value *= 1.01),
            _ if flips => {
                let value = &mut out.row_mut(rows - 1)[cols - 1];
                *value = f32::from_bits(value.to_bits() ^ 1);
            }
            _ => {}
        }
    }
}

fn refused(problem: &str) -> Error {
    Error::Backend { name: "broken".into(), device: Cpu::NAME, problem: problem.into() }
}

/// The problem the suite finds.
fn problem(way: Way) -> Problem {
    let failure = run(&broken(way), &device(Isa::Portable, 1)).unwrap_err();
    let text = failure.to_string();
    assert!(text.starts_with("experts implementation `broken` on CPU, case `"), "{text}");
    failure.problem
}

#[test]
fn a_backend_that_is_right_passes() {
    run(&broken(Way::Not), &device(Isa::Portable, 1)).unwrap();
}

#[test]
fn wrong_values_are_caught() {
    for way in [
        Way::SkipsLastColumn,
        Way::WrapsSentinels,
        Way::DropsLastToken,
        Way::IgnoresNegativeWeights,
        Way::AddsToOutput,
        Way::OffByOnePercent,
    ] {
        let found = problem(way);
        assert!(matches!(found, Problem::Mismatch(_)), "{way:?}: {found}");
    }
}

#[test]
fn a_nan_that_spreads_or_vanishes_is_caught() {
    for way in [Way::LeaksBetweenRows, Way::HidesNan] {
        let found = problem(way);
        assert!(matches!(found, Problem::NotANumber { .. }), "{way:?}: {found}");
    }
}

#[test]
fn results_that_do_not_repeat_are_caught() {
    for way in [Way::ChangesEveryThirdCall, Way::DependsOnScratch] {
        let found = problem(way);
        assert!(matches!(found, Problem::Differs { .. }), "{way:?}: {found}");
    }
}

#[test]
fn wrong_shapes_have_to_be_errors() {
    let found = problem(Way::AcceptsWrongShapes);
    assert!(matches!(found, Problem::Accepted(_)), "{found}");
    let found = problem(Way::PanicsOnWrongShapes);
    assert!(matches!(found, Problem::Panicked { .. }), "{found}");
}

#[test]
fn check_and_forward_have_to_say_the_same() {
    let found = problem(Way::RefusesAndRuns);
    assert!(matches!(found, Problem::RanRefused(_)), "{found}");
    let found = problem(Way::FailsUnannounced);
    assert!(matches!(found, Problem::Error { .. }), "{found}");
}

#[test]
fn a_result_that_depends_on_the_threads_is_caught() {
    let devices = [1, 2, 3].map(|threads| device(Isa::Portable, threads));
    let failure = same_bits(&broken(Way::DependsOnThreads), &devices).unwrap_err();
    assert!(matches!(failure.problem, Problem::Differs { .. }), "{failure}");
}

#[test]
fn backends_that_disagree_are_caught() {
    let cpu = device(Isa::Portable, 1);
    let with =
        |way| -> [Arc<dyn ExpertsBackend<Cpu>>; 2] { [Arc::new(GroupedMm), Arc::new(broken(way))] };
    agree(&with(Way::Not), &cpu).unwrap();
    let failure = agree_exactly(&with(Way::OffByOneBit), &cpu).unwrap_err();
    assert!(matches!(failure.problem, Problem::Differs { .. }), "{failure}");
    let failure = agree(&with(Way::OffByOnePercent), &cpu).unwrap_err();
    assert!(matches!(failure.problem, Problem::Disagrees { .. }), "{failure}");
}
