//! A backend registered by a user goes wherever a built-in one does.

use std::sync::atomic::{AtomicUsize, Ordering};

use moexperts::{
    Cpu, CpuOptions, DType, ExpertsBackend, ExpertsCall, ExpertsInterface, ExpertsSpec,
    LoadOptions,
    core::{Result, Tensor},
    cpu::Eager,
};

use crate::common::{Golden, assert_close, load};

static CALLS: AtomicUsize = AtomicUsize::new(0);

/// One token and one expert at a time, in f64.
#[derive(Debug)]
struct PlainLoops;

impl ExpertsBackend<Cpu> for PlainLoops {
    fn name(&self) -> &str {
        "plain_loops"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cpu) -> Result<()> {
        Eager.check(spec, device)
    }

    fn forward(&self, call: ExpertsCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
        CALLS.fetch_add(1, Ordering::Relaxed);
        self.check(call.experts.spec(), call.device)?;
        call.check_shapes(out)?;
        out.data_mut().fill(0.0);
        let spec = call.experts.spec();
        for token in 0..call.x.rows() {
            let x: Vec<f64> = call.x.row(token).iter().map(|&x| f64::from(x)).collect();
            let mut sums = vec![0.0; spec.hidden];
            for (id, weight) in call.routing.pairs(token) {
                if (id as usize) < spec.experts {
                    let expert = call.experts.expert(id as usize);
                    let y = moexperts::core::reference::expert_output(expert, spec.activation, &x);
                    for (sum, y) in sums.iter_mut().zip(y) {
                        *sum += f64::from(weight) * y;
                    }
                }
            }
            for (out, sum) in out.row_mut(token).iter_mut().zip(sums) {
                *out = sum as f32;
            }
        }
        Ok(())
    }
}

#[test]
fn a_registered_backend_passes_the_suite_and_runs_a_model() {
    ExpertsInterface::register(PlainLoops).unwrap();
    let taken = ExpertsInterface::register(PlainLoops).unwrap_err();
    assert_eq!(
        taken.to_string(),
        "experts implementation `plain_loops` cannot be registered for CPU: the name is taken"
    );
    let names = ExpertsInterface::names::<Cpu>();
    assert_eq!(names[..3], ["eager", "batched_mm", "grouped_mm"]);
    assert!(names.contains(&"plain_loops".to_owned()));

    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let backend = ExpertsInterface::get::<Cpu>("plain_loops").unwrap();
    moexperts_conformance::run(backend.as_ref(), &cpu).unwrap();

    let golden = Golden::open("olmoe");
    let options = LoadOptions::new().dtype(DType::F32).experts_implementation("plain_loops");
    let model = load("olmoe", options);
    let before = CALLS.load(Ordering::Relaxed);
    let logits = model.logits(golden.ids("input_ids")).unwrap();
    assert_close("logits", &logits, golden.values("logits"), 1e-4);
    assert!(CALLS.load(Ordering::Relaxed) >= before + model.spec().layers.len());
}

#[test]
fn names_that_no_one_could_type_are_refused() {
    #[derive(Debug)]
    struct Named(&'static str);

    impl ExpertsBackend<Cpu> for Named {
        fn name(&self) -> &str {
            self.0
        }

        fn check(&self, _spec: &ExpertsSpec, _device: &Cpu) -> Result<()> {
            Ok(())
        }

        fn forward(&self, _call: ExpertsCall<'_, Cpu>, _out: &mut Tensor) -> Result<()> {
            Ok(())
        }
    }

    for name in ["", "Eager", "two words", "a=b", "grouped_mm"] {
        assert!(ExpertsInterface::register(Named(name)).is_err(), "{name}");
    }
    let built_in = ExpertsInterface::unregister::<Cpu>("eager").unwrap_err();
    assert!(built_in.to_string().starts_with("experts implementation `eager` is not registered"));
}
