//! The backends and the ways to compile that take part.

use moexperts::{CompiledPlans, Device, Error, LanguageModel};

use super::super::backends::Backend;
use crate::{
    args::{CompileLimits, Compiling},
    error::CliError,
};

/// A backend in a way to compile.
#[derive(Debug)]
pub(in super::super) struct Variant<D: Device> {
    pub(in super::super) backend: Backend<D::Experts>,
    pub(in super::super) compile: Compiling,
    /// What compiling made.
    plans: Option<CompiledPlans<D>>,
}

impl<D: Device> Variant<D> {
    /// Makes the model run so.
    pub(in super::super) fn choose(&self, model: &LanguageModel<D>) -> Result<(), CliError> {
        // What is compiled may not be allowed with this backend.
        model.set_compiled(None)?;
        model.set_experts_implementation(self.backend.name())?;
        Ok(model.set_compiled(self.plans.clone())?)
    }
}

/// What is asked for.
#[derive(Debug)]
pub(in super::super) struct Asked<'a, D: Device> {
    pub(in super::super) backends: &'a [Backend<D::Experts>],
    /// Not at all if there is none.
    pub(in super::super) compile: &'a [Compiling],
    pub(in super::super) limits: &'a CompileLimits,
    /// Shapes that plans are made for.
    pub(in super::super) batch_sizes: Vec<usize>,
    pub(in super::super) prompt_tokens: Vec<usize>,
}

/// What there is.
#[derive(Debug)]
pub(in super::super) struct Variants<D: Device> {
    pub(in super::super) able: Vec<Variant<D>>,
    /// Backends that break a `fullgraph`.
    pub(in super::super) broken: Vec<(Backend<D::Experts>, Compiling, Error)>,
    /// A line for each compilation.
    pub(in super::super) lines: Vec<String>,
}

impl<D: Device> Variants<D> {
    /// Every backend in every way.
    pub(in super::super) fn all(
        model: &LanguageModel<D>,
        asked: &Asked<'_, D>,
    ) -> Result<Self, CliError> {
        let modes = if asked.compile.is_empty() { &[Compiling::None] } else { asked.compile };
        let mut variants = Self { able: Vec::new(), broken: Vec::new(), lines: Vec::new() };
        for &compile in modes {
            // One compilation for all backends: what does not depend on them they share.
            let mut plans = None;
            for backend in asked.backends {
                model.set_compiled(None)?;
                model.set_experts_implementation(backend.name())?;
                let compiled = match (compile, &plans) {
                    (Compiling::None, _) => Ok(()),
                    (Compiling::Mode(_), Some(_)) => model.set_compiled(plans.clone()),
                    (Compiling::Mode(mode), None) => {
                        let (batch, prompt) = (&asked.batch_sizes, &asked.prompt_tokens);
                        let options = asked.limits.options(mode, batch.clone(), prompt.clone());
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
