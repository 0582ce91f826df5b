//! The backends and the ways to compile that take part.

use std::num::NonZero;

use moexperts::{CompiledPlans, Device, LanguageModel};

use super::super::backends::Backend;
use crate::{
    args::{BenchModelArgs, Compiling},
    error::CliError,
};

/// A backend in a way to compile.
#[derive(Debug)]
pub(super) struct Variant<D: Device> {
    pub(super) backend: Backend<D>,
    pub(super) compile: Compiling,
    /// What compiling made.
    plans: Option<CompiledPlans<D>>,
}

impl<D: Device> Variant<D> {
    /// Makes the model run so.
    pub(super) fn choose(&self, model: &LanguageModel<D>) -> Result<(), CliError> {
        // What is compiled may not be allowed with this backend.
        model.set_compiled(None)?;
        model.set_experts_implementation(self.backend.name())?;
        Ok(model.set_compiled(self.plans.clone())?)
    }
}

/// Every backend in every way, with a line for each compilation. One that breaks a `fullgraph` is
/// left out with a reason, unless the user named it.
pub(super) fn all<D: Device>(
    model: &LanguageModel<D>,
    backends: &[Backend<D>],
    args: &BenchModelArgs,
    reasons: &mut Vec<String>,
) -> Result<(Vec<Variant<D>>, Vec<String>), CliError> {
    let counts = |counts: &[NonZero<usize>]| counts.iter().map(|count| count.get()).collect();
    let named = !args.common.experts_implementation.is_empty();
    let modes = if args.compile.is_empty() { &[Compiling::None] } else { args.compile.as_slice() };
    let (mut variants, mut lines) = (Vec::new(), Vec::new());
    for &compile in modes {
        // One compilation for all backends: what does not depend on them they share.
        let mut plans = None;
        for backend in backends {
            model.set_compiled(None)?;
            model.set_experts_implementation(backend.name())?;
            let compiled = match (compile, &plans) {
                (Compiling::None, _) => Ok(()),
                (Compiling::Mode(_), Some(_)) => model.set_compiled(plans.clone()),
                (Compiling::Mode(mode), None) => {
                    let (batch, prompt) = (counts(&args.batch), counts(&args.prompt_tokens));
                    model.compile(args.limits.options(mode, batch, prompt)).map(|report| {
                        lines.push(report.to_string());
                        plans = model.compiled();
                    })
                }
            };
            match compiled {
                Ok(()) => {
                    let (backend, plans) = (backend.clone(), plans.clone());
                    variants.push(Variant { backend, compile, plans });
                }
                Err(error @ moexperts::Error::GraphBreak { .. }) if !named => {
                    reasons.push(error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok((variants, lines))
}
