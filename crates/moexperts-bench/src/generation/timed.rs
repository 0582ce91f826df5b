//! A generation that is timed.

use std::time::{Duration, Instant};

use moexperts::{GenerateOptions, LanguageModel};

use crate::{
    error::BenchError,
    hardware::{Hardware as _, device_of},
    random::Random,
};

/// A generation to be timed: a batch of random prompts, and how many tokens follow each.
#[derive(Debug)]
pub(crate) struct TimedGeneration {
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) new_tokens: usize,
    seed: u64,
}

/// What a generation took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// From the prompt to the last token.
    pub(crate) generation: Duration,
    /// To the first token.
    pub(crate) prefill: Duration,
    /// All steps after it.
    pub(crate) decode: Duration,
    /// The most memory meanwhile; on a GPU all that is in use at the end.
    pub(crate) peak_memory_bytes: Option<u64>,
}

impl TimedGeneration {
    /// - `new_tokens`: at least 2: the first comes with the prompt
    pub(crate) fn random(
        model: &LanguageModel,
        batch: usize,
        prompt_tokens: usize,
        new_tokens: usize,
        seed: u64,
    ) -> Self {
        let vocab = model.spec().vocab_size;
        let mut random = Random::new(seed, &[batch as u64, prompt_tokens as u64]);
        let mut prompt = || (0..prompt_tokens).map(|_| random.below(vocab) as u32).collect();
        Self { prompts: (0..batch).map(|_| prompt()).collect(), new_tokens, seed }
    }

    /// The same with no more than the first decode step.
    pub(crate) fn shortest(&self) -> Self {
        Self { prompts: self.prompts.clone(), new_tokens: 2, seed: self.seed }
    }

    /// The most likely tokens, to the last.
    pub(crate) fn options(&self) -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: Some(self.new_tokens),
            do_sample: Some(false),
            repetition_penalty: Some(1.0),
            seed: Some(self.seed),
            ignore_eos: true,
            ..GenerateOptions::default()
        }
    }

    /// Runs it to its end, or none if it is to stop before: that is asked after every token.
    pub(crate) fn run(
        &self,
        model: &LanguageModel,
        stop: impl Fn() -> bool,
    ) -> Result<Option<Taken>, BenchError> {
        let device = device_of(model);
        device.forget_peak_memory();
        let start = Instant::now();
        let mut generation = model.generate_tokens(self.prompts.clone(), &self.options())?;
        for event in generation.by_ref() {
            event?;
            if stop() {
                return Ok(None);
            }
        }
        let time = start.elapsed();
        let stats = generation.stats();
        Ok(Some(Taken {
            generation: time,
            prefill: stats.prefill,
            decode: stats.decode,
            peak_memory_bytes: device.peak_memory(),
        }))
    }

    /// Runs it to its end.
    pub(crate) fn finish(&self, model: &LanguageModel) -> Result<Taken, BenchError> {
        Ok(self.run(model, || false)?.expect("nothing stops it"))
    }
}
