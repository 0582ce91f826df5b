//! How many bytes of weights decoding reads: the experts hit are counted by a backend that looks
//! at each routing and leaves the work to another.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use moexperts::{
    Device, ExpertsBackend, ExpertsCall, ExpertsSpec, GenerateOptions, LanguageModel,
    core::{Result, Routing},
};

use super::super::backends::Backend;
use crate::error::CliError;

/// Bytes of weights that all decode steps of a generation read: of experts those that were hit, of
/// everything else all. Every backend chooses the same tokens.
pub(super) fn decode_bytes<D: Device>(
    model: &LanguageModel<D>,
    backend: &Backend<D>,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
) -> std::result::Result<usize, CliError> {
    let bytes = Arc::new(AtomicUsize::new(0));
    let counting = Counting { inner: Arc::clone(backend), bytes: Arc::clone(&bytes) };
    model.set_experts_backend(Arc::new(counting))?;
    let mut generation = model.generate_tokens(prompts.to_vec(), options)?;
    // The first token comes with the prompt.
    generation.next().transpose()?;
    bytes.store(0, Ordering::Relaxed);
    for event in generation {
        event?;
    }
    model.set_experts_implementation(backend.name())?;
    let steps = options.max_new_tokens.map_or(0, |tokens| tokens - 1);
    Ok(bytes.load(Ordering::Relaxed) + steps * bytes_beside_experts(model))
}

/// Bytes a step reads whatever the routing.
fn bytes_beside_experts<D: Device>(model: &LanguageModel<D>) -> usize {
    // Only a model without experts has no dtype here, and no experts are counted then.
    let (spec, Some(dtype)) = (model.spec(), model.dtype()) else { return 0 };
    let experts = spec.moe_layers().map(|moe| {
        let layer = ExpertsSpec::gated_silu(
            spec.hidden_size,
            moe.moe_intermediate_size,
            moe.num_experts,
            dtype,
        );
        moe.router.top_k * layer.bytes_per_expert()
    });
    spec.bytes_per_token(dtype) - experts.sum::<usize>()
}

#[derive(Debug)]
struct Counting<D: Device> {
    inner: Backend<D>,
    bytes: Arc<AtomicUsize>,
}

impl<D: Device> ExpertsBackend<D> for Counting<D> {
    fn name(&self) -> &str {
        "counting"
    }

    fn check(&self, spec: &ExpertsSpec, device: &D) -> Result<()> {
        self.inner.check(spec, device)
    }

    fn forward(&self, call: ExpertsCall<'_, D>, out: &mut D::Tensor) -> Result<()> {
        let spec = call.experts.spec();
        let routing = call.device.read_routing(call.routing)?;
        let bytes = experts_hit(&routing, spec.experts) * spec.bytes_per_expert();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.inner.forward(call, out)
    }
}

/// Different experts; ids that are none do not count.
fn experts_hit(routing: &Routing, experts: usize) -> usize {
    let mut hit = vec![false; experts];
    for &id in routing.top_k_index() {
        if let Some(hit) = hit.get_mut(id as usize) {
            *hit = true;
        }
    }
    hit.into_iter().filter(|&hit| hit).count()
}

#[cfg(test)]
mod tests {
    use moexperts::{AutoModelForCausalLm, ExpertsInterface, LoadOptions};

    use super::*;
    use crate::embedded;

    #[test]
    fn an_expert_counts_once_and_a_sentinel_never() {
        let routing = Routing::new(2, vec![3, 1, 3, 4], vec![0.5; 4]).unwrap();
        assert_eq!(experts_hit(&routing, 4), 2);
    }

    #[test]
    fn one_sequence_reads_what_inspect_says() {
        let files = embedded::files().unwrap();
        let model = AutoModelForCausalLm::from_files(files, LoadOptions::new()).unwrap();
        let backend = ExpertsInterface::get("eager").unwrap();
        let options = super::super::options(4, 0);
        let bytes =
            |prompts: &[Vec<u32>]| decode_bytes(&model, &backend, prompts, &options).unwrap();
        let one = bytes(&[vec![1, 2, 3]]);
        let per_token = model.spec().bytes_per_token(model.dtype().unwrap());
        assert_eq!(one, 3 * per_token);
        assert_eq!(model.experts_implementation()[""], "eager");
        let two = bytes(&[vec![1, 2, 3], vec![4]]);
        assert!(one < two && two < 2 * one, "what both use is read once: {one}, {two}");
    }
}
