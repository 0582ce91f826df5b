//! Loading a model as the command line names it.

use moexperts::{AnyDevice, AutoModel, LanguageModel, LoadOptions, files::ModelFiles};

use crate::{error::BenchError, output::progress};

/// Opens the files of the model that is used where the command line names none.
pub type DefaultModel = fn() -> Result<ModelFiles, moexperts::Error>;

/// The files of the model of this name, or of the default one, opened and not loaded.
///
/// # Errors
/// If there is no such model, or its files are damaged.
pub fn open(
    model: Option<&str>,
    options: LoadOptions,
    default: DefaultModel,
) -> Result<ModelFiles, BenchError> {
    Ok(match model {
        Some(model) => AutoModel::open(model, &options.progress(progress::bars()))?,
        None => default()?,
    })
}

/// The model of this name, or the default one.
///
/// # Errors
/// If there is no such model, or it cannot be loaded.
pub fn load(
    device: AnyDevice,
    model: Option<&str>,
    options: LoadOptions,
    default: DefaultModel,
) -> Result<LanguageModel, BenchError> {
    Ok(match model {
        Some(model) => {
            AutoModel::from_pretrained_on(device, model, options.progress(progress::bars()))?
        }
        None => AutoModel::from_files_on(device, default()?, options)?,
    })
}
