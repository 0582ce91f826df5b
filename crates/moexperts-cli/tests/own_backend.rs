//! A program with backends of its own: they take part in a sweep by their names.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{process::ExitCode, sync::Arc, thread::sleep, time::Duration};

use moexperts::{
    Cpu, Execution, ExpertsBackend, ExpertsCall, ExpertsInterface, ExpertsSpec,
    core::{Error, Result, Tensor},
};
use moexperts_report::Results;

/// `eager` by another name, for few tokens or for no model at all.
#[derive(Debug)]
struct Own {
    name: &'static str,
    most_tokens: usize,
    /// How long it takes to make what it keeps for a layer.
    making: Duration,
    inner: Arc<dyn ExpertsBackend<Cpu>>,
}

impl Own {
    fn new(name: &'static str, most_tokens: usize, making: Duration) -> Self {
        Self { name, most_tokens, making, inner: ExpertsInterface::get("eager").unwrap() }
    }

    fn refused(&self, reason: &str) -> Error {
        Error::Backend { name: self.name.to_owned(), device: Cpu::NAME, problem: reason.to_owned() }
    }
}

impl ExpertsBackend<Cpu> for Own {
    fn name(&self) -> &str {
        self.name
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cpu) -> Result<()> {
        if self.most_tokens == 0 {
            Err(self.refused("it runs nothing"))
        } else {
            self.inner.check(spec, device)
        }
    }

    fn forward(&self, call: ExpertsCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
        if call.x.rows() > self.most_tokens {
            return Err(self.refused("too many tokens"));
        }
        if !self.making.is_zero() {
            call.experts.cache().get_or_try_make(|| {
                sleep(self.making);
                Ok::<_, Error>((Layout, 1))
            })?;
        }
        self.inner.forward(call, out)
    }
}

/// What takes long to make, and is kept for a layer.
struct Layout;

#[test]
fn registered_backends_are_measured_and_those_that_cannot_are_listed() {
    let making = Duration::from_millis(500);
    let own = [
        Own::new("mine", usize::MAX, making),
        Own::new("small", 5, Duration::ZERO),
        Own::new("none", 0, Duration::ZERO),
    ];
    for own in own {
        ExpertsInterface::register(own).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let words = ["moexperts", "bench", "sweep", "--device", "cpu", "--batch", "1", "--seq", "4,8"];
    let rest = ["--new-tokens", "2", "--repetitions", "1", "--out", out];
    let words = [&words[..], &rest].concat();
    assert_eq!(moexperts_cli::run_from(&words), ExitCode::SUCCESS);
    let read = || Results::read(&folder.path().join("results.json")).unwrap();
    let results = read();
    assert_eq!(results.command, words.join(" "));
    let cells = results.cells.iter().map(|cell| (cell.key.sequence, &*cell.key.implementation));
    let expected = [
        (4, "eager"),
        (4, "batched_mm"),
        (4, "grouped_mm"),
        (4, "mine"),
        (4, "small"),
        (8, "eager"),
        (8, "batched_mm"),
        (8, "grouped_mm"),
        (8, "mine"),
    ];
    assert_eq!(cells.collect::<Vec<_>>(), expected);
    assert_eq!((results.planned, results.complete_cells()), (9, 9));
    for cell in results.cells.iter().filter(|cell| cell.key.implementation == "mine") {
        let ms = cell.generation_ms[0];
        assert!(
            ms < 1e3 * making.as_secs_f64(),
            "what is kept is not made in a timed run: {ms} ms"
        );
    }
    let skipped = results.skipped.iter().map(|skipped| {
        (skipped.sequence, skipped.implementation.as_deref().unwrap(), &*skipped.reason)
    });
    let skipped: Vec<_> = skipped.collect();
    assert_eq!((skipped[0].0, skipped[0].1), (None, "none"));
    assert!(skipped[0].2.contains("it runs nothing"), "{skipped:?}");
    assert_eq!((skipped[1].0, skipped[1].1), (Some(8), "small"));
    assert!(skipped[1].2.contains("too many tokens"), "{skipped:?}");
    assert_eq!(skipped.len(), 2);

    // What failed fails again, and nothing else is measured.
    let again = moexperts_cli::run_from(words.iter().chain(&["--resume"]));
    assert_eq!(again, ExitCode::SUCCESS);
    let again = read();
    assert_eq!((&again.cells, &again.skipped), (&results.cells, &results.skipped));
    assert_eq!((again.planned, again.complete_cells()), (9, 9));
}
