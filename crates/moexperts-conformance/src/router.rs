//! Routers that every device has to have: cases, and the check of one.

#[cfg(test)]
mod tests;

use std::{error, fmt};

use moexperts_core::{
    Device, ExpertGroups, PickOn, Result as CoreResult, RouteOperands, RouterSpec, Routing, Score,
    made, reference,
};

use crate::{random::Random, tolerance::router::RouterTolerance};

/// A router, and the distribution of its inputs. Equal cases hold equal values on every machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouterCase {
    /// The family that has such a router, or the purpose of the case.
    pub name: &'static str,
    /// The router.
    pub spec: RouterSpec,
    /// E: experts.
    pub experts: usize,
    /// T: tokens.
    pub tokens: usize,
    /// The distribution of logits and the pick bias.
    pub logits: RouterLogits,
    /// Whether there is a pick bias.
    pub pick_bias: bool,
    /// Whether there is a scale per expert.
    pub per_expert_scale: bool,
    /// Seed of the generator.
    pub seed: u64,
}

/// The distribution of router logits and the pick bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterLogits {
    /// Spread like those of trained routers.
    Ordinary,
    /// From a few numbers, so that many experts are equal.
    Tied,
    /// Where scores saturate or nearly vanish.
    Wide,
}

impl RouterLogits {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Ordinary, Self::Tied, Self::Wide];
}

/// The inputs of a router.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterInputs {
    /// [T, E], row-major.
    pub logits: Vec<f32>,
    /// \[E\].
    pub pick_bias: Option<Vec<f32>>,
    /// \[E\].
    pub per_expert_scale: Option<Vec<f32>>,
}

/// [E, K]: experts that fill no warp and more than one, primes, powers of two, and all experts.
const SHAPES: [[usize; 2]; 15] = [
    [4, 1],
    [4, 2],
    [5, 5],
    [6, 3],
    [8, 2],
    [16, 4],
    [33, 3],
    [60, 4],
    [64, 6],
    [128, 8],
    [160, 6],
    [256, 8],
    [288, 5],
    [300, 7],
    [1024, 8],
];

const NEVER: f32 = f32::NEG_INFINITY;

/// Every case, in a stable order.
pub fn router_cases() -> Vec<RouterCase> {
    let mut cases = Vec::new();
    let mut random = Random::new(1);
    for shape in SHAPES {
        families(shape, &mut random, &mut cases);
    }
    for score in Score::ALL {
        for pick_on in PickOn::ALL {
            for group in [None, Some((1, 0.0)), Some((1, NEVER)), Some((2, 0.0)), Some((2, NEVER))]
            {
                for normalise in [None, Some(0.0), Some(1e-20), Some(0.5)] {
                    for pick_bias in [false, true] {
                        let [experts, top_k] = SHAPES[random.below(SHAPES.len())];
                        let mut spec = RouterSpec::new(top_k, score).picking_on(pick_on);
                        spec.groups = group.map(|(best, masked)| {
                            groups([experts, top_k], best, masked, &mut random)
                        });
                        spec.normalise = normalise;
                        spec.scale = [1.0, 2.5, -0.5][random.below(3)];
                        let per_expert_scale = random.below(2) == 0;
                        let base = case("walk", spec, experts, &mut random);
                        cases.push(RouterCase { pick_bias, per_expert_scale, ..base });
                    }
                }
            }
        }
    }
    cases
}

fn case(name: &'static str, spec: RouterSpec, experts: usize, random: &mut Random) -> RouterCase {
    let logits = RouterLogits::ALL[random.below(3)];
    let seed = random.bits();
    let (pick_bias, per_expert_scale) = (false, false);
    RouterCase { name, spec, experts, tokens: 5, logits, pick_bias, per_expert_scale, seed }
}

/// The routers of model families, each with the given shape.
fn families([experts, top_k]: [usize; 2], random: &mut Random, cases: &mut Vec<RouterCase>) {
    let mut add = |name, spec: RouterSpec, pick_bias, per_expert_scale| {
        let base = case(name, spec, experts, random);
        cases.push(RouterCase { pick_bias, per_expert_scale, ..base });
    };
    let (softmax, sigmoid) = (RouterSpec::softmax(top_k, false), RouterSpec::sigmoid(top_k));
    add("qwen2_moe", softmax, false, false);
    add("mixtral", RouterSpec::softmax(top_k, true), false, false);
    add("gemma4", RouterSpec::softmax(top_k, true), false, true);
    add("ernie4_5_moe", softmax.with_normalise(1e-12), true, false);
    add("longcat_flash", softmax.with_scale(6.0), true, false);
    add("flint", sigmoid.with_normalise(0.0), false, false);
    add("minimax_m2", sigmoid.with_normalise(0.0), true, false);
    add("lfm2_moe", sigmoid.with_normalise(1e-6), true, false);
    add("hy_v3", sigmoid.with_normalise(1e-20).with_scale(2.826), true, false);
    add("kolibri1", sigmoid.with_normalise(0.0).picking_on(PickOn::Logits), true, false);
    let root = RouterSpec::new(top_k, Score::SqrtSoftplus);
    add("deepseek_v4", root.with_normalise(1e-20).with_scale(1.5), true, false);
    let mut add = |name, spec: RouterSpec, [best, masked]: [f32; 2], pick_bias| {
        let groups = groups([experts, top_k], best as usize, masked, random);
        let base = case(name, spec.with_groups(groups), experts, random);
        cases.push(RouterCase { pick_bias, ..base });
    };
    add("deepseek_v2", softmax.with_scale(16.0), [1.0, 0.0], false);
    add("mistral4", softmax.with_normalise(1e-20).with_scale(1.5), [2.0, 0.0], false);
    let v3 = sigmoid.with_normalise(1e-20).with_scale(2.5);
    add("deepseek_v3", v3, [2.0, 0.0], true);
    add("deepseek_v3", v3, [2.0, NEVER], true);
}

/// Groups of such experts, about half of which are kept.
fn groups(
    [experts, top_k]: [usize; 2],
    best: usize,
    masked: f32,
    random: &mut Random,
) -> ExpertGroups {
    let fits = |count: &usize| experts.is_multiple_of(*count) && experts / count >= best;
    let counts: Vec<usize> = (1..=ExpertGroups::MAX_COUNT).filter(fits).collect();
    let count = counts[random.below(counts.len())];
    let keep = count.div_ceil(2).max(top_k.div_ceil(experts / count));
    ExpertGroups { count, keep, best, masked }
}

impl RouterCase {
    /// Draws the values of the case.
    pub fn inputs(&self) -> RouterInputs {
        let random = &mut Random::new(self.seed);
        let reach = if self.logits == RouterLogits::Wide { 30.0 } else { 4.0 };
        let [few_logits, few_biases] =
            [reach, 0.8].map(|reach| [(); 3].map(|()| random.between(-reach, reach)));
        let mut draw = |count: usize, few: &[f32], reach: f32| -> Vec<f32> {
            let value = |_| match self.logits {
                RouterLogits::Tied => few[random.below(few.len())],
                _ => random.between(-reach, reach),
            };
            (0..count).map(value).collect()
        };
        let logits = draw(self.tokens * self.experts, &few_logits, reach);
        let pick_bias = self.pick_bias.then(|| draw(self.experts, &few_biases, 0.8));
        let scales = (0..self.experts).map(|_| random.between(0.5, 2.0)).collect();
        RouterInputs {
            logits,
            pick_bias,
            per_expert_scale: self.per_expert_scale.then_some(scales),
        }
    }

    /// The routing that a device computes.
    ///
    /// # Errors
    /// The error of the device.
    pub fn routing<D: Device>(&self, device: &D, inputs: &RouterInputs) -> CoreResult<Routing> {
        let vector = |values: &Option<Vec<f32>>| {
            values.clone().map(|values| device.load_vector(values)).transpose()
        };
        let pick_bias = vector(&inputs.pick_bias)?;
        let per_expert_scale = vector(&inputs.per_expert_scale)?;
        let mut logits = D::Tensor::default();
        device.load_tensor(self.tokens, self.experts, &inputs.logits, &mut logits)?;
        let operands = RouteOperands {
            pick_bias: pick_bias.as_ref(),
            per_expert_scale: per_expert_scale.as_ref(),
            shared: None,
        };
        let routing = made(|out| device.route(&logits, &self.spec, operands, out))?;
        device.read_routing(&routing)
    }

    /// Compares a routing with the reference, and returns the number of tokens that were compared:
    /// those whose experts are certain in f32.
    ///
    /// # Errors
    /// A text that names the first token whose experts or weights differ.
    pub fn compare(&self, inputs: &RouterInputs, routing: &Routing) -> Result<usize, String> {
        let shape = [routing.tokens(), routing.top_k()];
        if self.spec.top_k > 0 && shape != [self.tokens, self.spec.top_k] {
            return Err(format!("it has shape {shape:?}"));
        }
        let wide =
            |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
        let [bias, scale] =
            [&inputs.pick_bias, &inputs.per_expert_scale].map(|v| v.as_deref().map(wide));
        let mut decided = 0;
        for (token, logits) in inputs.logits.chunks_exact(self.experts).enumerate() {
            let logits = wide(logits);
            let tolerance = RouterTolerance::new(&self.spec, &logits, bias.as_deref());
            if !tolerance.decides {
                continue;
            }
            decided += 1;
            let expected = reference::route(&logits, &self.spec, bias.as_deref(), scale.as_deref());
            let near = |((id, weight), (expected_id, expected)): ((u32, f32), &(u32, f64))| {
                let allowed = tolerance.weight(*expected);
                id == *expected_id && (f64::from(weight) - expected).abs() <= allowed
            };
            if !routing.pairs(token).zip(&expected).all(near) {
                let got: Vec<_> = routing.pairs(token).collect();
                return Err(format!("token {token} has {got:?}, expected {expected:?}"));
            }
        }
        Ok(decided)
    }
}

/// Runs every router. Its experts must be the reference's, wherever they are certain in f32, and
/// its weights within the tolerance.
///
/// # Errors
/// The first case that does not pass.
pub fn run_routers<D: Device>(device: &D) -> Result<RouterReport, RouterFailure> {
    let mut report = RouterReport::default();
    for case in router_cases() {
        let inputs = case.inputs();
        let result = case.routing(device, &inputs).map_err(|error| error.to_string());
        let decided = result
            .and_then(|routing| case.compare(&inputs, &routing))
            .map_err(|problem| RouterFailure { device: D::NAME, case: Box::new(case), problem })?;
        report.compared += decided;
        report.undecided += case.tokens - decided;
    }
    Ok(report)
}

/// Tokens of all routers that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouterReport {
    /// Tokens that were compared.
    pub compared: usize,
    /// Tokens that were not compared, since rounding may change their experts.
    pub undecided: usize,
}

/// A router that a device computes wrongly.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterFailure {
    /// The device.
    pub device: &'static str,
    /// The case.
    pub case: Box<RouterCase>,
    /// The problem.
    pub problem: String,
}

impl fmt::Display for RouterFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, case, problem } = self;
        write!(f, "{device}, router {case:?}: {problem}")
    }
}

impl error::Error for RouterFailure {}
