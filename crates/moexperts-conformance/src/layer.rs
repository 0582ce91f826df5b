//! The values of a case.

use moexperts_core::{DType, Expert, Linear, Matrix, Routing, Tensor, WeightFormat};

use crate::{
    case::{Case, GateUpLayout, Routes, RoutingWeights, Values},
    random::Random,
};

/// The values of a case, in host memory.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The experts, gate and up where the case says.
    pub experts: Vec<Expert<Matrix, Vec<f32>>>,
    /// hidden_states [T, H].
    pub x: Tensor,
    /// top_k_index and top_k_weights [T, K].
    pub routing: Routing,
}

impl Layer {
    /// Draws the values of a case.
    ///
    /// # Panics
    /// If the case has no experts, or a probe has I > H.
    pub fn new(case: &Case) -> Self {
        let mut random = Random::new(case.seed);
        Self {
            experts: experts(case, &mut random),
            x: hidden_states(case, &mut random),
            routing: routing(case, &mut random),
        }
    }
}

/// Which projection a weight belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Projection {
    Gate,
    Up,
    Down,
}

fn experts(case: &Case, random: &mut Random) -> Vec<Expert<Matrix, Vec<f32>>> {
    let spec = &case.spec;
    let (hidden, intermediate) = (spec.hidden, spec.intermediate);
    let probe = matches!(case.values, Values::InputProbe | Values::DownProbe);
    assert!(spec.experts > 0 && (!probe || intermediate <= hidden), "{case}");
    let mut draw = |projection: Projection, rows: usize, cols: usize| -> Vec<f32> {
        let cells = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
        cells.map(|(row, col)| weight(case, random, projection, row, col)).collect()
    };
    let (mut gates, mut ups, mut downs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..spec.experts {
        gates.push(draw(Projection::Gate, intermediate, hidden));
        ups.push(draw(Projection::Up, intermediate, hidden));
        downs.push(draw(Projection::Down, hidden, intermediate));
    }
    let views = gate_up_views(case, &gates, &ups);
    let downs = matrix(spec.experts * hidden, intermediate, &downs.concat(), spec.format);
    let mut linear = |weight: Matrix| {
        let bias = (0..weight.rows()).map(|_| random.between(-0.5, 0.5)).collect::<Vec<_>>();
        Linear { weight, bias: spec.bias.then_some(bias) }
    };
    let expert = |(index, (gate, up)): (usize, (Matrix, Matrix))| Expert {
        gate_proj: spec.gated.then(|| linear(gate)),
        up_proj: linear(up),
        down_proj: linear(downs.row_range(index * hidden..(index + 1) * hidden)),
    };
    views.into_iter().enumerate().map(expert).collect()
}

/// Weights are uniform and make products of variance near 2, or as the probes say.
fn weight(case: &Case, random: &mut Random, projection: Projection, row: usize, col: usize) -> f32 {
    let spec = &case.spec;
    let dense = |inputs: usize, random: &mut Random| {
        let reach = 1.5 * (3.0 / inputs as f32).sqrt();
        random.between(-reach, reach)
    };
    // Gates where activations neither vanish nor saturate, ups that outweigh the 1 that the clamped
    // swiglu adds: then a change of a weight changes the result as much.
    let alone = |random: &mut Random| match projection {
        Projection::Gate | Projection::Down => random.between(0.5, 1.5),
        Projection::Up => random.between(2.0, 4.0),
    };
    let only = |wanted: bool, random: &mut Random| if wanted { alone(random) } else { 0.0 };
    match (case.values, projection) {
        (Values::InputProbe, Projection::Down) => only(row % spec.intermediate == col, random),
        (Values::DownProbe, Projection::Gate | Projection::Up) => only(row == col, random),
        (Values::InputProbe | Values::DownProbe, _) => alone(random),
        (_, Projection::Down) => dense(spec.intermediate, random),
        (_, Projection::Gate | Projection::Up) => dense(spec.hidden, random),
    }
}

/// The gate and the up projection of each expert as views of the stored matrix.
fn gate_up_views(case: &Case, gates: &[Vec<f32>], ups: &[Vec<f32>]) -> Vec<(Matrix, Matrix)> {
    let spec = &case.spec;
    let (hidden, intermediate) = (spec.hidden, spec.intermediate);
    let pairs = gates.iter().zip(ups);
    let rows = spec.experts * 2 * intermediate;
    match case.gate_up {
        GateUpLayout::Separate => {
            let own = |values: &Vec<f32>| matrix(intermediate, hidden, values, spec.format);
            pairs.map(|(gate, up)| (own(gate), own(up))).collect()
        }
        GateUpLayout::Concatenated => {
            let stored: Vec<f32> = pairs.flat_map(|(gate, up)| [&gate[..], up].concat()).collect();
            let stored = matrix(rows, hidden, &stored, spec.format);
            let view =
                |half: usize| stored.row_range(half * intermediate..(half + 1) * intermediate);
            (0..spec.experts).map(|expert| (view(2 * expert), view(2 * expert + 1))).collect()
        }
        GateUpLayout::Interleaved => {
            let turns = pairs.flat_map(|(gate, up)| {
                let rows = gate.chunks_exact(hidden).zip(up.chunks_exact(hidden));
                rows.flat_map(|(gate, up)| [gate, up].concat())
            });
            let stored = matrix(rows, hidden, &turns.collect::<Vec<_>>(), spec.format);
            let view = |expert: usize, first: usize| {
                let rows = expert * 2 * intermediate..(expert + 1) * 2 * intermediate;
                stored.rows_stepped(rows.start + first..rows.end, 2)
            };
            (0..spec.experts).map(|expert| (view(expert, 0), view(expert, 1))).collect()
        }
    }
}

/// Values rounded to a format.
///
/// # Panics
/// If the format is not dense: such cases need weights that are made in it.
fn matrix(rows: usize, cols: usize, values: &[f32], format: WeightFormat) -> Matrix {
    let dtype = format.dense().expect("the cases are of dense formats");
    Matrix::from_f32(rows, cols, values, dtype).expect("as many values as the shape says")
}

fn hidden_states(case: &Case, random: &mut Random) -> Tensor {
    let (tokens, hidden) = (case.tokens, case.spec.hidden);
    let dtype = case.spec.format.input_dtype();
    let mut x = Tensor::zeros(tokens, hidden);
    for token in 0..tokens {
        let row = x.row_mut(token);
        match case.values {
            Values::InputProbe | Values::DownProbe => {
                row[token / case.spec.experts % hidden] = 1.0;
            }
            Values::Ordinary | Values::Unrounded | Values::Large => {
                let reach = match (case.values, dtype) {
                    // The result of a gated relu2 is the cube of this, and has to fit.
                    (Values::Large, DType::F16) => 7.0,
                    (Values::Large, _) => 1700.0,
                    _ => 1.7,
                };
                row.fill_with(|| random.between(-reach, reach));
            }
        }
    }
    if case.values != Values::Unrounded {
        let rounded = matrix(tokens, hidden, x.data(), dtype.into()).to_f32();
        x.data_mut().copy_from_slice(&rounded);
    }
    x
}

fn routing(case: &Case, random: &mut Random) -> Routing {
    let (mut ids, mut weights) = (Vec::new(), Vec::new());
    for token in 0..case.tokens {
        ids.extend(token_ids(case, random, token));
        let mut drawn: Vec<f32> = match case.routing_weights {
            RoutingWeights::Normalised => {
                (0..case.top_k).map(|_| random.between(0.1, 1.0)).collect()
            }
            RoutingWeights::Signed => (0..case.top_k)
                .map(|_| if random.below(4) == 0 { 0.0 } else { random.between(-2.0, 2.0) })
                .collect(),
            RoutingWeights::Zero => vec![0.0; case.top_k],
            RoutingWeights::One => vec![1.0; case.top_k],
        };
        if case.routing_weights == RoutingWeights::Normalised {
            let total: f32 = drawn.iter().sum();
            drawn.iter_mut().for_each(|weight| *weight /= total);
        }
        weights.extend(drawn);
    }
    Routing::new(case.top_k, ids, weights).expect("K ids and weights for each token")
}

fn token_ids(case: &Case, random: &mut Random, token: usize) -> Vec<u32> {
    let (experts, top_k) = (case.spec.experts, case.top_k);
    let sentinels = [experts as u32, experts as u32 + 1, u32::MAX];
    let mut id = |place: usize| match case.routes {
        Routes::Distinct | Routes::Any | Routes::Repeated => random.below(experts) as u32,
        Routes::OneExpert => (experts / 2) as u32,
        Routes::FewExperts => (random.below(experts.div_ceil(3)) * 3) as u32,
        Routes::SomeSentinels if token == 0 || random.below(3) == 0 => sentinels[random.below(3)],
        Routes::SomeSentinels => random.below(experts) as u32,
        Routes::AllSentinels => sentinels[random.below(3)],
        Routes::InTurn => ((token * top_k + place) % experts) as u32,
    };
    match case.routes {
        Routes::Distinct => {
            let mut ids: Vec<u32> = (0..experts.max(top_k) as u32).collect();
            for place in 0..top_k {
                let other = place + random.below(ids.len() - place);
                ids.swap(place, other);
            }
            ids.truncate(top_k);
            ids
        }
        Routes::Repeated => {
            let mut ids: Vec<u32> = (0..top_k).map(&mut id).collect();
            for place in (1..top_k).step_by(2) {
                ids[place] = ids[place - 1];
            }
            ids
        }
        _ => (0..top_k).map(id).collect(),
    }
}
