//! Every operation of a device on small shapes, against f64.

mod expected;

use std::error::Error;

use moexperts_core::{
    Activation, AttentionCall, AttentionSpec, Batch, DType, Device, GateFunction, Linear, Matrix,
    Operation, Result as CoreResult, RopePairing, Scratch, Span, made, reference,
};

use self::expected::{ATTENTION, Expected, exact, heads, rms_norm, scaled, sum, wide};
use crate::{
    Bounded, Tolerance,
    random::Random,
    router_cases,
    tolerance::{EVALUATION, ROUNDING},
};

/// Runs an operation on small shapes and compares its results with f64. If the device lacks the
/// operation, [`check_operation`](moexperts_core::Device::check_operation) has to refuse it by
/// its name.
///
/// # Errors
/// A text that says what is wrong. An operation without a case here is an error as well.
pub fn check_operation<D: Device>(device: &D, operation: Operation) -> Result<(), String> {
    let name = operation.name();
    let checked = device.check_operation(operation).map_err(|error| error.to_string());
    if !device.has_operation(operation) {
        return match checked {
            Err(error) if error.contains(&format!("`{name}`")) => Ok(()),
            other => Err(format!("`{name}` is lacking, but the check gives {other:?}")),
        };
    }
    checked?;
    let mut walk = Walk { device, random: Random::new(operation as u64) };
    let result = match operation {
        Operation::Embed => walk.embed(),
        Operation::EmbeddingBag => walk.embedding_bag(),
        Operation::Reshape => walk.reshape(),
        Operation::SelectRows => walk.select_rows(),
        Operation::PutRows => walk.put_rows(),
        Operation::AddRows => walk.add_rows(),
        Operation::LayerNorm => walk.layer_norm(),
        Operation::RmsNorm => walk.rms_norm(),
        Operation::Linear => walk.linear(),
        Operation::Rope => walk.rope(),
        Operation::Attention => walk.attention(),
        Operation::FullAttention => walk.full_attention(),
        Operation::Route => walk.route(),
        Operation::Activate => walk.activate(),
        Operation::Add => walk.add(),
        Operation::AddGated => walk.add_gated(),
        Operation::Gate => walk.gate(),
        Operation::Scale => walk.scale(),
        Operation::Clamp => walk.clamp(),
        _ => Err("it has no case in `moexperts-conformance/src/operations.rs`".into()),
    };
    result.map_err(|problem| format!("{}: `{name}`: {problem}", D::NAME))
}

/// Shapes of activations: a single value, and rows longer than a vector register.
const SHAPES: [[usize; 2]; 2] = [[1, 1], [3, 38]];

/// `Ok` if results are as expected.
type Compared = Result<(), Box<dyn Error>>;

/// A device, and the generator of the operands of its operations.
struct Walk<'a, D> {
    device: &'a D,
    random: Random,
}

impl<D: Device> Walk<'_, D> {
    fn values(&mut self, count: usize) -> Vec<f32> {
        self.random.values(count)
    }

    fn load(&self, [rows, cols]: [usize; 2], values: &[f32]) -> CoreResult<D::Tensor> {
        made(|out| self.device.load_tensor(rows, cols, values, out))
    }

    /// Random activations, here and on the device.
    fn tensor(&mut self, shape: [usize; 2]) -> CoreResult<(Vec<f32>, D::Tensor)> {
        let values = self.values(shape[0] * shape[1]);
        self.load(shape, &values).map(|tensor| (values, tensor))
    }

    /// A random table in each format that the device has.
    fn tables(&mut self, rows: usize, cols: usize) -> CoreResult<Vec<(Matrix, D::Matrix)>> {
        let values = self.values(rows * cols);
        let dtypes = DType::ALL.into_iter().filter(|&dtype| self.device.has_format(dtype.into()));
        let load = |dtype| {
            let matrix = Matrix::from_f32(rows, cols, &values, dtype)?;
            Ok((matrix.clone(), self.device.load_matrix(matrix)?))
        };
        dtypes.map(load).collect()
    }

    /// Compares the result of an operation with the expected values.
    fn compare(&self, what: &str, out: &D::Tensor, expected: &[Bounded]) -> Compared {
        let mut got = Vec::new();
        self.device.read_tensor(out, &mut got)?;
        if got.len() != expected.len() {
            return Err(format!("{what}: {} values, expected {}", got.len(), expected.len()).into());
        }
        for (at, (&got, Bounded { value, error })) in got.iter().zip(expected).enumerate() {
            if !got.is_finite() || (f64::from(got) - value).abs() > *error {
                return Err(
                    format!("{what}, value {at}: {got}, expected {value} ± {error:e}").into()
                );
            }
        }
        Ok(())
    }

    /// An operation that changes a random `x`, whose values become `value(index, x[index])`.
    fn change(
        &mut self,
        what: &str,
        shape: [usize; 2],
        change: impl FnOnce(&D, &mut D::Tensor) -> CoreResult<()>,
        value: impl Fn(usize, f64) -> Bounded,
    ) -> Compared {
        let (values, mut x) = self.tensor(shape)?;
        change(self.device, &mut x)?;
        let expected = values.iter().enumerate().map(|(at, &x)| value(at, x.into()));
        self.compare(&format!("{what} {shape:?}"), &x, &expected.collect::<Expected>())
    }

    fn embed(&mut self) -> Compared {
        let ids = [6, 0, 6, 3];
        for (matrix, table) in self.tables(7, 5)? {
            let expected = exact(ids.iter().flat_map(|&id| matrix.row(id as usize).to_f32()));
            let out = made(|out| self.device.embed(&table, &ids, out))?;
            self.compare(&matrix.format().to_string(), &out, &expected)?;
        }
        Ok(())
    }

    fn embedding_bag(&mut self) -> Compared {
        let (rows, taps, cols) = ([6, 0, 2, 3, 3, 1], 3, 5);
        let weights = self.values(rows.len());
        for (matrix, table) in self.tables(7, cols)? {
            let term = |i: usize, col: usize| {
                f64::from(weights[i]) * f64::from(matrix.row(rows[i] as usize).get(col))
            };
            let value = |at: usize| {
                let bag = at / cols * taps..(at / cols + 1) * taps;
                sum(bag.map(|i| term(i, at % cols)), taps + 1)
            };
            let expected: Expected = (0..2 * cols).map(value).collect();
            let out = made(|out| self.device.embedding_bag(&table, &rows, &weights, taps, out))?;
            self.compare(&matrix.format().to_string(), &out, &expected)?;
        }
        Ok(())
    }

    fn reshape(&mut self) -> Compared {
        let (values, x) = self.tensor([4, 6])?;
        let reshaped = self.device.reshape(x, 8)?;
        self.compare("[4, 6] as [3, 8]", &reshaped, &exact(values.clone()))?;
        let last = made(|out| self.device.select_rows(&reshaped, &[2], out))?;
        self.compare("row 2 of [4, 6] as [3, 8]", &last, &exact(values[16..].to_vec()))
    }

    fn select_rows(&mut self) -> Compared {
        let (values, x) = self.tensor([4, 6])?;
        let rows = [3, 0, 3];
        let expected = exact(rows.iter().flat_map(|row| values[row * 6..][..6].to_vec()));
        let out = made(|out| self.device.select_rows(&x, &rows, out))?;
        self.compare("rows 3, 0, 3", &out, &expected)
    }

    fn put_rows(&mut self) -> Compared {
        let (put, y) = self.tensor([2, 6])?;
        let change = |device: &D, x: &mut _| device.put_rows(x, &[3, 1], &y);
        self.change("rows 3 and 1 of", [4, 6], change, |at, x| match at / 6 {
            3 => Bounded::exact(put[at - 18].into()),
            1 => Bounded::exact(put[at].into()),
            _ => Bounded::exact(x),
        })
    }

    fn add_rows(&mut self) -> Compared {
        let (added, y) = self.tensor([2, 6])?;
        let change = |device: &D, x: &mut _| device.add_rows(x, &[3, 1], &y);
        self.change("rows 3 and 1 of", [4, 6], change, |at, x| match at / 6 {
            3 => sum([x, added[at - 18].into()], 1),
            1 => sum([x, added[at].into()], 1),
            _ => Bounded::exact(x),
        })
    }

    /// The mean is off by `n + 1` roundings of the mean magnitude. The variance is off by `n + 3`
    /// of its roundings, and for each deviation by twice the error of the mean; the root halves
    /// that.
    fn layer_norm(&mut self) -> Compared {
        let (cols, eps) = (38, 1e-5_f32);
        let ((values, x), weight, bias) =
            (self.tensor([3, cols])?, self.values(cols), self.values(cols));
        let (n, mut expected) = (cols as f64, Expected::new());
        for row in values.chunks_exact(cols).map(wide) {
            let mean = row.iter().sum::<f64>() / n;
            let moved = (n + 1.0) * ROUNDING * row.iter().map(|x| x.abs()).sum::<f64>() / n;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let deviation = (variance + f64::from(eps)).sqrt();
            let relative = (n + 3.0 + EVALUATION) * ROUNDING + moved / deviation;
            let exact = reference::layer_norm(&row, &weight, &bias, eps);
            for (at, value) in exact.into_iter().enumerate() {
                let scale = f64::from(weight[at]) / deviation;
                let scaled = (row[at] - mean) * scale;
                let last = sum([scaled, f64::from(bias[at])], 3);
                let error = last.error + moved * scale.abs() + relative * scaled.abs();
                expected.push(Bounded { value, error });
            }
        }
        let [weight, bias] =
            [self.device.load_vector(weight.clone())?, self.device.load_vector(bias.clone())?];
        let out = made(|out| self.device.layer_norm(&x, &weight, &bias, eps, out))?;
        self.compare("[3, 38]", &out, &expected)
    }

    fn rms_norm(&mut self) -> Compared {
        let (cols, eps, scale) = (38, 1e-5_f32, 0.7_f32);
        // A whole row, and each head of it.
        for width in [cols, cols / 2] {
            let ((values, mut x), (added, y)) = (self.tensor([3, cols])?, self.tensor([3, cols])?);
            let weight = self.values(width);
            let loaded = self.device.load_vector(weight.clone())?;
            let out = made(|out| self.device.rms_norm(&x, &loaded, eps, out))?;
            let expected = rms_norm(&exact(values.clone()), &weight, eps);
            self.compare(&format!("heads of {width}"), &out, &expected)?;
            let terms =
                |(&x, &y): (&f32, &f32)| sum([x.into(), f64::from(scale) * f64::from(y)], 2);
            let sums: Expected = values.iter().zip(&added).map(terms).collect();
            let out = made(|out| self.device.add_rms_norm(&mut x, &y, scale, &loaded, eps, out))?;
            self.compare("add_rms_norm", &out, &rms_norm(&sums, &weight, eps))?;
            self.compare("the sum of add_rms_norm", &x, &sums)?;
        }
        Ok(())
    }

    /// Two layers of one input, one of them with a bias.
    fn linear(&mut self) -> Compared {
        for (rows, inputs) in [(1, 70), (5, 70)] {
            let (values, x) = self.tensor([rows, inputs])?;
            let bias = self.values(34);
            let loaded_bias = self.device.load_vector(bias.clone())?;
            let plain = self.tables(9, inputs)?;
            for (plain, biased) in plain.into_iter().zip(self.tables(34, inputs)?) {
                let what = format!("{rows} rows, {}", plain.0.format());
                let tolerance = Tolerance::new(plain.0.format());
                let loaded = Linear { weight: plain.1, bias: None };
                let other = Linear { weight: biased.1, bias: Some(loaded_bias.clone()) };
                let mut outs = [D::Tensor::default(), D::Tensor::default()];
                let scratch = &mut Scratch::default();
                self.device.linear(&x, &[&loaded, &other], scratch, &mut outs)?;
                let layers = [(plain.0, None), (biased.0, Some(bias.clone()))];
                for (out, (weight, bias)) in outs.iter().zip(layers) {
                    let layer = Linear { weight, bias };
                    let row = |x: &[f32]| tolerance.linear(&layer, &exact(x.to_vec()));
                    let expected: Expected = values.chunks_exact(inputs).flat_map(row).collect();
                    self.compare(&what, out, &expected)?;
                }
            }
        }
        Ok(())
    }

    fn rope(&mut self) -> Compared {
        // Two heads, of which 6 values turn and 2 stay.
        let (tokens, head_dim, pairs) = (3, 8, 3);
        for pairing in RopePairing::ALL {
            let (values, mut x) = self.tensor([tokens, 2 * head_dim])?;
            let angles = self.values(tokens * pairs);
            let [cos, sin] =
                [f32::cos, f32::sin].map(|f| angles.iter().map(|x| f(3.0 * x)).collect::<Vec<_>>());
            let mut expected = exact(values.clone());
            for (head, turned) in expected.chunks_exact_mut(head_dim).enumerate() {
                let value = |at: usize| f64::from(values[head * head_dim + at]);
                for pair in 0..pairs {
                    let angle = head / 2 * pairs + pair;
                    let [cos, sin] = [cos[angle], sin[angle]].map(f64::from);
                    let [a, b] = pairing.places(pair, pairs);
                    turned[a] = sum([value(a) * cos, -value(b) * sin], 2);
                    turned[b] = sum([value(b) * cos, value(a) * sin], 2);
                }
            }
            let [cos, sin] = [self.load([tokens, pairs], &cos)?, self.load([tokens, pairs], &sin)?];
            self.device.rope(&mut x, head_dim, pairing, &cos, &sin)?;
            self.compare(&format!("{pairing:?}"), &x, &expected)?;
        }
        Ok(())
    }

    /// Two sequences, each in two parts, with and without a window and sinks.
    fn attention(&mut self) -> Compared {
        for (sliding_window, sinks) in [(None, false), (Some(3), false), (None, true)] {
            let spec = AttentionSpec { sliding_window, ..ATTENTION };
            if self.device.check_attention(&spec, sinks).is_err() {
                continue;
            }
            let what = format!("window {sliding_window:?}, sinks: {sinks}");
            let sinks = sinks.then(|| self.values(spec.heads));
            let loaded = sinks.clone().map(|sinks| self.device.load_vector(sinks)).transpose()?;
            let mut state = self.device.new_state(&[spec.state()], 2)?;
            let mut kept: [[Vec<f32>; 2]; 2] = Default::default();
            for (start, tokens) in [(0, 4), (4, 2)] {
                let span = |sequence| Span { sequence, start, tokens };
                let batch = Batch::new(vec![span(0), span(1)]);
                let [(q, x), (k, y), (v, z)] = self.qkv(2 * tokens)?;
                for (sequence, kept) in kept.iter_mut().enumerate() {
                    let half = |all: &[f32]| {
                        all[sequence * all.len() / 2..(sequence + 1) * all.len() / 2].to_vec()
                    };
                    kept[0].extend(half(&k));
                    kept[1].extend(half(&v));
                }
                let expected: Expected = (0..2 * tokens)
                    .flat_map(|row| {
                        let last = start + row % tokens + 1;
                        let first = sliding_window.map_or(0, |window| last.saturating_sub(window));
                        heads(&q, row, &kept[row / tokens], first..last, sinks.as_deref())
                    })
                    .collect();
                let (batch, spec, mut scratch) = (&batch, &spec, Scratch::default());
                let out = made(|out| {
                    let (qkv, sinks, state) = ([&x, &y, &z], loaded.as_ref(), &mut state);
                    let scratch = &mut scratch;
                    let call = AttentionCall { qkv, sinks, state, layer: 0, batch, spec, scratch };
                    self.device.attention(call, out)
                })?;
                self.compare(&what, &out, &expected)?;
            }
        }
        Ok(())
    }

    fn full_attention(&mut self) -> Compared {
        let [(q, x), (k, y), (v, z)] = self.qkv(5)?;
        let of = |row: usize| {
            heads(&q, row, &[k.clone(), v.clone()], if row < 2 { 0..2 } else { 2..5 }, None)
        };
        let expected: Expected = (0..5).flat_map(of).collect();
        let out = made(|out| self.device.full_attention([&x, &y, &z], &[2, 3], &ATTENTION, out))?;
        self.compare("segments of 2 and 3 tokens", &out, &expected)
    }

    fn qkv(&mut self, tokens: usize) -> CoreResult<[(Vec<f32>, D::Tensor); 3]> {
        let AttentionSpec { heads, kv_heads, head_dim, value_dim, .. } = ATTENTION;
        let mut draw = |width| self.tensor([tokens, width]);
        Ok([draw(heads * head_dim)?, draw(kv_heads * head_dim)?, draw(kv_heads * value_dim)?])
    }

    /// Some routers; [`run_routers`](crate::run_routers) runs all.
    fn route(&mut self) -> Compared {
        for case in router_cases().iter().step_by(40) {
            let inputs = case.inputs();
            let routing = case.routing(self.device, &inputs)?;
            case.compare(&inputs, &routing).map_err(|problem| format!("{case:?}: {problem}"))?;
        }
        let all = self.device.read_routing(&made(|out| self.device.route_all(3, out))?)?;
        let same = all.top_k_index() == [0; 3] && (0..3).all(|t| all.pairs(t).eq([(0, 1.0)]));
        same.then_some(()).ok_or_else(|| format!("route_all gave {all:?}").into())
    }

    fn activate(&mut self) -> Compared {
        let tolerance = Tolerance::new(DType::F32);
        for (activation, shape) in Activation::ALL.into_iter().flat_map(|a| SHAPES.map(|s| (a, s)))
        {
            if !self.device.has_activation(activation) {
                continue;
            }
            let gates: Vec<f32> =
                self.values(shape[0] * shape[1]).iter().map(|z| 9.0 * z).collect();
            let gate = self.load(shape, &gates)?;
            let change = |device: &D, up: &mut _| device.activate(activation, Some(&gate), up);
            self.change(activation.name(), shape, change, |at, up| {
                let [gate, up] = [gates[at].into(), up].map(Bounded::exact);
                tolerance.activate_gated(activation, gate, up)
            })?;
            if !activation.needs_gate() {
                let change = |device: &D, x: &mut _| device.activate(activation, None, x);
                let value = |_, x| tolerance.activate(activation, Bounded::exact(x));
                self.change(&format!("{}, no gate", activation.name()), shape, change, value)?;
            }
        }
        Ok(())
    }

    fn add(&mut self) -> Compared {
        for (shape, scale) in SHAPES.into_iter().flat_map(|s| [(s, 1.0), (s, -0.3_f32)]) {
            let (added, y) = self.tensor(shape)?;
            let change = |device: &D, x: &mut _| device.add(x, &y, scale);
            let value = |at, x| sum([x, f64::from(scale) * f64::from(added[at])], 2);
            self.change(&format!("{scale} times"), shape, change, value)?;
        }
        Ok(())
    }

    fn add_gated(&mut self) -> Compared {
        for shape in SHAPES {
            let ((added, y), (gates, gate)) = (self.tensor(shape)?, self.tensor([shape[0], 1])?);
            let change = |device: &D, x: &mut _| device.add_gated(x, &y, &gate);
            self.change("of", shape, change, |at, x| {
                let z = f64::from(gates[at / shape[1]]);
                let factor = reference::gate(GateFunction::Sigmoid, z);
                let gated = scaled(factor, z, added[at].into());
                let Bounded { value, error } = sum([x, gated.value], 2);
                Bounded { value, error: error + gated.error }
            })?;
        }
        Ok(())
    }

    fn gate(&mut self) -> Compared {
        let [rows, cols] = [3, 38];
        // A factor for each row, for each half of it and for each value.
        for (function, gates) in
            GateFunction::ALL.into_iter().flat_map(|f| [1, 2, cols].map(|g| (f, g)))
        {
            let (factors, gate) = self.tensor([rows, gates])?;
            let change = |device: &D, x: &mut _| device.gate(x, &gate, function);
            self.change(
                &format!("{function:?}, {gates} factors"),
                [rows, cols],
                change,
                |at, x| {
                    let z = f64::from(factors[at / (cols / gates)]);
                    scaled(reference::gate(function, z), z, x)
                },
            )?;
        }
        Ok(())
    }

    fn scale(&mut self) -> Compared {
        let value = |_, x| sum([x * f64::from(0.37_f32)], 1);
        let change = |device: &D, x: &mut _| device.scale(x, 0.37);
        SHAPES.into_iter().try_for_each(|shape| self.change("of", shape, change, value))
    }

    fn clamp(&mut self) -> Compared {
        let value = |_, x: f64| Bounded::exact(x.clamp(-0.5, 0.5));
        let change = |device: &D, x: &mut _| device.clamp(x, 0.5);
        SHAPES.into_iter().try_for_each(|shape| self.change("of", shape, change, value))
    }
}
