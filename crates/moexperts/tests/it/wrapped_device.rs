//! A device that wraps another one has the backends of what it wraps.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use moexperts::{
    Activation, AutoModelForCausalLm, CompileOptions, Cpu, CpuOptions, ExpertsBackend, ExpertsCall,
    ExpertsInterface, ExpertsSpec, LanguageModel, LoadOptions,
    core::{
        AttentionCall, AttentionSpec, DeviceKind, DeviceLinear, Execution, GateFunction, Knob,
        Matrix, Memory, Operation, Operations, Result, RopePairing, RouteOperands, RouterSpec,
        Routing, Scratch, SharedSlices, StateSpec, Tensor, Tuning, WeightFormat,
    },
    cpu::{Eager, State},
};

use crate::common::{Golden, data, greedy};

/// The CPU, perhaps without one of its operations, and how many of them ran.
#[derive(Debug, Clone)]
struct Counting {
    inner: Cpu,
    lacks: Option<Operation>,
    operations: Arc<AtomicUsize>,
}

impl Counting {
    fn new(lacks: Option<Operation>) -> Self {
        let inner = Cpu::new(CpuOptions::default()).unwrap();
        Self { inner, lacks, operations: Arc::default() }
    }

    fn count(&self) -> &Cpu {
        self.operations.fetch_add(1, Ordering::Relaxed);
        &self.inner
    }
}

impl Execution for Counting {
    const NAME: &'static str = "counting CPU";
    const KIND: DeviceKind = Cpu::KIND;
    const CAPTURES_GRAPHS: bool = Cpu::CAPTURES_GRAPHS;

    type Recording = <Cpu as Execution>::Recording;
    type Experts = Cpu;

    fn built_in_experts() -> Vec<Arc<dyn ExpertsBackend<Cpu>>> {
        Cpu::built_in_experts()
    }

    fn experts_device(&self) -> &Cpu {
        &self.inner
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.inner.enter(work)
    }

    fn enter_plan<R: Send>(
        &self,
        recording: Option<&mut Self::Recording>,
        work: impl FnOnce() -> R + Send,
    ) -> R {
        self.inner.enter_plan(recording, work)
    }

    fn synchronize(&self) -> Result<()> {
        self.inner.synchronize()
    }
}

impl Memory for Counting {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Tensor = Tensor;
    type Routing = Routing;
    type State = State;

    fn has_format(&self, format: WeightFormat) -> bool {
        self.inner.has_format(format)
    }

    fn load_matrix(&self, weight: Matrix) -> Result<Matrix> {
        self.inner.load_matrix(weight)
    }

    fn load_vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        self.inner.load_vector(values)
    }

    fn new_tensor(&self, values: usize) -> Result<Tensor> {
        self.inner.new_tensor(values)
    }

    fn reset_tensor(&self, x: &mut Tensor, rows: usize, cols: usize) -> Result<()> {
        self.inner.reset_tensor(x, rows, cols)
    }

    fn load_tensor(&self, rows: usize, cols: usize, x: &[f32], out: &mut Tensor) -> Result<()> {
        self.inner.load_tensor(rows, cols, x, out)
    }

    fn read_tensor(&self, tensor: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        self.inner.read_tensor(tensor, out)
    }

    fn new_routing(&self, pairs: usize) -> Result<Routing> {
        self.inner.new_routing(pairs)
    }

    fn load_routing(&self, routing: Routing) -> Result<Routing> {
        self.inner.load_routing(routing)
    }

    fn read_routing(&self, routing: &Routing) -> Result<Routing> {
        self.inner.read_routing(routing)
    }

    fn new_state(&self, layers: &[StateSpec], sequences: usize) -> Result<State> {
        self.inner.new_state(layers, sequences)
    }

    fn reserve_positions(&self, state: &mut State, sequence: usize, count: usize) -> Result<()> {
        self.inner.reserve_positions(state, sequence, count)
    }

    fn can_cut(&self, state: &State, sequence: usize, position: usize) -> bool {
        self.inner.can_cut(state, sequence, position)
    }

    fn state_bytes(&self, state: &State) -> usize {
        self.inner.state_bytes(state)
    }
}

impl Tuning for Counting {
    fn knobs(&self) -> &'static [Knob] {
        self.inner.knobs()
    }

    fn with_knob(&self, index: usize, value: usize) -> Self {
        Self { inner: self.inner.with_knob(index, value), ..self.clone() }
    }

    fn fingerprint(&self) -> String {
        self.inner.fingerprint()
    }

    fn kernel_name(&self, weight: &Matrix, rows: usize) -> String {
        self.inner.kernel_name(weight, rows)
    }

    fn resident_copy(&self, weight: &Matrix) -> Result<Option<Matrix>> {
        self.inner.resident_copy(weight)
    }
}

impl Operations for Counting {
    fn has_operation(&self, operation: Operation) -> bool {
        self.lacks != Some(operation) && self.inner.has_operation(operation)
    }

    fn has_activation(&self, activation: Activation) -> bool {
        self.inner.has_activation(activation)
    }

    fn check_attention(&self, spec: &AttentionSpec, sinks: bool) -> Result<()> {
        self.inner.check_attention(spec, sinks)
    }

    fn embed(&self, table: &Matrix, ids: &[u32], out: &mut Tensor) -> Result<()> {
        self.count().embed(table, ids, out)
    }

    fn embedding_bag(
        &self,
        table: &Matrix,
        rows: &[u32],
        weights: &[f32],
        taps: usize,
        out: &mut Tensor,
    ) -> Result<()> {
        self.count().embedding_bag(table, rows, weights, taps, out)
    }

    fn reshape(&self, x: Tensor, cols: usize) -> Result<Tensor> {
        self.count().reshape(x, cols)
    }

    fn select_rows(&self, x: &Tensor, rows: &[usize], out: &mut Tensor) -> Result<()> {
        self.count().select_rows(x, rows, out)
    }

    fn put_rows(&self, x: &mut Tensor, rows: &[usize], y: &Tensor) -> Result<()> {
        self.count().put_rows(x, rows, y)
    }

    fn add_rows(&self, x: &mut Tensor, rows: &[usize], y: &Tensor) -> Result<()> {
        self.count().add_rows(x, rows, y)
    }

    fn layer_norm(
        &self,
        x: &Tensor,
        weight: &Vec<f32>,
        bias: &Vec<f32>,
        eps: f32,
        out: &mut Tensor,
    ) -> Result<()> {
        self.count().layer_norm(x, weight, bias, eps, out)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Vec<f32>, eps: f32, out: &mut Tensor) -> Result<()> {
        self.count().rms_norm(x, weight, eps, out)
    }

    fn add_rms_norm(
        &self,
        x: &mut Tensor,
        y: &Tensor,
        scale: f32,
        weight: &Vec<f32>,
        eps: f32,
        out: &mut Tensor,
    ) -> Result<()> {
        self.count().add_rms_norm(x, y, scale, weight, eps, out)
    }

    fn linear(
        &self,
        x: &Tensor,
        linears: &[&DeviceLinear<Self>],
        scratch: &mut Scratch,
        outs: &mut [Tensor],
    ) -> Result<()> {
        self.count().linear(x, linears, scratch, outs)
    }

    fn rope(
        &self,
        x: &mut Tensor,
        head_dim: usize,
        pairing: RopePairing,
        cos: &Tensor,
        sin: &Tensor,
    ) -> Result<()> {
        self.count().rope(x, head_dim, pairing, cos, sin)
    }

    fn attention(&self, call: AttentionCall<'_, Self>, out: &mut Tensor) -> Result<()> {
        let AttentionCall { qkv, sinks, state, layer, batch, spec, scratch } = call;
        let call = AttentionCall { qkv, sinks, state, layer, batch, spec, scratch };
        self.count().attention(call, out)
    }

    fn full_attention(
        &self,
        qkv: [&Tensor; 3],
        segments: &[usize],
        spec: &AttentionSpec,
        out: &mut Tensor,
    ) -> Result<()> {
        self.count().full_attention(qkv, segments, spec, out)
    }

    fn route(
        &self,
        logits: &Tensor,
        spec: &RouterSpec,
        operands: RouteOperands<'_, Self>,
        out: &mut Routing,
    ) -> Result<()> {
        let RouteOperands { pick_bias, per_expert_scale, shared } = operands;
        let shared = shared.map(|of| SharedSlices { slices: of.slices, gate: of.gate });
        let operands = RouteOperands { pick_bias, per_expert_scale, shared };
        self.count().route(logits, spec, operands, out)
    }

    fn route_all(&self, tokens: usize, out: &mut Routing) -> Result<()> {
        self.count().route_all(tokens, out)
    }

    fn activate(&self, f: Activation, gate: Option<&Tensor>, up: &mut Tensor) -> Result<()> {
        self.count().activate(f, gate, up)
    }

    fn add(&self, x: &mut Tensor, y: &Tensor, scale: f32) -> Result<()> {
        self.count().add(x, y, scale)
    }

    fn add_gated(&self, x: &mut Tensor, y: &Tensor, gate: &Tensor) -> Result<()> {
        self.count().add_gated(x, y, gate)
    }

    fn gate(&self, x: &mut Tensor, gate: &Tensor, function: GateFunction) -> Result<()> {
        self.count().gate(x, gate, function)
    }

    fn scale(&self, x: &mut Tensor, factor: f32) -> Result<()> {
        self.count().scale(x, factor)
    }

    fn clamp(&self, x: &mut Tensor, limit: f32) -> Result<()> {
        self.count().clamp(x, limit)
    }
}

static FORWARDS: AtomicUsize = AtomicUsize::new(0);

/// `eager`, registered for the CPU.
#[derive(Debug)]
struct Noted;

impl ExpertsBackend<Cpu> for Noted {
    fn name(&self) -> &str {
        "noted"
    }

    fn check(&self, spec: &ExpertsSpec, device: &Cpu) -> Result<()> {
        Eager.check(spec, device)
    }

    fn forward(&self, call: ExpertsCall<'_, Cpu>, out: &mut Tensor) -> Result<()> {
        FORWARDS.fetch_add(1, Ordering::Relaxed);
        Eager.forward(call, out)
    }
}

fn tokens(model: &LanguageModel, prompt: &[u32]) -> Vec<u32> {
    let events = model.generate_tokens(vec![prompt.to_vec()], &greedy(8)).unwrap();
    events.map(|event| event.unwrap().token).collect()
}

#[test]
fn a_backend_of_the_cpu_runs_on_a_device_that_wraps_it() {
    ExpertsInterface::register(Noted).unwrap();
    let prompt = Golden::open("qwen2_moe").ids("input_ids");
    let device = Counting::new(None);
    let operations = Arc::clone(&device.operations);
    let folder = data("qwen2_moe");
    let folder = folder.to_str().unwrap();
    for name in ["eager", "grouped_mm", "noted"] {
        let options = || LoadOptions::new().experts_implementation(name);
        let on_cpu = AutoModelForCausalLm::from_pretrained(folder, options()).unwrap();
        let expected = tokens(&on_cpu, &prompt);
        let model = AutoModelForCausalLm::from_pretrained_on(device.clone(), folder, options());
        let model = model.unwrap();
        assert_eq!(model.device_name(), "counting CPU");
        assert!(model.device().is_none(), "the device is the test's own");
        assert!(model.on::<Counting>().is_some() && model.on::<Cpu>().is_none());
        let mut counted = Vec::new();
        for compile in [false, true] {
            if compile {
                model.compile(CompileOptions::default()).unwrap();
            }
            let before = (operations.load(Ordering::Relaxed), FORWARDS.load(Ordering::Relaxed));
            assert_eq!(tokens(&model, &prompt), expected, "{name}, compiled: {compile}");
            counted.push(operations.load(Ordering::Relaxed) - before.0);
            let ran = FORWARDS.load(Ordering::Relaxed) > before.1;
            assert_eq!(ran, name == "noted", "{name}, compiled: {compile}");
        }
        assert!(0 < counted[1] && counted[1] < counted[0], "{name}: {counted:?}");
    }
    ExpertsInterface::unregister::<Cpu>("noted").unwrap();
}

#[test]
fn an_operation_that_a_device_lacks_is_refused_when_a_model_is_loaded() {
    let folder = data("qwen2_moe");
    let load = |device: Counting| {
        let folder = folder.to_str().unwrap();
        AutoModelForCausalLm::from_pretrained_on(device, folder, LoadOptions::new())
    };
    let mut refused = Vec::new();
    for operation in Operation::ALL {
        moexperts_conformance::check_operation(&Counting::new(None), operation).unwrap();
        let device = Counting::new(Some(operation));
        moexperts_conformance::check_operation(&device, operation).unwrap();
        if let Err(error) = load(device) {
            let expected = format!(
                "counting CPU: the operation `{}` is not supported, the CPU has it",
                operation.name()
            );
            assert!(error.to_string().contains(&expected), "{error}");
            refused.push(operation);
        }
    }
    assert!(refused.contains(&Operation::Embed) && refused.contains(&Operation::Attention));
    assert!(!refused.contains(&Operation::FullAttention), "{refused:?}");
}
