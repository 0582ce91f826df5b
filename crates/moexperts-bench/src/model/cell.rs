//! One cell: a batch of prompts, by each backend in each way to compile in turn.

use moexperts::LanguageModel;

use crate::{
    args::BenchModelArgs,
    error::BenchError,
    generation::{TimedGeneration, Variant, count},
};

/// What is to be measured.
pub(crate) struct ModelCell<'a> {
    pub(crate) args: &'a BenchModelArgs,
    pub(crate) model: &'a LanguageModel,
    pub(crate) variants: &'a [Variant],
    pub(crate) batch: usize,
    pub(crate) prompt_tokens: usize,
}

/// What one backend took in one way to compile.
#[derive(Debug)]
pub(crate) struct Measured<'a> {
    pub(crate) variant: &'a Variant,
    pub(crate) prefill_seconds: Vec<f64>,
    pub(crate) decode_seconds: Vec<f64>,
    pub(crate) peak_memory_bytes: Option<u64>,
}

impl ModelCell<'_> {
    /// What each took, and the bytes of weights that decoding read.
    pub(crate) fn measure(&self) -> Result<(Vec<Measured<'_>>, f64), BenchError> {
        let Self { args, model, variants, batch, prompt_tokens } = *self;
        let task = TimedGeneration::random(model, batch, prompt_tokens, args.new_tokens, args.seed);
        let Some(first) = variants.first() else { return Ok((Vec::new(), 0.0)) };
        let decode_bytes = count(model, &first.backend, &task, || false)?;
        let decode_bytes = decode_bytes.map_or(0.0, |counted| counted.decode.bytes);
        let measured = |variant| Measured {
            variant,
            prefill_seconds: Vec::new(),
            decode_seconds: Vec::new(),
            peak_memory_bytes: None,
        };
        let mut all: Vec<Measured<'_>> = variants.iter().map(measured).collect();
        for measured in &all {
            // What is made on first use is made now.
            measured.variant.choose(model)?;
            task.shortest().finish(model)?;
        }
        for _ in 0..args.repetitions.get() {
            for measured in &mut all {
                measured.variant.choose(model)?;
                measured.generation(model, &task)?;
            }
        }
        Ok((all, decode_bytes))
    }
}

impl Measured<'_> {
    fn generation(
        &mut self,
        model: &LanguageModel,
        task: &TimedGeneration,
    ) -> Result<(), BenchError> {
        let taken = task.finish(model)?;
        self.prefill_seconds.push(taken.prefill.as_secs_f64());
        self.decode_seconds.push(taken.decode.as_secs_f64());
        self.peak_memory_bytes = self.peak_memory_bytes.max(taken.peak_memory_bytes);
        Ok(())
    }
}
