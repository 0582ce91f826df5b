//! The allowed distance of a result from the reference, decided here and nowhere else.
//!
//! Every number carries a bound on its error, `|computed - exact| <= error`, from the inputs to
//! the output, where *exact* is the f64 reference over the weights as stored. Nothing is fitted to
//! the results of backends. Write `u` for half the distance from 1 to the next f32, `u_w` for
//! the same of the type that inputs may be rounded to, and let a hat mark a computed value.
//!
//! **Inputs of a product.** A backend may round them to a type that the weights' format names
//! ([`WeightFormat::input_dtype`]), where its instruction multiplies like with like. Hidden states
//! are known, so their rounding is known too: `r_i = |x_i - round(x_i)|`, which is 0 where the
//! state is exact in that type. A result of an activation is known up to its error, so
//! `r_i = u_w · (|a_i| + error_i)`, plus half of the smallest number where that is more. For f32
//! weights `r_i = 0`.
//!
//! **A product** of k terms and a bias, `z = Σ w_i · a_i + b`: the inputs move it by
//! `Σ |w_i| · (error_i + r_i)`. Whatever the order of the sum, each term passes through at most
//! `k + 1` roundings (its product, the additions above it, the bias), so these add
//! `(k + 1) · c · u · (Σ |w_i| · |â_i| + |b|)`. Where sums round to nearest, `c = 1`. Units that
//! multiply 16-bit matrices truncate instead, so `c = 2` for f16 and bf16.
//!
//! **An activation** `h = f(gate) · up`: `f` moves by at most `L · error(gate)`, where the slope
//! anywhere between the two gates is at most `L = |f'(gate)| + max |f''| · error(gate)`. Its
//! evaluation adds `EVALUATION · u` relative, and `ARGUMENT · u · |v| · sigmoid(-v)` relative for
//! the rounding of the argument `v` of its sigmoid, which an exponential turns into a relative
//! error. With `f` and `up` so bounded, the product rule gives `h`.
//!
//! **A clamp** comes before `f`, or makes a factor of `up`. It is monotone and rounds nothing: the
//! computed number lies between the clamped ends of `z ± error(z)`, which is one number where both
//! are beyond the limit. An addition to the clamped number is one rounding.
//!
//! **The output** `Σ_k weight_k · y_k`: `Σ |weight_k| · error(y_k)` from the experts, and
//! `K + 2` roundings of each term.
//!
//! **A router's score** of a logit costs `EVALUATION · u` relative and `2 · u` for each unit of the
//! argument of its exponential, at most the width of the logits. A sum of n of them adds `n · u`,
//! the division, epsilon, scale and scale per expert one rounding each. A bias adds one rounding of
//! what experts are picked on, a group's score one more. Experts are compared where that decides
//! them: all values next to each other, down to the last that is chosen, are equal or further
//! apart.
//!
//! Errors multiply each other only in terms kept here too; terms left out are of the order of
//! `(k · u)²`, far below the factor the bounds leave in practice.

pub(crate) mod router;
#[cfg(test)]
mod tests;

use moexperts_core::{
    Activation, DType, Expert, Linear, Matrix, Routing, Tensor, WeightFormat, reference,
};

/// Roundings, in units of `u`, that evaluating an activation may cost beside its argument's: two
/// for an exponential within two units in the last place, each worth two, and the operations
/// around it, with as much again for approximate division.
pub(crate) const EVALUATION: f64 = 16.0;

/// Roundings, in units of `u`, of the argument of an activation's sigmoid: four operations and two
/// rounded constants make it, and one scales it for the exponential.
pub(crate) const ARGUMENT: f64 = 8.0;

/// A number, and a bound on the error of a computed one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounded {
    /// The exact number.
    pub value: f64,
    /// `|computed - value| <= error`.
    pub error: f64,
}

impl Bounded {
    /// A number that every backend has the same.
    pub const fn exact(value: f64) -> Self {
        Self { value, error: 0.0 }
    }

    /// The largest magnitude the computed number can have.
    fn reach(self) -> f64 {
        self.value.abs() + self.error
    }

    fn clamp(self, low: f64, high: f64) -> Self {
        let clamped = |moved: f64| (self.value + moved).clamp(low, high);
        let [least, value, most] = [-self.error, 0.0, self.error].map(clamped);
        Self { value, error: (value - least).max(most - value) }
    }
}

/// The allowance over weights of one format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// The type that inputs of a product may be rounded to.
    inputs: DType,
    /// `c · u`: the largest relative error of one rounding of a sum.
    sum_rounding: f64,
}

/// `u`.
pub(crate) const ROUNDING: f64 = DType::F32.epsilon() / 2.0;

/// The smallest f32 some processors do not take for 0.
pub(crate) const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

impl Tolerance {
    /// For weights stored in a format.
    pub fn new(format: impl Into<WeightFormat>) -> Self {
        let inputs = format.into().input_dtype();
        let factor = match inputs {
            DType::F32 => 1.0,
            DType::F16 | DType::Bf16 => 2.0,
        };
        Self { inputs, sum_rounding: factor * ROUNDING }
    }

    /// The allowance for each output [T, H] of an experts layer.
    ///
    /// # Panics
    /// If shapes disagree, or the activation is one whose curve this crate does not know.
    pub fn experts(
        &self,
        experts: &[Expert<Matrix, Vec<f32>>],
        activation: Activation,
        x: &Tensor,
        routing: &Routing,
    ) -> Vec<f64> {
        let experts: Vec<WideExpert<'_>> = experts.iter().map(WideExpert::new).collect();
        let mut allowance = Vec::with_capacity(x.rows() * x.cols());
        for token in 0..x.rows() {
            let inputs: Vec<Bounded> =
                x.row(token).iter().map(|&value| Bounded::exact(f64::from(value))).collect();
            let mut spread = vec![0.0; x.cols()];
            let mut magnitude = vec![0.0; x.cols()];
            for (id, weight) in routing.pairs(token) {
                let Some(expert) = experts.get(id as usize) else { continue };
                let weight = f64::from(weight).abs();
                let outputs = self.expert(expert, activation, &inputs);
                for ((spread, magnitude), output) in
                    spread.iter_mut().zip(&mut magnitude).zip(outputs)
                {
                    *spread += weight * output.error;
                    *magnitude += weight * output.reach();
                }
            }
            let rounding = (routing.top_k() + 2) as f64 * self.sum_rounding;
            allowance.extend(spread.iter().zip(&magnitude).map(|(s, m)| s + rounding * m));
        }
        allowance
    }

    /// `weight · x + bias`.
    ///
    /// # Panics
    /// If shapes disagree.
    pub fn linear(&self, linear: &Linear<Matrix, Vec<f32>>, x: &[Bounded]) -> Vec<Bounded> {
        self.product(&WideLinear::new(linear), x)
    }

    /// An activation with a gate.
    ///
    /// # Panics
    /// If the activation is one whose curve this crate does not know.
    pub fn activate_gated(&self, activation: Activation, gate: Bounded, up: Bounded) -> Bounded {
        let value = reference::activate_gated(activation, gate.value, up.value);
        let factor = match activation {
            Activation::ClampedSwiglu { limit, .. } => {
                let clamped = up.clamp(-f64::from(limit), f64::from(limit));
                let plus_1 = Bounded { value: clamped.value + 1.0, ..clamped };
                Bounded { error: plus_1.error + ROUNDING * plus_1.reach(), ..plus_1 }
            }
            Activation::ClampedSilu { limit } => up.clamp(-f64::from(limit), f64::from(limit)),
            _ => up,
        };
        let curve = self.activate(activation, gate);
        let error = curve.error * factor.reach()
            + curve.value.abs() * factor.error
            + ROUNDING * curve.reach() * factor.reach();
        Bounded { value, error }
    }

    /// An activation without a gate.
    ///
    /// # Panics
    /// If the activation is one whose curve this crate does not know.
    pub fn activate(&self, activation: Activation, z: Bounded) -> Bounded {
        let z = match activation {
            Activation::ClampedSwiglu { limit, .. } | Activation::ClampedSilu { limit } => {
                z.clamp(f64::NEG_INFINITY, f64::from(limit))
            }
            _ => z,
        };
        let Curve { slope, curvature, argument, cancels } = Curve::at(activation, z.value);
        let value = reference::activate(activation, z.value);
        let moved = (slope.abs() + curvature * z.error) * z.error;
        let relative = EVALUATION + ARGUMENT * argument.abs() * sigmoid(-argument);
        // An exponential may underflow; then its exact value is less than this.
        let floor = 2.0 * SMALLEST * z.value.abs();
        let lost = if cancels { 4.0 * ROUNDING * z.reach() } else { 0.0 };
        let error = moved + ROUNDING * relative * (value.abs() + moved) + floor + lost;
        Bounded { value, error }
    }

    fn expert(
        &self,
        expert: &WideExpert<'_>,
        activation: Activation,
        x: &[Bounded],
    ) -> Vec<Bounded> {
        let up = self.product(&expert.up, x);
        let inner: Vec<Bounded> = match &expert.gate {
            Some(gate) => {
                let gate = self.product(gate, x);
                let pairs = gate.into_iter().zip(up);
                pairs.map(|(gate, up)| self.activate_gated(activation, gate, up)).collect()
            }
            None => up.into_iter().map(|up| self.activate(activation, up)).collect(),
        };
        self.product(&expert.down, &inner)
    }

    fn product(&self, linear: &WideLinear<'_>, x: &[Bounded]) -> Vec<Bounded> {
        assert_eq!(linear.inputs, x.len(), "inputs");
        let errors: Vec<f64> = x.iter().map(|&x| x.error + self.input_rounding(x)).collect();
        let roundings = (x.len() + 1) as f64;
        let output = |row: usize| {
            let (mut value, mut spread, mut magnitude) = (0.0, 0.0, 0.0);
            let weights = &linear.weights[row * linear.inputs..(row + 1) * linear.inputs];
            for ((&weight, x), error) in weights.iter().zip(x).zip(&errors) {
                let weight = f64::from(weight);
                value += weight * x.value;
                spread += weight.abs() * error;
                magnitude += weight.abs() * (x.value.abs() + error);
            }
            let bias = linear.bias.map_or(0.0, |bias| f64::from(bias[row]));
            magnitude += bias.abs();
            let vanished = if magnitude > 0.0 { roundings * SMALLEST } else { 0.0 };
            let error = spread + roundings * self.sum_rounding * magnitude + vanished;
            Bounded { value: value + bias, error }
        };
        (0..linear.outputs).map(output).collect()
    }

    /// The largest change of an input by rounding it.
    fn input_rounding(&self, x: Bounded) -> f64 {
        let smallest = match self.inputs {
            DType::F32 => return 0.0,
            // Half of 2^-24.
            DType::F16 => 2.0_f64.powi(-25),
            DType::Bf16 => SMALLEST,
        };
        if x.error > 0.0 {
            return self.inputs.epsilon() / 2.0 * x.reach() + smallest;
        }
        let rounded = Matrix::from_f32(1, 1, &[x.value as f32], self.inputs)
            .expect("one value for one element")
            .row(0)
            .get(0);
        (x.value - f64::from(rounded)).abs()
    }
}

/// A projection with its weights widened once.
struct WideLinear<'a> {
    weights: Vec<f32>,
    outputs: usize,
    inputs: usize,
    bias: Option<&'a [f32]>,
}

impl<'a> WideLinear<'a> {
    fn new(linear: &'a Linear<Matrix, Vec<f32>>) -> Self {
        Self {
            weights: linear.weight.to_f32(),
            outputs: linear.weight.rows(),
            inputs: linear.weight.cols(),
            bias: linear.bias.as_deref(),
        }
    }
}

struct WideExpert<'a> {
    gate: Option<WideLinear<'a>>,
    up: WideLinear<'a>,
    down: WideLinear<'a>,
}

impl<'a> WideExpert<'a> {
    fn new(expert: &'a Expert<Matrix, Vec<f32>>) -> Self {
        Self {
            gate: expert.gate_proj.as_ref().map(WideLinear::new),
            up: WideLinear::new(&expert.up_proj),
            down: WideLinear::new(&expert.down_proj),
        }
    }
}

/// An activation near a point.
struct Curve {
    /// The derivative there.
    slope: f64,
    /// The largest second derivative anywhere.
    curvature: f64,
    /// Argument of its sigmoid.
    argument: f64,
    /// Whether the formula cancels: `1 + tanh` keeps the absolute rounding error of `tanh`.
    cancels: bool,
}

impl Curve {
    /// At `z`, already clamped where the activation clamps.
    fn at(activation: Activation, z: f64) -> Self {
        // z · sigmoid(alpha · z).
        let swish = |alpha: f64| {
            let s = sigmoid(alpha * z);
            let slope = s + alpha * z * s * (1.0 - s);
            Self { slope, curvature: alpha.abs() / 2.0, argument: alpha * z, cancels: false }
        };
        match activation {
            Activation::Silu | Activation::ClampedSilu { .. } => swish(1.0),
            Activation::ClampedSwiglu { alpha, .. } => swish(f64::from(alpha)),
            Activation::Gelu => {
                let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let below = if z == 0.0 { 0.5 } else { reference::activate(activation, z) / z };
                // An exponential of z²/2 below zero, one less such an exponential above.
                let argument = z * z.abs() / 2.0;
                Self { slope: below + z * density, curvature: 0.8, argument, cancels: true }
            }
            Activation::GeluTanh => {
                let scale = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
                let argument = scale * (z + 0.044715 * z * z * z);
                let s = sigmoid(argument);
                let slope = s + z * s * (1.0 - s) * scale * (1.0 + 3.0 * 0.044715 * z * z);
                Self { slope, curvature: 0.9, argument, cancels: true }
            }
            Activation::Relu2 => {
                Self { slope: 2.0 * z.max(0.0), curvature: 2.0, argument: 0.0, cancels: false }
            }
            _ => panic!("the allowance of {} is not known", activation.name()),
        }
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// The first output beyond its allowed distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mismatch {
    /// Row of the output.
    pub token: usize,
    /// Column of the output.
    pub column: usize,
    /// The backend's value.
    pub got: f32,
    /// The reference's value.
    pub expected: f64,
    /// The allowed distance.
    pub allowance: f64,
}

impl Mismatch {
    /// Compares results [T, H] with expected ones.
    ///
    /// # Errors
    /// The first value that is NaN or too far off.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn find(
        got: &[f32],
        expected: &[f64],
        allowance: &[f64],
        hidden: usize,
    ) -> Result<(), Self> {
        assert!(got.len() == expected.len() && got.len() == allowance.len(), "lengths");
        let near = |at: usize| (f64::from(got[at]) - expected[at]).abs() <= allowance[at];
        match (0..got.len()).find(|&at| !near(at)) {
            None => Ok(()),
            Some(at) => Err(Self {
                token: at / hidden,
                column: at % hidden,
                got: got[at],
                expected: expected[at],
                allowance: allowance[at],
            }),
        }
    }
}
