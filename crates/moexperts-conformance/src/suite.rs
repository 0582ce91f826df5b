//! The checks of experts backends.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use moexperts_core::{
    Activation, Device, Error, Experts, ExpertsBackend, ExpertsCall, Result as CoreResult, Routing,
    Scratch, made, reference,
};

use crate::{
    case::Case,
    cases::cases,
    layer::Layer,
    report::{Failure, Outcome, Problem, Refusal, Report},
    tolerance::{Mismatch, Tolerance},
};

/// Runs every case.
///
/// # Errors
/// The first case that does not pass.
pub fn run<D: Device>(backend: &dyn ExpertsBackend<D>, device: &D) -> Result<Report, Failure> {
    let mut report = Report::default();
    for prepared in prepared() {
        let outcome = check(backend, device, prepared)
            .map_err(|problem| failure(backend, &prepared.case, problem))?;
        add(&mut report, backend, prepared, outcome);
    }
    Ok(report)
}

/// Runs one case.
///
/// - The result is the reference's within the [`Tolerance`], whatever `out` held before.
/// - It repeats bit for bit, with the same [`Scratch`] and with a fresh one.
/// - Hidden states and routing are not changed.
/// - A NaN in one token's hidden states stays in its row, and is not lost in a smooth activation.
/// - Wrong shapes are errors.
/// - What `check` refuses, `forward` refuses.
/// - Nothing panics.
///
/// # Errors
/// The first of these that does not hold.
pub fn check_case<D: Device>(
    backend: &dyn ExpertsBackend<D>,
    device: &D,
    case: &Case,
) -> Result<Outcome, Failure> {
    check(backend, device, &Prepared::new(case.clone()))
        .map_err(|problem| failure(backend, case, problem))
}

/// Runs every case on each device and compares the bits: devices of one kind that differ in the
/// number of threads.
///
/// # Errors
/// The first case whose results differ, or that fails to run.
pub fn same_bits<D: Device>(
    backend: &dyn ExpertsBackend<D>,
    devices: &[D],
) -> Result<Report, Failure> {
    let mut report = Report::default();
    for prepared in prepared() {
        let outcome = same_on(backend, devices, prepared)
            .map_err(|problem| failure(backend, &prepared.case, problem))?;
        add(&mut report, backend, prepared, outcome);
    }
    Ok(report)
}

/// Runs every case on each backend: no two are further apart than twice the allowance. A case that
/// some backend refuses is compared among the others.
///
/// # Errors
/// The first case on which two backends disagree, or that fails to run.
pub fn agree<D: Device>(
    backends: &[Arc<dyn ExpertsBackend<D>>],
    device: &D,
) -> Result<Report, Failure> {
    compare_backends(backends, device, |prepared, with, first, second| {
        if !prepared.case.has_reference() {
            return Ok(());
        }
        let expected: Vec<f64> = first.iter().map(|&value| f64::from(value)).collect();
        let twice: Vec<f64> = prepared.allowance.iter().map(|allowed| 2.0 * allowed).collect();
        Mismatch::find(second, &expected, &twice, prepared.hidden())
            .map_err(|mismatch| Problem::Disagrees { with: with.to_owned(), mismatch })
    })
}

/// Like [`agree`], for backends that promise each other's bits.
///
/// # Errors
/// The first case on which two backends differ, or that fails to run.
pub fn agree_exactly<D: Device>(
    backends: &[Arc<dyn ExpertsBackend<D>>],
    device: &D,
) -> Result<Report, Failure> {
    compare_backends(backends, device, |prepared, with, first, second| {
        same(&format!("`{with}` and this backend"), first, second, prepared.hidden())
    })
}

/// A case with its expected results.
struct Prepared {
    case: Case,
    layer: Layer,
    /// [T, H]; empty where there is no reference.
    expected: Vec<f64>,
    /// [T, H]; empty where there is no reference.
    allowance: Vec<f64>,
}

impl Prepared {
    fn new(case: Case) -> Self {
        let layer = Layer::new(&case);
        let (mut expected, mut allowance) = (Vec::new(), Vec::new());
        if case.has_reference() {
            let Layer { experts, x, routing } = &layer;
            let activation = case.spec.activation;
            expected = reference::experts(experts, activation, x, routing);
            allowance = Tolerance::new(case.spec.format).experts(experts, activation, x, routing);
        }
        Self { case, layer, expected, allowance }
    }

    fn hidden(&self) -> usize {
        self.case.spec.hidden
    }
}

/// The cases with their expected results, computed once for all backends.
fn prepared() -> &'static [Prepared] {
    static PREPARED: OnceLock<Vec<Prepared>> = OnceLock::new();
    PREPARED.get_or_init(|| cases().into_iter().map(Prepared::new).collect())
}

fn check<D: Device>(
    backend: &dyn ExpertsBackend<D>,
    device: &D,
    prepared: &Prepared,
) -> Result<Outcome, Problem> {
    let setup = Setup::new(backend, device, prepared)?;
    if let Some(reason) = setup.refusal()? {
        return setup.stays_refused(reason);
    }
    let mut scratch = Scratch::default();
    let first = setup.output("the first call", &setup.x, f32::NAN, &mut scratch)?;
    if prepared.case.has_reference() {
        Mismatch::find(&first, &prepared.expected, &prepared.allowance, prepared.hidden())
            .map_err(Problem::Mismatch)?;
    }
    let hidden = prepared.hidden();
    let again = setup.output("the second call", &setup.x, 1e30, &mut scratch)?;
    same("the first call and the second", &first, &again, hidden)?;
    let fresh = setup.output("a call", &setup.x, -1.0, &mut Scratch::default())?;
    same("the first call and one with a fresh scratch", &first, &fresh, hidden)?;
    setup.keeps_its_inputs()?;
    setup.keeps_a_nan_in_its_row(&first, &mut scratch)?;
    setup.refuses_wrong_shapes()?;
    Ok(Outcome::Passed)
}

fn same_on<D: Device>(
    backend: &dyn ExpertsBackend<D>,
    devices: &[D],
    prepared: &Prepared,
) -> Result<Outcome, Problem> {
    let mut first: Option<Vec<f32>> = None;
    for (index, device) in devices.iter().enumerate() {
        let values = match run_once(backend, device, prepared)? {
            Ok(values) => values,
            Err(reason) => return Ok(Outcome::Refused(reason)),
        };
        let first = first.get_or_insert_with(|| values.clone());
        same(&format!("device 0 and device {index}"), first, &values, prepared.hidden())?;
    }
    Ok(Outcome::Passed)
}

fn compare_backends<D: Device>(
    backends: &[Arc<dyn ExpertsBackend<D>>],
    device: &D,
    compare: impl Fn(&Prepared, &str, &[f32], &[f32]) -> Result<(), Problem>,
) -> Result<Report, Failure> {
    let mut report = Report::default();
    for prepared in prepared() {
        let mut outputs: Vec<(&str, Vec<f32>)> = Vec::new();
        for backend in backends {
            let failed = |problem| failure(&**backend, &prepared.case, problem);
            match run_once(&**backend, device, prepared).map_err(failed)? {
                Err(reason) => {
                    add(&mut report, &**backend, prepared, Outcome::Refused(reason));
                }
                Ok(values) => {
                    for (with, other) in &outputs {
                        compare(prepared, with, other, &values).map_err(failed)?;
                    }
                    outputs.push((backend.name(), values));
                }
            }
        }
        report.passed += usize::from(outputs.len() > 1);
    }
    Ok(report)
}

/// The output of a case, or why the backend refuses it.
fn run_once<D: Device>(
    backend: &dyn ExpertsBackend<D>,
    device: &D,
    prepared: &Prepared,
) -> Result<Result<Vec<f32>, String>, Problem> {
    let setup = Setup::new(backend, device, prepared)?;
    match setup.refusal()? {
        Some(reason) => Ok(Err(reason)),
        None => setup.output("a call", &setup.x, f32::NAN, &mut Scratch::default()).map(Ok),
    }
}

/// A case on a device.
struct Setup<'a, D: Device> {
    backend: &'a dyn ExpertsBackend<D>,
    device: &'a D,
    prepared: &'a Prepared,
    experts: Experts<D>,
    x: D::Tensor,
    routing: D::Routing,
}

impl<'a, D: Device> Setup<'a, D> {
    fn new(
        backend: &'a dyn ExpertsBackend<D>,
        device: &'a D,
        prepared: &'a Prepared,
    ) -> Result<Self, Problem> {
        let Prepared { case, layer, .. } = prepared;
        guarded("loading", || {
            let experts = Experts::load(device, case.spec, layer.experts.clone())?;
            let (hidden, values) = (prepared.hidden(), layer.x.data());
            let x = made(|out| device.load_tensor(case.tokens, hidden, values, out))?;
            let routing = device.load_routing(layer.routing.clone())?;
            Ok(Self { backend, device, prepared, experts, x, routing })
        })?
        .map_err(failed("loading"))
    }

    /// Calls `forward`; the inner result is its own.
    fn forward(
        &self,
        what: &str,
        (x, routing): (&D::Tensor, &D::Routing),
        out: &mut D::Tensor,
        scratch: &mut Scratch,
    ) -> Result<CoreResult<()>, Problem> {
        let Self { backend, device, ref experts, .. } = *self;
        let call = ExpertsCall { device, experts, x, routing, scratch };
        guarded(what, || backend.forward(call, out))
    }

    /// The result of a call that has to succeed, into an output full of `fill`.
    fn output(
        &self,
        what: &str,
        x: &D::Tensor,
        fill: f32,
        scratch: &mut Scratch,
    ) -> Result<Vec<f32>, Problem> {
        let mut out = self.tensor(self.prepared.case.tokens, self.prepared.hidden(), fill)?;
        self.forward(what, (x, &self.routing), &mut out, scratch)?.map_err(failed(what))?;
        made(|values| self.device.read_tensor(&out, values)).map_err(failed("reading the output"))
    }

    fn tensor(&self, rows: usize, cols: usize, fill: f32) -> Result<D::Tensor, Problem> {
        let values = vec![fill; rows * cols];
        made(|out| self.device.load_tensor(rows, cols, &values, out))
            .map_err(failed("loading a tensor"))
    }

    /// Why `check` refuses the case, if it does.
    fn refusal(&self) -> Result<Option<String>, Problem> {
        let spec = &self.prepared.case.spec;
        let checked = guarded("`check`", || self.backend.check(spec, self.device))?;
        Ok(checked.err().map(|error| error.to_string()))
    }

    fn stays_refused(&self, reason: String) -> Result<Outcome, Problem> {
        let mut out = self.tensor(self.prepared.case.tokens, self.prepared.hidden(), 0.0)?;
        let inputs = (&self.x, &self.routing);
        let scratch = &mut Scratch::default();
        match self.forward("a call that `check` refuses", inputs, &mut out, scratch)? {
            Ok(()) => Err(Problem::RanRefused(reason)),
            Err(_) => Ok(Outcome::Refused(reason)),
        }
    }

    fn keeps_its_inputs(&self) -> Result<(), Problem> {
        let Layer { x, routing, .. } = &self.prepared.layer;
        let read = made(|values| self.device.read_tensor(&self.x, values))
            .map_err(failed("reading the hidden states"))?;
        if !read.iter().map(|value| value.to_bits()).eq(x.data().iter().map(|x| x.to_bits())) {
            return Err(Problem::Changed("hidden_states"));
        }
        let read =
            self.device.read_routing(&self.routing).map_err(failed("reading the routing"))?;
        if read == *routing { Ok(()) } else { Err(Problem::Changed("the routing")) }
    }

    /// Makes the last value of one token NaN: only its row may change, and where nothing clamps,
    /// an expert that counts makes all of it NaN.
    fn keeps_a_nan_in_its_row(&self, clean: &[f32], scratch: &mut Scratch) -> Result<(), Problem> {
        let Prepared { case, layer, .. } = self.prepared;
        let (tokens, hidden, token) = (case.tokens, self.prepared.hidden(), case.tokens / 2);
        if tokens == 0 {
            return Ok(());
        }
        let mut values = layer.x.data().to_vec();
        values[(token + 1) * hidden - 1] = f32::NAN;
        let x = made(|out| self.device.load_tensor(tokens, hidden, &values, out))
            .map_err(failed("loading a NaN"))?;
        let got = self.output("a call with a NaN", &x, 0.0, scratch)?;
        let counts = |(id, weight)| (id as usize) < case.spec.experts && weight != 0.0;
        let smooth = matches!(
            case.spec.activation,
            Activation::Silu | Activation::Gelu | Activation::GeluTanh
        );
        let must_be_nan = smooth && layer.routing.pairs(token).any(counts);
        let wrong = |&at: &usize| match at / hidden == token {
            true => must_be_nan && !got[at].is_nan(),
            false => got[at].to_bits() != clean[at].to_bits(),
        };
        match (0..got.len()).find(wrong) {
            None => Ok(()),
            Some(at) => {
                let problem =
                    Problem::NotANumber { at: [at / hidden, at % hidden], got: got[at], token };
                Err(problem)
            }
        }
    }

    fn refuses_wrong_shapes(&self) -> Result<(), Problem> {
        let (tokens, hidden) = (self.prepared.case.tokens, self.prepared.hidden());
        let right = [tokens, hidden];
        let (wide, long) = ([tokens, hidden + 1], [tokens + 1, hidden]);
        let shapes = [
            ("an output with a column too many", right, tokens, wide),
            ("an output with a row too many", right, tokens, long),
            ("hidden states with a column too many", wide, tokens, right),
            ("hidden states and an output with a column too many", wide, tokens, wide),
            ("hidden states and an output with a row too many", long, tokens, long),
            ("a routing of a token too many", right, tokens + 1, right),
        ];
        for (what, [rows, cols], routed, out) in shapes {
            let x = self.tensor(rows, cols, 0.0)?;
            let mut out = self.tensor(out[0], out[1], 0.0)?;
            let pairs = routed * self.prepared.case.top_k;
            let routing = Routing::new(self.prepared.case.top_k, vec![0; pairs], vec![1.0; pairs])
                .and_then(|routing| self.device.load_routing(routing))
                .map_err(failed("loading a routing"))?;
            let scratch = &mut Scratch::default();
            if self.forward(what, (&x, &routing), &mut out, scratch)?.is_ok() {
                return Err(Problem::Accepted(what.to_owned()));
            }
        }
        Ok(())
    }
}

/// Turns a panic into a problem.
fn guarded<T>(what: &str, work: impl FnOnce() -> T) -> Result<T, Problem> {
    // Nothing that was being changed is looked at after a panic.
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload: Box<dyn Any + Send>| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Problem::Panicked { what: what.to_owned(), message: text.unwrap_or_default() }
    })
}

fn failed(what: &str) -> impl Fn(Error) -> Problem {
    move |error| Problem::Error { what: what.to_owned(), error: error.to_string() }
}

/// Compares bits.
fn same(what: &str, first: &[f32], second: &[f32], hidden: usize) -> Result<(), Problem> {
    let differs = |&at: &usize| first[at].to_bits() != second[at].to_bits();
    match (0..first.len().min(second.len())).find(differs) {
        None => Ok(()),
        Some(at) => Err(Problem::Differs {
            what: what.to_owned(),
            at: [at / hidden, at % hidden],
            values: [first[at], second[at]],
        }),
    }
}

fn failure<D: Device>(backend: &dyn ExpertsBackend<D>, case: &Case, problem: Problem) -> Failure {
    let backend = backend.name().to_owned();
    Failure { backend, device: D::NAME, case: Box::new(case.clone()), problem }
}

fn add<D: Device>(
    report: &mut Report,
    backend: &dyn ExpertsBackend<D>,
    prepared: &Prepared,
    outcome: Outcome,
) {
    match outcome {
        Outcome::Passed => report.passed += 1,
        Outcome::Refused(reason) => {
            let (backend, case) = (backend.name().to_owned(), prepared.case.clone());
            report.refused.push(Refusal { backend, case, reason });
        }
    }
}
