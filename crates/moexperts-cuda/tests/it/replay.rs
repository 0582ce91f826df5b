//! Work that repeats is captured once, and the work that is done is the work that was submitted.

use std::mem;

use moexperts_core::{Execution, Memory, Operations, Result, made};
use moexperts_cuda::{Cuda, CudaTensor, Recording};
use moexperts_cuda_emulator::{EmulatorOptions, emulated, test_devices};

/// A sum on the device, and what it should be.
struct Sum {
    cuda: Cuda,
    x: CudaTensor,
    y: CudaTensor,
    expected: Vec<f32>,
}

const LEN: usize = 37;

impl Sum {
    fn new(cuda: &Cuda) -> Self {
        let zeros = [0.0; LEN];
        let x = made(|out| cuda.load_tensor(1, LEN, &zeros, out)).unwrap();
        let y = made(|out| cuda.load_tensor(1, LEN, &zeros, out)).unwrap();
        Self { cuda: cuda.clone(), x, y, expected: zeros.to_vec() }
    }

    /// Uploads the values of `step` and adds them `times` times, within a plan; then reads the sum if
    /// `read`.
    fn run(&mut self, recording: &mut Recording, step: usize, times: usize, read: bool) {
        let values: Vec<f32> = (0..LEN).map(|i| (step * LEN + i) as f32).collect();
        for (sum, value) in self.expected.iter_mut().zip(&values) {
            *sum += times as f32 * value;
        }
        let Self { cuda, x, y, .. } = self;
        let got = cuda.enter_plan(Some(recording), || -> Result<Vec<f32>> {
            cuda.load_tensor(1, LEN, &values, y)?;
            for _ in 0..times {
                cuda.add(x, y, 1.0)?;
            }
            let mut out = Vec::new();
            if read {
                cuda.read_tensor(x, &mut out)?;
            }
            Ok(out)
        });
        if read {
            assert_eq!(got.unwrap(), self.expected, "step {step}");
        }
    }
}

fn sums() -> Vec<Sum> {
    let devices = test_devices(&[EmulatorOptions::default()]);
    devices.iter().map(|(_, cuda)| Sum::new(cuda)).collect()
}

#[test]
fn the_third_run_of_the_same_work_is_a_graph() {
    for mut sum in sums() {
        let mut recording = Recording::default();
        for step in 0..6 {
            sum.run(&mut recording, step, 3, true);
            assert_eq!(recording.graph_launches(), step.saturating_sub(1));
        }
    }
}

#[test]
fn work_that_differs_is_done_as_it_comes() {
    for mut sum in sums() {
        let mut recording = Recording::default();
        // More work, less, none; while it is recorded, compared and launched as a graph.
        let all = [2, 3, 3, 3, 3, 1, 1, 1, 0, 0, 0, 4, 2, 4, 4, 4, 5, 4];
        for (step, times) in all.into_iter().enumerate() {
            sum.run(&mut recording, step, times, true);
        }
        assert!(recording.graph_launches() > 0);
    }
}

#[test]
fn work_with_other_kernels_or_parameters_is_not_the_same() {
    for sum in sums() {
        let Sum { cuda, mut x, mut y, .. } = sum;
        let mut recording = Recording::default();
        let mut expected = [0.0_f32; LEN];
        // The limit of a step, a parameter of its kernel; without one, another kernel runs.
        let big = Some(1e9);
        let all = [big, big, big, big, Some(60.0), big, big, big, big, None, big, big, big, big];
        for (step, limit) in all.into_iter().enumerate() {
            let values: Vec<f32> = (0..LEN).map(|i| (step + i) as f32).collect();
            for (sum, value) in expected.iter_mut().zip(&values) {
                *sum += value;
                *sum = limit.map_or(*sum + value, |limit| sum.clamp(-limit, limit));
            }
            let got = cuda.enter_plan(Some(&mut recording), || -> Result<Vec<f32>> {
                cuda.load_tensor(1, LEN, &values, &mut y)?;
                cuda.add(&mut x, &y, 1.0)?;
                match limit {
                    Some(limit) => cuda.clamp(&mut x, limit)?,
                    None => cuda.add(&mut x, &y, 1.0)?,
                }
                made(|out| cuda.read_tensor(&x, out))
            });
            assert_eq!(got.unwrap(), expected, "step {step}");
        }
        assert!(recording.graph_launches() > 0);
    }
}

#[test]
fn work_whose_result_is_not_read_is_done_all_the_same() {
    for mut sum in sums() {
        let mut recording = Recording::default();
        for step in 0..20 {
            sum.run(&mut recording, step, 2, step % 5 != 3);
        }
        assert!(recording.graph_launches() > 0);
        let mut out = Vec::new();
        sum.cuda.read_tensor(&sum.x, &mut out).unwrap();
        assert_eq!(out, sum.expected);
    }
}

#[test]
fn a_plan_that_fails_or_panics_leaves_its_thread_as_it_was() {
    for mut sum in sums() {
        let mut recording = Recording::default();
        for step in 0..4 {
            sum.run(&mut recording, step, 2, true);
        }
        let (cuda, x, y) = (sum.cuda.clone(), &mut sum.x, &sum.y);
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cuda.enter_plan(Some(&mut recording), || {
                cuda.add(x, y, 1.0).unwrap();
                panic!("on purpose");
            })
        }));
        assert!(failed.is_err());
        // The last step's values once more: work submitted before the panic is done.
        for (sum, i) in sum.expected.iter_mut().zip(0..) {
            *sum += (3 * LEN + i) as f32;
        }
        for step in 4..9 {
            sum.run(&mut recording, step, 2, true);
        }
    }
}

/// Held work that uses memory is submitted before the memory is freed.
#[test]
fn memory_may_be_freed_within_a_plan() {
    for mut sum in sums() {
        let mut recording = Recording::default();
        for step in 0..8 {
            let values: Vec<f32> = (0..LEN).map(|i| (step * LEN + i) as f32).collect();
            for (sum, value) in sum.expected.iter_mut().zip(&values) {
                *sum += value;
            }
            let Sum { cuda, x, y, expected } = &mut sum;
            let freed = CudaTensor::default();
            let got = cuda.enter_plan(Some(&mut recording), || -> Result<Vec<f32>> {
                cuda.load_tensor(1, LEN, &values, y)?;
                cuda.add(x, y, 1.0)?;
                // Its memory is used by the two works before, and freed while they are held.
                drop(mem::replace(y, freed));
                made(|out| cuda.read_tensor(x, out))
            });
            assert_eq!(got.unwrap(), *expected, "step {step}");
        }
    }
}

#[test]
#[should_panic(expected = "memory of one GPU is used with another")]
fn memory_of_another_gpu_is_refused() {
    let gpus = [(); 2].map(|()| emulated(EmulatorOptions::default()));
    let mut x: CudaTensor = made(|out| gpus[0].load_tensor(1, LEN, &[0.0; LEN], out)).unwrap();
    let _ = gpus[1].scale(&mut x, 2.0);
}
