use std::{collections::HashMap, path::Path, sync::Arc};

use moexperts_core::{Execution, ExpertsInterface};
use moexperts_cpu::{Cpu, CpuOptions};

use super::*;
use crate::{
    compile::fuse::{JoinedExperts, fuse},
    experts_implementation::DEFAULT,
    families,
    files::ModelFiles,
    graph::{RowCounts, Value, ValueShape},
    model::{Decoder, LogitsRows},
    weights::Weights,
};

const CASES: [&str; 10] = [
    "qwen2_moe",
    "qwen2_moe_window",
    "qwen3_moe",
    "qwen3_moe_fused",
    "olmoe",
    "mixtral",
    "qwen3_vl_moe",
    "gpt_oss",
    "granitemoe",
    "minimax_m2",
];

fn decoder(case: &str) -> Decoder<Cpu> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(case);
    let files = ModelFiles::open(&folder).unwrap();
    let cpu = Cpu::new(CpuOptions::default()).unwrap();
    let spec = families::describe(&files.config).unwrap().text;
    let inventory = spec.tensors(&files.checkpoint);
    let mut weights = Weights::new(&cpu, &files.checkpoint, inventory, None, &());
    Decoder::load(spec, &mut weights).unwrap()
}

fn classes() -> Vec<ShapeClass> {
    let mut classes = vec![ShapeClass::decode(1), ShapeClass::decode(3)];
    for (tokens, sequences) in [(7, 1), (40, 3), (100, 64)] {
        let class = ShapeClass::prefill(tokens, sequences);
        let all = ShapeClass { logits: LogitsRows::All, logits_rows: class.tokens, ..class };
        classes.extend([class, all]);
        classes.extend([class, all].map(|class| ShapeClass { visuals: Some(2), ..class }));
    }
    classes
}

fn graph(
    decoder: &Decoder<Cpu>,
    backend: &Arc<dyn ExpertsBackend<Cpu>>,
    class: ShapeClass,
) -> Graph<Cpu> {
    let mut graph = decoder.graph().clone();
    let dense = ExpertsInterface::get(DEFAULT).unwrap();
    let joined = JoinedExperts::default();
    fuse(&mut graph, decoder.device(), class, &dense, Some(&**backend), &joined);
    graph
}

/// Calls `check` with the graph and the plan of every case, backend and class.
fn every_plan(mut check: impl FnMut(&str, &Decoder<Cpu>, Nodes, &Plan<Cpu>)) {
    for case in CASES {
        let decoder = decoder(case);
        for backend in Cpu::built_in_experts() {
            for class in classes() {
                let what = format!("{case}, {}, {class}", backend.name());
                let graph = graph(&decoder, &backend, class);
                let nodes = Nodes {
                    reads: graph.nodes.iter().map(|node| node.reads.clone()).collect(),
                    writes: graph.nodes.iter().map(|node| node.writes.clone()).collect(),
                    values: graph.values.clone(),
                    output: graph.outputs[0],
                };
                let traits = BackendTraits::of(&*backend);
                let plan = Plan::new(decoder.device(), graph, class, traits);
                assert_eq!(plan.steps().len(), nodes.reads.len(), "{what}");
                check(&what, &decoder, nodes, &plan);
            }
        }
    }
}

/// What a graph reads and writes; the graph itself goes into the plan.
struct Nodes {
    reads: Vec<Vec<Value>>,
    writes: Vec<Vec<Value>>,
    values: Vec<ValueShape>,
    output: Value,
}

impl Nodes {
    fn is_routing(&self, value: Value) -> bool {
        matches!(self.values[value.0], ValueShape::Routing { .. })
    }

    /// Values or pairs of a value, for the largest shape of a class.
    fn len(&self, value: Value, counts: RowCounts) -> usize {
        match self.values[value.0] {
            ValueShape::Tensor { rows, cols } => rows.count(counts) * cols,
            ValueShape::Routing { experts_per_token } => counts.tokens * experts_per_token,
        }
    }
}

/// Follows what lies in each place from step to step: a value that another was put over too
/// early is not there when it is read.
#[test]
fn every_value_is_still_in_its_place_when_it_is_read() {
    every_plan(|what, _, nodes, plan| {
        // By kind and place.
        let mut holds: HashMap<(bool, usize), Value> = HashMap::new();
        let mut place_of: HashMap<Value, usize> = HashMap::new();
        for (index, step) in plan.steps().iter().enumerate() {
            let what = format!("{what}: step {index}, {}", step.op.name());
            let reads = nodes.reads[index].iter().zip(&step.reads);
            let writes = nodes.writes[index].iter().zip(&step.writes);
            assert_eq!(reads.len(), step.reads.len(), "{what}");
            assert_eq!(writes.len(), step.writes.len(), "{what}");
            for (value, &place) in reads {
                let held = holds.get(&(nodes.is_routing(*value), place));
                assert_eq!(held, Some(value), "{what} reads place {place}");
            }
            let mut touched: Vec<(bool, usize)> = Vec::new();
            let all = nodes.reads[index].iter().zip(&step.reads).chain(writes.clone());
            for (value, &place) in all {
                touched.push((nodes.is_routing(*value), place));
            }
            touched.sort_unstable();
            assert!(touched.windows(2).all(|pair| pair[0] != pair[1]), "{what}: {touched:?}");
            for (value, &place) in writes {
                let kind = nodes.is_routing(*value);
                // What was written before is changed in place, and so has to be there.
                if let Some(&before) = place_of.get(value) {
                    assert_eq!(before, place, "{what}");
                    assert_eq!(holds.get(&(kind, place)), Some(value), "{what}");
                }
                place_of.insert(*value, place);
                holds.insert((kind, place), *value);
                let counts = plan.class.at_most();
                let held = plan.program.held(nodes.values[value.0], place, counts);
                assert!(nodes.len(*value, counts) <= held, "{what}");
            }
        }
        assert_eq!(
            holds.get(&(false, plan.program.outputs[0])),
            Some(&nodes.output),
            "{what}: the logits"
        );
    });
}

#[test]
fn the_workspace_is_smaller_than_all_values_together() {
    every_plan(|what, _, nodes, plan| {
        let mut written: Vec<Value> = nodes.writes.iter().flatten().copied().collect();
        written.sort_unstable();
        written.dedup();
        let bytes = |&value: &Value| {
            nodes.len(value, plan.class.at_most()) * if nodes.is_routing(value) { 8 } else { 4 }
        };
        let all: usize = written.iter().map(bytes).sum();
        let largest = written.iter().map(bytes).max().unwrap_or(0);
        let got = plan.workspace_bytes();
        assert!(largest <= got && got < all, "{what}: {got} of {all}, largest {largest}");
    });
}

#[test]
fn a_plan_breaks_at_the_routed_experts_of_a_backend_that_reads_the_routing() {
    every_plan(|what, decoder, _, plan| {
        let routed = decoder.experts().len();
        let breaks: Vec<&Step<Cpu>> = plan.breaks().map(|(step, _)| step).collect();
        if plan.backend.name != "eager" {
            assert_eq!((plan.pieces(), breaks.len()), (1, 0), "{what}");
            return;
        }
        // Dense layers run on a backend that does not read it.
        assert_eq!(breaks.len(), routed, "{what}");
        assert!(breaks.iter().all(|step| step.op.name() == "experts"), "{what}");
        assert!(breaks.windows(2).all(|pair| pair[0].layer < pair[1].layer), "{what}");
        assert_eq!(plan.pieces(), routed + 1, "{what}");
    });
}
