//! Every built-in backend against the conformance suite.

use moexperts_conformance::{Outcome, cases, check_case, run};
use moexperts_core::Execution;
use moexperts_cuda::Cuda;
use moexperts_cuda_emulator::{Copies, EmulatorOptions, Order, test_devices};

/// Where GPUs differ in few ways from one that runs every case, each runs one case of this many.
const STRIDE: usize = 13;

/// A GPU that runs everything.
fn device() -> (String, Cuda) {
    let order = Order::Shuffled(7);
    let options = EmulatorOptions { order, multiprocessors: 12, ..EmulatorOptions::default() };
    test_devices(&[options]).swap_remove(0)
}

/// GPUs that differ in their instructions, in the order of threads, and in when copies happen.
fn others() -> Vec<(String, Cuda)> {
    let few = EmulatorOptions { multiprocessors: 12, ..EmulatorOptions::default() };
    let early = EmulatorOptions { order: Order::Descending, copies: Copies::Early, ..few };
    test_devices(&[
        EmulatorOptions { compute_capability: (9, 0), ..early },
        EmulatorOptions { compute_capability: (8, 0), ..few },
        EmulatorOptions { compute_capability: (8, 9), ..early },
        EmulatorOptions { compute_capability: (7, 5), ..few },
        EmulatorOptions { compute_capability: (7, 5), ..early },
    ])
}

#[test]
fn every_backend_passes_every_case() {
    let (name, cuda) = device();
    for backend in Cuda::built_in_experts() {
        let report = run(&*backend, &cuda).unwrap_or_else(|failure| panic!("{name}: {failure}"));
        // The unusual experts are refused; nothing else may be.
        let refused = cases().iter().filter(|case| case.name == "unusual").count();
        assert_eq!(report.refused.len(), refused, "{name}: {report}");
        assert!(report.refused.iter().all(|refusal| refusal.case.name == "unusual"));
        assert_eq!(report.passed, cases().len() - refused);
    }
}

#[test]
fn every_backend_passes_some_cases_on_every_gpu() {
    for (index, (name, cuda)) in others().into_iter().enumerate() {
        for backend in Cuda::built_in_experts() {
            for case in cases().iter().skip(index).step_by(STRIDE) {
                let outcome = check_case(&*backend, &cuda, case)
                    .unwrap_or_else(|failure| panic!("{name}: {failure}"));
                assert_eq!(matches!(outcome, Outcome::Passed), case.name != "unusual");
            }
        }
    }
}
