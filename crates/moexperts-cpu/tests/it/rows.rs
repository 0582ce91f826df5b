//! Borrowed activations and weights: in every dtype, with every stride, on threads of a host, the
//! bits are those of a layer whose tensors this project made.

use std::{num::NonZero, sync::Arc, thread};

use crate::common::{bits, devices};
use half::{bf16, f16};
use moexperts_conformance::{Case, Layer, cases};
use moexperts_core::{
    DType, Elements, Experts, ExpertsBackend, ExpertsCall, Linear, Matrix, Routing, Scratch,
    Tensor, reference,
};
use moexperts_cpu::{
    BatchedMm, Cpu, CpuOptions, Eager, GroupedMm, HostThreads, PairsCall, Rows, RowsBackend,
    RowsCall, RowsMut, ValuesMut, expert_linear,
};

const BACKENDS: [&dyn RowsBackend; 3] = [&Eager, &BatchedMm, &GroupedMm];

/// Some of every kind that the CPU runs.
fn chosen() -> impl Iterator<Item = Case> {
    let names = ["shape", "big", "kind", "routing", "routing of many tokens"];
    cases().into_iter().filter(move |case| names.contains(&case.name))
}

/// Values of one dtype with gaps between the rows, which hold no number.
struct Spread {
    f32: Vec<f32>,
    f16: Vec<f16>,
    bf16: Vec<bf16>,
    dtype: DType,
    shape: [usize; 2],
    row_stride: usize,
}

impl Spread {
    fn new(x: &Tensor, dtype: DType, gap: usize) -> Self {
        let [rows, cols] = x.shape();
        let row_stride = cols + gap;
        let mut f32 = vec![f32::NAN; rows * row_stride];
        for (row, to) in f32.chunks_exact_mut(row_stride).enumerate() {
            to[..cols].copy_from_slice(x.row(row));
        }
        let f16 = f32.iter().map(|&value| f16::from_f32(value)).collect();
        let bf16 = f32.iter().map(|&value| bf16::from_f32(value)).collect();
        Self { f32, f16, bf16, dtype, shape: [rows, cols], row_stride }
    }

    fn rows(&self) -> Rows<'_> {
        let elements = match self.dtype {
            DType::F32 => Elements::F32(&self.f32),
            DType::F16 => Elements::F16(&self.f16),
            DType::Bf16 => Elements::Bf16(&self.bf16),
        };
        Rows::new(elements, self.shape, self.row_stride).unwrap()
    }

    /// The same values in f32.
    fn widened(&self) -> Tensor {
        let [rows, cols] = self.shape;
        let elements = match self.dtype {
            DType::F32 => Elements::F32(&self.f32),
            DType::F16 => Elements::F16(&self.f16),
            DType::Bf16 => Elements::Bf16(&self.bf16),
        };
        let row = |row: usize| {
            elements.slice(row * self.row_stride..row * self.row_stride + cols).to_f32()
        };
        Tensor::from_vec(rows, cols, (0..rows).flat_map(row).collect()).unwrap()
    }
}

/// The values that `write` leaves in rows of a dtype, in f32.
fn written(dtype: DType, shape: [usize; 2], write: impl FnOnce(RowsMut<'_>)) -> Vec<f32> {
    let len = shape[0] * shape[1];
    match dtype {
        DType::F32 => {
            let mut values = vec![f32::NAN; len];
            write(RowsMut::new(ValuesMut::F32(&mut values), shape).unwrap());
            values
        }
        DType::F16 => {
            let mut values = vec![f16::NAN; len];
            write(RowsMut::new(ValuesMut::F16(&mut values), shape).unwrap());
            values.into_iter().map(f16::to_f32).collect()
        }
        DType::Bf16 => {
            let mut values = vec![bf16::NAN; len];
            write(RowsMut::new(ValuesMut::Bf16(&mut values), shape).unwrap());
            values.into_iter().map(bf16::to_f32).collect()
        }
    }
}

fn rounded(values: &[f32], dtype: DType) -> Vec<f32> {
    let matrix = Matrix::from_f32(1, values.len(), values, dtype).unwrap();
    matrix.to_f32()
}

fn forward(backend: &dyn RowsBackend, cpu: &Cpu, layer: &Layer, case: &Case, x: &Tensor) -> Tensor {
    let experts = Experts::load(cpu, case.spec, layer.experts.clone()).unwrap();
    let mut out = Tensor::zeros(case.tokens, case.spec.hidden);
    let routing = &layer.routing;
    let scratch = &mut Scratch::default();
    let call = ExpertsCall { device: cpu, experts: &experts, x, routing, scratch };
    ExpertsBackend::forward(backend, call, &mut out).unwrap();
    out
}

/// The same matrix as a view of values that lie apart: its columns are stored one after another,
/// with something else between the values of each.
fn apart(matrix: &Matrix) -> Matrix {
    let columns = matrix.transposed().unwrap();
    let other = Matrix::from_f32(
        columns.rows(),
        columns.cols(),
        &vec![f32::NAN; columns.rows() * columns.cols()],
        matrix.elements().dtype(),
    )
    .unwrap();
    let mut stored = Vec::new();
    for row in 0..columns.rows() {
        for col in 0..columns.cols() {
            stored.extend([columns.row(row).get(col), other.row(row).get(col)]);
        }
    }
    let [rows, cols] = [columns.rows(), 2 * columns.cols()];
    let stored = Matrix::from_f32(rows, cols, &stored, matrix.elements().dtype()).unwrap();
    stored.exchanged().rows_stepped(0..cols, 2)
}

#[test]
fn rows_of_every_dtype_give_the_bits_of_a_tensor_rounded_once() {
    for cpu in devices() {
        for case in chosen() {
            let layer = Layer::new(&case);
            let experts = Experts::load(&cpu, case.spec, layer.experts.clone()).unwrap();
            for (index, dtype) in DType::ALL.into_iter().enumerate() {
                let spread = Spread::new(&layer.x, dtype, index * 3);
                let backend = BACKENDS[(case.tokens + index) % 3];
                let expected = forward(backend, &cpu, &layer, &case, &spread.widened());
                let shape = [case.tokens, case.spec.hidden];
                let got = written(dtype, shape, |out| {
                    let (x, routing) = (spread.rows(), &layer.routing);
                    let scratch = &mut Scratch::default();
                    let call = RowsCall { cpu: &cpu, experts: &experts, x, routing, scratch };
                    backend.forward_rows(call, out).unwrap();
                });
                let expected = rounded(expected.data(), dtype);
                assert_eq!(bits(&got), bits(&expected), "{case} in {dtype}, {}", cpu.isa());
            }
        }
    }
}

#[test]
fn weights_that_lie_apart_give_the_bits_of_those_in_rows() {
    for cpu in devices() {
        for case in chosen() {
            let layer = Layer::new(&case);
            let linear = |linear: &Linear<Matrix, Vec<f32>>| Linear {
                weight: apart(&linear.weight),
                bias: linear.bias.clone(),
            };
            let mut spread = layer.clone();
            for expert in &mut spread.experts {
                expert.gate_proj = expert.gate_proj.as_ref().map(linear);
                expert.up_proj = linear(&expert.up_proj);
                expert.down_proj = linear(&expert.down_proj);
            }
            let experts = Experts::resident(case.spec, spread.experts).unwrap();
            for backend in BACKENDS {
                let expected = forward(backend, &cpu, &layer, &case, &layer.x);
                let mut out = Tensor::zeros(case.tokens, case.spec.hidden);
                let (x, routing) = (&layer.x, &layer.routing);
                let scratch = &mut Scratch::default();
                let call = ExpertsCall { device: &cpu, experts: &experts, x, routing, scratch };
                ExpertsBackend::forward(backend, call, &mut out).unwrap();
                assert_eq!(bits(out.data()), bits(expected.data()), "{case} {}", backend.name());
            }
        }
    }
}

/// Makes threads for each call.
#[derive(Debug)]
struct Host;

impl HostThreads for Host {
    fn together(&self, threads: usize, work: &(dyn Fn() + Sync)) {
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
    }
}

#[test]
fn threads_of_a_host_change_no_bit() {
    for own in devices() {
        for threads in 1..=3 {
            let options = CpuOptions { threads: NonZero::new(threads), isa: Some(own.isa()) };
            let hosted = Cpu::hosted(Arc::new(Host), options).unwrap();
            assert_eq!(hosted.thread_count(), threads);
            for case in chosen().filter(|case| ["big", "routing"].contains(&case.name)) {
                let layer = Layer::new(&case);
                for backend in BACKENDS {
                    let [own, hosted] =
                        [&own, &hosted].map(|cpu| forward(backend, cpu, &layer, &case, &layer.x));
                    assert_eq!(bits(own.data()), bits(hosted.data()), "{case}");
                }
            }
        }
    }
}

/// Up and down, each for every pair, are the expert; of a token's rows and of a pair's.
#[test]
fn a_projection_for_each_pair_is_that_of_its_expert() {
    for cpu in devices() {
        for case in chosen() {
            let layer = Layer::new(&case);
            let ups: Vec<_> = layer.experts.iter().map(|expert| expert.up_proj.clone()).collect();
            let downs: Vec<_> =
                layer.experts.iter().map(|expert| expert.down_proj.clone()).collect();
            let inner = pairs(&cpu, &ups, &layer.x, &layer.routing);
            check_pairs(
                &ups,
                &layer.x,
                case.top_k,
                &layer.routing,
                &inner,
                case.spec.format.input_dtype(),
            );
            let out = pairs(&cpu, &downs, &inner, &layer.routing);
            check_pairs(&downs, &inner, 1, &layer.routing, &out, case.spec.format.input_dtype());
            // Weights that lie apart, and results of another dtype.
            let spread: Vec<_> = ups
                .iter()
                .map(|up| Linear { weight: apart(&up.weight), bias: up.bias.clone() })
                .collect();
            let again = pairs(&cpu, &spread, &layer.x, &layer.routing);
            assert_eq!(bits(again.data()), bits(inner.data()), "{case}");
            for dtype in [DType::F16, DType::Bf16] {
                let got = written(dtype, inner.shape(), |out| {
                    let (x, routing) = ((&layer.x).into(), &layer.routing);
                    let scratch = &mut Scratch::default();
                    let call = PairsCall { cpu: &cpu, experts: &ups, x, routing, scratch };
                    expert_linear(call, out).unwrap();
                });
                assert_eq!(bits(&got), bits(&rounded(inner.data(), dtype)), "{case} {dtype}");
            }
        }
    }
}

fn pairs(cpu: &Cpu, experts: &[Linear<Matrix, Vec<f32>>], x: &Tensor, routing: &Routing) -> Tensor {
    let count = routing.top_k_index().len();
    let mut out = Tensor::from_vec(
        count,
        experts[0].weight.rows(),
        vec![f32::NAN; count * experts[0].weight.rows()],
    )
    .unwrap();
    let scratch = &mut Scratch::default();
    let call = PairsCall { cpu, experts, x: x.into(), routing, scratch };
    expert_linear(call, (&mut out).into()).unwrap();
    out
}

/// Compares with plain sums: `(cols + 2) · eps(f32) · Σ|x||w|` for the sum, and a rounding of the
/// inputs to the dtype of the weights.
fn check_pairs(
    experts: &[Linear<Matrix, Vec<f32>>],
    x: &Tensor,
    per_row: usize,
    routing: &Routing,
    got: &Tensor,
    dtype: DType,
) {
    for (pair, &id) in routing.top_k_index().iter().enumerate() {
        let Some(linear) = experts.get(id as usize) else {
            assert!(got.row(pair).iter().all(|&value| value == 0.0), "sentinel at pair {pair}");
            continue;
        };
        let row = x.row(pair / per_row);
        let hidden: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
        let expected = reference::linear(linear, &hidden);
        for (output, (&got, expected)) in got.row(pair).iter().zip(expected).enumerate() {
            let weights = linear.weight.row(output).to_f32();
            let terms = hidden.iter().zip(&weights).map(|(x, &w)| (x * f64::from(w)).abs());
            let bias = linear.bias.as_ref().map_or(0.0, |bias| f64::from(bias[output]).abs());
            let magnitude: f64 = terms.sum::<f64>() + bias;
            let relative = (row.len() + 2) as f64 * DType::F32.epsilon() + dtype.epsilon();
            let smallest = f64::from(f32::MIN_POSITIVE);
            let off = (f64::from(got) - expected).abs();
            assert!(off <= relative * magnitude + smallest, "pair {pair}: {got}, {expected}");
        }
    }
}

#[test]
fn arguments_that_disagree_are_an_error() {
    let cpu = &devices().next().unwrap();
    let case = cases().into_iter().find(|case| case.name == "big").unwrap();
    let layer = Layer::new(&case);
    let experts = &Experts::load(cpu, case.spec, layer.experts.clone()).unwrap();
    let shape = [case.tokens, case.spec.hidden];
    let error = Rows::new(Elements::F32(&[0.0; 7]), [2, 4], 4).unwrap_err();
    assert_eq!(error.to_string(), "expected at least 8 values for [2, 4] with row stride 4, got 7");
    let short = Tensor::zeros(case.tokens, case.spec.hidden - 1);
    written(DType::Bf16, shape, |out| {
        let (routing, scratch) = (&layer.routing, &mut Scratch::default());
        let call = RowsCall { cpu, experts, x: (&short).into(), routing, scratch };
        let error = GroupedMm.forward_rows(call, out).unwrap_err().to_string();
        assert!(error.contains("[97, 159]") && error.contains("[97, 160]"), "{error}");
    });
    let downs: Vec<_> = layer.experts.iter().map(|expert| expert.down_proj.clone()).collect();
    let mut out = Tensor::zeros(1, 1);
    let (routing, scratch) = (&layer.routing, &mut Scratch::default());
    let call = PairsCall { cpu, experts: &downs, x: (&layer.x).into(), routing, scratch };
    let error = expert_linear(call, (&mut out).into()).unwrap_err();
    assert_eq!(error.to_string(), "output of the projection has shape [1, 1], expected [388, 160]");
}
