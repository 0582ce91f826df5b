//! The backends and the ways to compile that take part.

use moexperts::{CompiledPlans, Error, LanguageModel};

use crate::{
    args::{CompileLimits, Compiling},
    error::BenchError,
};

/// A backend in a way to compile.
#[derive(Debug)]
pub(crate) struct Variant {
    /// Its name.
    pub(crate) backend: String,
    pub(crate) compile: Compiling,
    /// What compiling made.
    plans: Option<CompiledPlans>,
}

impl Variant {
    /// Makes the model run so.
    pub(crate) fn choose(&self, model: &LanguageModel) -> Result<(), BenchError> {
        // What is compiled may not be allowed with this backend.
        model.set_compiled(None)?;
        model.set_experts_implementation(self.backend.as_str())?;
        Ok(model.set_compiled(self.plans.clone())?)
    }
}

/// What was chosen.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    /// Names.
    pub(crate) backends: &'a [String],
    pub(crate) ways: &'a [Compiling],
    pub(crate) limits: &'a CompileLimits,
    /// Shapes that plans are made for.
    pub(crate) batch_sizes: Vec<usize>,
    pub(crate) prompt_tokens: Vec<usize>,
}

/// What takes part.
#[derive(Debug)]
pub(crate) struct Variants {
    pub(crate) able: Vec<Variant>,
    /// Backends that break a `fullgraph`.
    pub(crate) broken: Vec<(String, Compiling, Error)>,
    /// A line for each compilation.
    pub(crate) lines: Vec<String>,
}

impl Variants {
    /// Every backend in every way.
    pub(crate) fn all(model: &LanguageModel, chosen: &Chosen<'_>) -> Result<Self, BenchError> {
        let mut variants = Self { able: Vec::new(), broken: Vec::new(), lines: Vec::new() };
        for &compile in chosen.ways {
            // One compilation for all backends: what does not depend on them they share.
            let mut plans = None;
            for backend in chosen.backends {
                model.set_compiled(None)?;
                model.set_experts_implementation(backend.as_str())?;
                let compiled = match (compile, &plans) {
                    (Compiling::None, _) => Ok(()),
                    (Compiling::Mode(_), Some(_)) => model.set_compiled(plans.clone()),
                    (Compiling::Mode(mode), None) => {
                        let (batch, prompt) = (&chosen.batch_sizes, &chosen.prompt_tokens);
                        let options = chosen.limits.options(mode, batch.clone(), prompt.clone());
                        model.compile(options).map(|report| {
                            variants.lines.push(report.to_string());
                            plans = model.compiled();
                        })
                    }
                };
                let backend = backend.clone();
                match compiled {
                    Ok(()) => {
                        let plans = plans.clone();
                        variants.able.push(Variant { backend, compile, plans });
                    }
                    Err(error @ Error::GraphBreak { .. }) => {
                        variants.broken.push((backend, compile, error));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(variants)
    }
}
