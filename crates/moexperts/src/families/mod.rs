//! Model families: a file each, saying what a `config.json` means and what the weights are called.
//!
//! `read` has what families share, `family` what a family is.

mod family;
#[cfg(test)]
mod goldens;
mod gpt_oss;
mod granitemoe;
mod minimax_m2;
mod mixtral;
mod olmoe;
mod qwen2_moe;
mod qwen3_moe;
mod qwen3_vl_moe;
mod read;
mod unread;

use moexperts_core::checks;

use self::family::Describe;
pub use self::{
    family::{Family, Task},
    unread::unobeyed,
};
use crate::{
    blocks::Moe,
    checkpoint::{quantised, similar_names},
    config::Config,
    error::{Error, Result},
    model::ModelSpec,
};

/// Every family, in alphabetical order.
pub const FAMILIES: [Family; 8] = [
    gpt_oss::FAMILY,
    granitemoe::FAMILY,
    minimax_m2::FAMILY,
    mixtral::FAMILY,
    olmoe::FAMILY,
    qwen2_moe::FAMILY,
    qwen3_moe::FAMILY,
    qwen3_vl_moe::FAMILY,
];

/// The `model_type`s of the families that do a task.
pub fn model_types(task: Task) -> impl Iterator<Item = &'static str> {
    FAMILIES.into_iter().filter(move |family| family.task() == task).map(|family| family.model_type)
}

impl Family {
    /// The family a `config.json` is of.
    ///
    /// # Errors
    /// [`Error::Config`] for one that is not known.
    pub fn of(config: &Config) -> Result<Self> {
        let model_type: String = config.required("model_type")?;
        let family = FAMILIES.into_iter().find(|family| family.model_type == model_type);
        family.ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().map(|f| format!("`{}`", f.model_type)).collect();
            let names = FAMILIES.iter().map(|family| family.model_type);
            let nearest = similar_names(&model_type, names);
            let nearest =
                nearest.first().map_or(String::new(), |name| format!("; `{name}` is nearest"));
            Error::Config {
                file: config.file().to_owned(),
                problem: format!(
                    "model_type `{model_type}` is not known, expected one of {}{nearest}",
                    known.join(", ")
                ),
            }
        })
    }
}

/// Reads a `config.json` of any family.
///
/// # Errors
/// [`Error::Config`] for a family that is not known, a missing key or an impossible value.
pub fn describe(config: &Config) -> Result<ModelSpec> {
    for key in ["quantization_config", "compression_config"] {
        if let Some(quantization) = config.sub(key)? {
            return Err(quantised_weights(config, &quantization));
        }
    }
    let spec = match Family::of(config)?.describe {
        Describe::CausalLm(describe) => ModelSpec { text: describe(config)?, vision: None },
        Describe::ImageTextToText(describe) => describe(config)?,
    };
    for moe in spec.text.moe_layers() {
        check_router(moe)
            .map_err(|problem| Error::Config { file: config.file().to_owned(), problem })?;
    }
    Ok(spec)
}

/// The error for weights that are quantised, which says by what and what can be done.
fn quantised_weights(config: &Config, quantization: &Config) -> Error {
    let text = |key| quantization.optional::<String>(key).ok().flatten();
    let bits: Option<u64> = quantization.optional("bits").ok().flatten();
    let method = text("quant_method");
    let by = method.as_deref().map_or(String::new(), |method| match bits {
        Some(bits) => format!(" by `{method}` to {bits} bits"),
        None => format!(" by `{method}`"),
    });
    let way_out = quantised::way_out(method.as_deref().unwrap_or_default());
    let problem = format!(
        "the weights are quantised{by}, expected a checkpoint in F32, F16 or BF16: {way_out}"
    );
    Error::Config { file: config.file().to_owned(), problem }
}

/// Whether a router chooses among the experts that there are, in words of the config.
fn check_router(moe: &Moe) -> Result<(), String> {
    let (top_k, experts) = (moe.router.top_k, moe.num_experts);
    if top_k == 0 || top_k > experts {
        return Err(format!(
            "num_experts_per_tok is {top_k}, expected 1 to {experts} (the experts of a layer)"
        ));
    }
    checks::router(&moe.router, experts).map_err(|error| error.to_string())
}
