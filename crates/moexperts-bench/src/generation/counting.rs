//! What a generation has to do: the experts hit are counted by a backend that looks at each routing
//! and leaves the work to another.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use moexperts::{
    Cpu, Cuda, DType, Device, DeviceModel, ExpertsBackend, ExpertsCall, ExpertsInterface,
    ExpertsSpec, LanguageModel,
    core::{Result, Routing, WeightFormat},
};
use moexperts_report::Work;

use super::timed::TimedGeneration;
use crate::{backends::Backend, error::BenchError};

/// What the phases of a generation have to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Counted {
    pub(crate) prefill: Work,
    /// All steps together.
    pub(crate) decode: Work,
}

/// Counts what a generation has to do: of experts the bytes of those that are hit and the products
/// of the pairs, of everything else all, but for the head, whose products are of the last token of
/// a prompt. Every backend chooses the same tokens. The model runs operation by operation afterwards.
/// None if it is to stop before: that is asked after every token.
pub(crate) fn count(
    model: &LanguageModel,
    backend: &str,
    task: &TimedGeneration,
    stop: impl Fn() -> bool,
) -> std::result::Result<Option<Counted>, BenchError> {
    let tally = Arc::new(Tally::default());
    model.reset_compile();
    match (model.on::<Cpu>(), model.on::<Cuda>()) {
        (Some(model), _) => tally_on(model, backend, &tally)?,
        (_, Some(model)) => tally_on(model, backend, &tally)?,
        _ => unreachable!("models are loaded on a device with a name"),
    }
    let mut generation = model.generate_tokens(task.prompts.clone(), &task.options())?;
    // The first token comes with the prompt.
    generation.next().transpose()?;
    let prefill = tally.take();
    for event in generation {
        event?;
        if stop() {
            return Ok(None);
        }
    }
    let decode = tally.take();
    model.set_experts_implementation(backend)?;

    let beside = Beside::experts(model);
    let batch = task.prompts.len();
    let prompt_tokens = task.prompts.iter().map(Vec::len).sum();
    let steps = task.new_tokens - 1;
    Ok(Some(Counted {
        prefill: beside.and(prefill, 1, prompt_tokens, batch),
        decode: beside.and(decode, steps, steps * batch, steps * batch),
    }))
}

/// Has a backend run a model's experts, and adds up what they do.
fn tally_on<D: Device>(
    model: &DeviceModel<D>,
    backend: &str,
    tally: &Arc<Tally>,
) -> moexperts::Result<()> {
    let inner = ExpertsInterface::get::<D::Experts>(backend)?;
    model.set_experts_backend(Arc::new(Counting { inner, tally: Arc::clone(tally) }))
}

/// Weights that are read whatever the routing.
struct Beside {
    /// Those every token passes.
    weights: usize,
    /// Those of the head.
    head: usize,
    bytes_per_weight: usize,
}

impl Beside {
    fn experts(model: &LanguageModel) -> Self {
        let spec = model.spec();
        let head = spec.vocab_size * spec.hidden_size;
        // Only a model without experts has no dtype here, and it has nothing to compare.
        let bytes_per_weight = model.dtype().map_or(0, DType::size_bytes);
        let experts = spec.moe_layers().map(|moe| {
            let layer = ExpertsSpec::gated_silu(
                spec.hidden_size,
                moe.moe_intermediate_size,
                moe.num_experts,
                WeightFormat::F32,
            );
            moe.router.top_k * layer.weights_per_expert()
        });
        let weights = spec.active_weights() - experts.sum::<usize>() - head;
        Self { weights, head, bytes_per_weight }
    }

    /// With what experts did in some forwards over some tokens.
    fn and(&self, experts: Experts, forwards: usize, tokens: usize, heads: usize) -> Work {
        let bytes = forwards * (self.weights + self.head) * self.bytes_per_weight;
        let products = tokens * self.weights + heads * self.head + experts.products;
        // A multiplication and an addition each.
        Work { forwards, flops: 2.0 * products as f64, bytes: (bytes + experts.bytes) as f64 }
    }
}

/// What experts did.
#[derive(Debug, Clone, Copy)]
struct Experts {
    /// Bytes of those that were hit.
    bytes: usize,
    /// Products of weights and activations.
    products: usize,
}

#[derive(Debug, Default)]
struct Tally {
    bytes: AtomicUsize,
    products: AtomicUsize,
}

impl Tally {
    fn add(&self, routing: &Routing, spec: &ExpertsSpec) {
        let (hit, pairs) = hit(routing, spec.experts);
        self.bytes.fetch_add(hit * spec.bytes_per_expert(), Ordering::Relaxed);
        self.products.fetch_add(pairs * spec.weights_per_expert(), Ordering::Relaxed);
    }

    /// What was added since the last time.
    fn take(&self) -> Experts {
        let take = |number: &AtomicUsize| number.swap(0, Ordering::Relaxed);
        Experts { bytes: take(&self.bytes), products: take(&self.products) }
    }
}

#[derive(Debug)]
struct Counting<D: Device> {
    inner: Backend<D>,
    tally: Arc<Tally>,
}

impl<D: Device> ExpertsBackend<D> for Counting<D> {
    fn name(&self) -> &str {
        "counting"
    }

    fn check(&self, spec: &ExpertsSpec, device: &D) -> Result<()> {
        self.inner.check(spec, device)
    }

    fn forward(&self, call: ExpertsCall<'_, D>, out: &mut D::Tensor) -> Result<()> {
        let routing = call.device.read_routing(call.routing)?;
        self.tally.add(&routing, call.experts.spec());
        self.inner.forward(call, out)
    }
}

/// Different experts, and pairs; invalid ids do not count.
fn hit(routing: &Routing, experts: usize) -> (usize, usize) {
    let mut hit = vec![false; experts];
    let mut pairs = 0;
    for &id in routing.top_k_index() {
        if let Some(hit) = hit.get_mut(id as usize) {
            *hit = true;
            pairs += 1;
        }
    }
    (hit.into_iter().filter(|&hit| hit).count(), pairs)
}

#[cfg(test)]
mod tests {
    use moexperts::{AutoModelForCausalLm, LoadOptions};

    use super::*;

    #[test]
    fn an_expert_counts_once_a_pair_each_time_and_a_sentinel_never() {
        let routing = Routing::new(2, vec![3, 1, 3, 4], vec![0.5; 4]).unwrap();
        assert_eq!(hit(&routing, 4), (2, 3));
    }

    #[test]
    fn one_sequence_reads_what_inspect_says() {
        const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/qwen2_moe");
        let model = AutoModelForCausalLm::from_pretrained(MODEL, LoadOptions::new()).unwrap();
        let counted = |batch, prompt| {
            let task = TimedGeneration::random(&model, batch, prompt, 4, 0);
            count(&model, "eager", &task, || false).unwrap().unwrap()
        };
        let spec = model.spec();
        let dtype = model.dtype().unwrap();
        let (per_token, weights) = (spec.bytes_per_token(dtype), spec.active_weights());
        let Counted { prefill, decode } = counted(1, 1);
        let one = Work { forwards: 1, flops: (2 * weights) as f64, bytes: per_token as f64 };
        assert_eq!(prefill, one);
        assert_eq!(decode, Work { forwards: 3, flops: 3.0 * one.flops, bytes: 3.0 * one.bytes });
        assert_eq!(model.experts_implementation()[""], "eager");

        let two = counted(2, 5);
        assert_eq!(two.decode.flops, 2.0 * decode.flops);
        let ratio = two.decode.bytes / decode.bytes;
        assert!(1.0 < ratio && ratio < 2.0, "what both use is read once: {ratio}");
        let head = (spec.vocab_size * spec.hidden_size) as f64;
        let expected = 2.0 * (10.0 * (weights as f64 - head) + 2.0 * head);
        assert_eq!(two.prefill.flops, expected);
        assert!(two.prefill.bytes < 10.0 * one.bytes);
    }
}
