//! The loops do the work that is counted.

use moexperts_core::{DType, WeightFormat};

use super::{
    chains::Chains,
    clock::{ROUNDS, fastest},
    peak, read_bandwidth,
    reads::Readers,
    sizes::{BLOCK, CHAINS, ROW},
};
use crate::{
    cpu::{Cpu, CpuOptions},
    isa::Isa,
};

/// Relative, for at most this many roundings of f32.
const TOLERANCE: f32 = 1e-5;

#[test]
fn chains_do_every_step_on_every_lane() {
    let starts: [f32; CHAINS] = std::array::from_fn(|chain| chain as f32 - 3.0);
    let (factor, summand) = (0.5, 1.25);
    for chains in Chains::all() {
        let products = match chains.isa {
            Isa::AmxBf16 => 32.0,
            Isa::Avx512Bf16 => 2.0,
            _ => 1.0,
        };
        let lanes = chains.flops_per_step as f32 / (2.0 * products * CHAINS as f32);
        for steps in [0, 1, 7] {
            let step = |sum: f32| match chains.inputs {
                DType::Bf16 => sum + products * factor * summand,
                _ => sum * factor + summand,
            };
            let end = |start: f32| (0..steps).fold(start, |sum, _| step(sum));
            let expected = lanes * starts.map(end).iter().sum::<f32>();
            let got = chains.run(&starts, factor, summand, steps);
            let allowed = TOLERANCE * expected.abs();
            assert!((got - expected).abs() <= allowed, "{chains:?}: {got}, expected {expected}");
        }
    }
}

#[test]
fn bf16_counts_as_such_only_for_bf16_weights() {
    for isa in Isa::available() {
        for format in [WeightFormat::F32, WeightFormat::F16] {
            assert_eq!(Chains::select(isa, format).inputs, DType::F32);
        }
        assert!(isa.includes(Chains::select(isa, WeightFormat::BF16).isa));
    }
}

#[test]
fn readers_read_every_value_once() {
    let mut block = vec![0; BLOCK];
    let places = [0, 1, 15, 16, ROW - 1, ROW, 4 * ROW - 1, 4 * ROW, BLOCK - 1];
    for (bit, &place) in places.iter().enumerate() {
        block[place] = 1 << bit;
    }
    let block: &[u64; BLOCK] = block.as_slice().try_into().unwrap();
    for readers in Readers::all() {
        for way in 0..2 {
            assert_eq!(readers.run(way, block), (1 << places.len()) - 1, "{readers:?}");
        }
    }
}

#[test]
fn the_fastest_way_counts() {
    let slow = std::time::Duration::from_millis(1);
    let sizes = [1, 3];
    let worker = || {
        |way: usize| {
            std::thread::sleep(slow);
            sizes[way]
        }
    };
    let rate = fastest(2, sizes.len(), worker);
    assert!(rate <= 2.0 * 3.0 / slow.as_secs_f64(), "{rate}");
    assert!(rate > 0.0 && ROUNDS % 2 == 1, "a median is in the middle");
}

#[test]
fn short_memory_is_enough_to_measure() {
    for isa in Isa::available() {
        let cpu = Cpu::new(CpuOptions { threads: 2.try_into().ok(), isa: Some(isa) }).unwrap();
        let bandwidth = read_bandwidth(&cpu, Some(0));
        assert_eq!((bandwidth.threads, bandwidth.buffer_bytes), (2, 2 << 20));
        assert!(bandwidth.bytes_per_second > 0.0);
        assert!(peak(&cpu, DType::Bf16).flops_per_second > 0.0);
    }
}
