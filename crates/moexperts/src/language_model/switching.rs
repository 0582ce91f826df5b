//! Which backends run a model's experts, and what compiling makes for them.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use moexperts_core::{Device, Experts, ExpertsBackend};

use super::{
    device_model::{DeviceModel, Setup},
    runner::CompiledPlans,
};
use crate::{
    compile::{CompileOptions, CompileReport, Compiled, PhaseBackends},
    error::{Error, Result},
    experts_implementation::{Backbone, ExpertsChoices, ExpertsImplementation, Phase},
};

impl<D: Device> DeviceModel<D> {
    /// Like [`LanguageModel::set_experts_implementation`], with a backend that other models do not
    /// find by its name: it need not be registered, and runs every experts layer of prompts and of
    /// decode steps.
    ///
    /// [`LanguageModel::set_experts_implementation`]:
    ///     crate::LanguageModel::set_experts_implementation
    ///
    /// # Errors
    /// For a backend that cannot run the model's experts; nothing has changed then.
    pub fn set_experts_backend(&self, backend: Arc<dyn ExpertsBackend<D::Experts>>) -> Result<()> {
        self.switch(|_, backbones| ExpertsChoices::everywhere(&backend, backbones, self.device()))
    }

    pub(super) fn choose(&self, implementation: &ExpertsImplementation) -> Result<()> {
        self.switch(|current, backbones| current.with(implementation, backbones, self.device()))
    }

    /// Takes the choices that `choose` makes of the present ones, if the model can run them.
    fn switch(
        &self,
        choose: impl FnOnce(&ExpertsChoices<D>, &[Backbone]) -> Result<ExpertsChoices<D>>,
    ) -> Result<()> {
        let mut setup = self.setup.write().unwrap_or_else(PoisonError::into_inner);
        let choices = choose(&setup.choices, &self.backbones())?;
        if let Some(compiled) = &setup.compiled {
            self.check(compiled, &choices)?;
        }
        tracing::info!(experts_implementation = ?choices.names(), "switched");
        let compiled = setup.compiled.clone();
        self.change(&mut setup, choices, compiled);
        Ok(())
    }

    /// As [`LanguageModel::compile`](crate::LanguageModel::compile).
    pub(super) fn make_plans(&self, options: CompileOptions) -> Result<CompileReport> {
        for (option, counts) in
            [("batch_sizes", &options.batch_sizes), ("prompt_tokens", &options.prompt_tokens)]
        {
            if counts.contains(&0) {
                let (got, expected) = ("0".to_owned(), "at least 1".to_owned());
                return Err(Error::Option { option, got, expected });
            }
        }
        let compiled = Arc::new(Compiled::new(options, &self.decoder)?);
        let setup = self.setup();
        self.check(&compiled, &setup.choices)?;
        let backends = PhaseBackends {
            prefill: self.backend(&setup.choices, Phase::Prefill),
            decode: self.backend(&setup.choices, Phase::Decode),
        };
        let report = compiled.prepare(&self.decoder, backends)?;
        tracing::info!(%report, "compiled");
        let mut setup = self.setup.write().unwrap_or_else(PoisonError::into_inner);
        // The backend may have been switched meanwhile.
        self.check(&compiled, &setup.choices)?;
        let choices = setup.choices.clone();
        self.change(&mut setup, choices, Some(compiled));
        Ok(report)
    }

    pub(super) fn plans(&self) -> Option<CompiledPlans> {
        self.setup().compiled.clone().map(|compiled| CompiledPlans(compiled))
    }

    /// As [`LanguageModel::set_compiled`](crate::LanguageModel::set_compiled).
    pub(super) fn set_plans(&self, plans: Option<CompiledPlans>) -> Result<()> {
        let mut setup = self.setup.write().unwrap_or_else(PoisonError::into_inner);
        let compiled = match plans {
            Some(CompiledPlans(plans)) => {
                let compiled = plans.downcast::<Compiled<D>>().map_err(|_| Error::Option {
                    option: "compiled",
                    got: "made by a model on another device".to_owned(),
                    expected: format!("what compiling `{}` made", self.origin),
                })?;
                compiled.check_model(&self.decoder, &self.origin)?;
                self.check(&compiled, &setup.choices)?;
                Some(compiled)
            }
            None => None,
        };
        let choices = setup.choices.clone();
        self.change(&mut setup, choices, compiled);
        Ok(())
    }

    /// Makes a setup the current one.
    fn change(
        &self,
        setup: &mut Arc<Setup<D>>,
        choices: ExpertsChoices<D>,
        compiled: Option<Arc<Compiled<D>>>,
    ) {
        let number = setup.number + 1;
        self.compiled.store(if compiled.is_some() { number } else { 0 }, Ordering::Release);
        let kept = compiled.clone();
        *setup = Arc::new(Setup { choices, compiled, number });
        // A plan is dropped with its backend.
        if let Some(compiled) = kept {
            compiled.drop_gone();
        }
    }

    /// Whether the model can be compiled with these backends.
    fn check(&self, compiled: &Compiled<D>, choices: &ExpertsChoices<D>) -> Result<()> {
        compiled.check(self.backend(choices, Phase::Prefill))?;
        compiled.check(self.backend(choices, Phase::Decode))
    }

    /// The experts layers of the decoder, and those that compiling made of them.
    pub(super) fn all_experts(&self) -> Vec<Arc<Experts<D::Experts>>> {
        let compiled = self.setup().compiled.as_ref().map_or(Vec::new(), |all| all.experts());
        self.decoder.experts().iter().cloned().chain(compiled).collect()
    }
}
