//! A program with additional backends: they take part in a sweep by their names. They are registered
//! in this process; the other tests run the program in processes that do not have them.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex},
};

use moexperts::{
    Cpu, ExpertsBackend, ExpertsCall, ExpertsInterface, ExpertsSpec,
    core::{Error, Execution as _, Result, Tensor},
};
use moexperts_report::Results;

/// `eager` by another name, for few tokens or for no model at all.
#[derive(Debug)]
struct Own {
    name: &'static str,
    most_tokens: usize,
    /// Whether it keeps something for a layer.
    keeps: bool,
    inner: Arc<dyn ExpertsBackend<Cpu>>,
}

impl Own {
    fn new(name: &'static str, most_tokens: usize, keeps: bool) -> Self {
        Self { name, most_tokens, keeps, inner: ExpertsInterface::get("eager").unwrap() }
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
        if self.keeps {
            let mut made = false;
            call.experts.cache().get_or_try_make(|| {
                made = true;
                Ok::<_, Error>((Layout, 1))
            })?;
            MADE.lock().unwrap().push(made);
        }
        self.inner.forward(call, out)
    }
}

/// What is kept for a layer.
struct Layout;

/// Of each forward of the backend that keeps something, whether it had to be made.
static MADE: Mutex<Vec<bool>> = Mutex::new(Vec::new());

#[test]
fn registered_backends_are_measured_and_those_that_cannot_are_listed() {
    let own = [
        Own::new("mine", usize::MAX, true),
        Own::new("small", 5, false),
        Own::new("none", 0, false),
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
    // What is kept is not made in a timed run, which is the last and has a prefill and a decode step.
    let made = MADE.lock().unwrap().clone();
    let layers = made.iter().take_while(|&&made| made).count();
    let timed = &made[made.len() - 2 * layers..];
    assert!(layers > 0 && timed.iter().all(|&made| !made), "{made:?}");
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
