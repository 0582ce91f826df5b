//! The backends and the ways to compile that take part.

use moexperts::{CompiledPlans, Device, Error, LanguageModel};

use crate::{
    args::{CompileLimits, Compiling},
    backends::Backend,
    error::BenchError,
};

/// A backend in a way to compile.
#[derive(Debug)]
pub(crate) struct Variant<D: Device> {
    pub(crate) backend: Backend<D::Experts>,
    pub(crate) compile: Compiling,
    /// What compiling made.
    plans: Option<CompiledPlans<D>>,
}

impl<D: Device> Variant<D> {
    /// Makes the model run so.
    pub(crate) fn choose(&self, model: &LanguageModel<D>) -> Result<(), BenchError> {
        // What is compiled may not be allowed with this backend.
        model.set_compiled(None)?;
        model.set_experts_implementation(self.backend.name())?;
        Ok(model.set_compiled(self.plans.clone())?)
    }
}

/// What was chosen.
#[derive(Debug)]
pub(crate) struct Chosen<'a, D: Device> {
    pub(crate) backends: &'a [Backend<D::Experts>],
    pub(crate) ways: &'a [Compiling],
    pub(crate) limits: &'a CompileLimits,
    /// Shapes that plans are made for.
    pub(crate) batch_sizes: Vec<usize>,
    pub(crate) prompt_tokens: Vec<usize>,
}

/// What takes part.
#[derive(Debug)]
pub(crate) struct Variants<D: Device> {
    pub(crate) able: Vec<Variant<D>>,
    /// Backends that break a `fullgraph`.
    pub(crate) broken: Vec<(Backend<D::Experts>, Compiling, Error)>,
    /// A line for each compilation.
    pub(crate) lines: Vec<String>,
}

impl<D: Device> Variants<D> {
    /// Every backend in every way.
    pub(crate) fn all(
        model: &LanguageModel<D>,
        chosen: &Chosen<'_, D>,
    ) -> Result<Self, BenchError> {
        let mut variants = Self { able: Vec::new(), broken: Vec::new(), lines: Vec::new() };
        for &compile in chosen.ways {
            // One compilation for all backends: what does not depend on them they share.
            let mut plans = None;
            for backend in chosen.backends {
                model.set_compiled(None)?;
                model.set_experts_implementation(backend.name())?;
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
