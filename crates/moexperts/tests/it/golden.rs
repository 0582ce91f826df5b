//! Against transformers, stage by stage.

use moexperts::{AnyDevice, Cpu, CpuOptions, DType, LoadOptions, core::DeviceKind, cpu::Isa};

use crate::{
    checks,
    common::{CASES, load, load_on},
};

#[test]
fn every_stage_in_f32_is_transformers() {
    for case in CASES {
        checks::every_stage::<Cpu>(case, &load(case, LoadOptions::new().dtype(DType::F32)));
    }
}

#[test]
fn greedy_tokens_in_f32_are_transformers() {
    for case in CASES {
        checks::greedy_tokens(case, &load(case, LoadOptions::new().dtype(DType::F32)));
    }
}

#[test]
fn half_precision_is_no_further_from_f64_than_transformers() {
    for case in CASES {
        for dtype in [DType::Bf16, DType::F16] {
            for isa in Isa::available() {
                let model = load_on(case, CpuOptions { isa: Some(isa), threads: None }, dtype);
                checks::half_precision(case, &model, &format!("{dtype} {isa}"));
            }
        }
    }
}

#[test]
fn prompts_of_different_lengths_together_are_transformers_alone() {
    for case in CASES {
        checks::batched_greedy_tokens(case, &load(case, LoadOptions::new().dtype(DType::F32)));
    }
}

#[test]
fn the_default_is_grouped_mm_on_the_cpu() {
    let model = load("olmoe", LoadOptions::new());
    assert_eq!(model.experts_implementation()[""], "grouped_mm");
    assert_eq!(model.dtype(), Some(DType::F16));
    assert_eq!((model.device_name(), model.device_kind()), ("CPU", DeviceKind::Cpu));
    assert!(matches!(model.device(), Some(AnyDevice::Cpu(_))));
}
