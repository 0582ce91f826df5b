//! Models by name: found, described and loaded.

use std::path::{Path, PathBuf};

use crate::{
    checkpoint::told,
    error::{Error, Result},
    families::{Family, Task},
    files::ModelFiles,
    language_model::{LanguageModel, LoadOptions, LoadTarget},
};

/// Loaders differ only in the models they take.
macro_rules! loader {
    ($(#[$doc:meta])* $name:ident, $takes:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name;

        impl $name {
            /// Loads a model from a folder, or from the hub by its id (`Qwen/Qwen1.5-MoE-A2.7B`), on
            /// the device of the options.
            ///
            /// # Errors
            /// If the model cannot be found, is damaged, is of a family that is not known, or the
            /// chosen experts implementation cannot run it; [`Error::OtherLoader`] if it is of a
            /// task that this loader is not for.
            pub fn from_pretrained(model: &str, options: LoadOptions) -> Result<LanguageModel> {
                Self::from_pretrained_on(options.find_device()?, model, options)
            }

            /// [`from_pretrained`](Self::from_pretrained) on a device that is there already, or
            /// on one of a caller's own type.
            ///
            /// # Errors
            /// As there, and if the device has not enough memory for the weights.
            pub fn from_pretrained_on(
                device: impl LoadTarget,
                model: &str,
                options: LoadOptions,
            ) -> Result<LanguageModel> {
                // A wrong name should not cost a download.
                device.check_names(&options.experts_implementation)?;
                Self::from_files_on(device, find(model, &options)?, options)
            }

            /// Loads a model from files already opened.
            ///
            /// # Errors
            /// As [`from_pretrained`](Self::from_pretrained).
            pub fn from_files(files: ModelFiles, options: LoadOptions) -> Result<LanguageModel> {
                Self::from_files_on(options.find_device()?, files, options)
            }

            /// [`from_files`](Self::from_files) on a device.
            ///
            /// # Errors
            /// As [`from_pretrained_on`](Self::from_pretrained_on).
            pub fn from_files_on(
                device: impl LoadTarget,
                files: ModelFiles,
                options: LoadOptions,
            ) -> Result<LanguageModel> {
                require(&files, $takes)?;
                LanguageModel::load(device, &files, &options)
            }
        }
    };
}

loader! {
    /// Finds and loads models of any task.
    AutoModel, None
}

loader! {
    /// Finds and loads models that read and write text.
    AutoModelForCausalLm, Some(Task::CausalLm)
}

loader! {
    /// Finds and loads models that read images and text and write text
    /// (`Qwen/Qwen3-VL-30B-A3B-Instruct`).
    AutoModelForImageTextToText, Some(Task::ImageTextToText)
}

impl AutoModel {
    /// The files of a model of any task, opened and not loaded: found in a folder, or on the hub by its id.
    ///
    /// # Errors
    /// If the model cannot be found, or a file of it is damaged.
    pub fn open(model: &str, options: &LoadOptions) -> Result<ModelFiles> {
        find(model, options)
    }
}

fn find(model: &str, options: &LoadOptions) -> Result<ModelFiles> {
    let not_a_model = |problem| Error::NotAModel { model: model.to_owned(), problem };
    if let Some(problem) = address(model) {
        return Err(not_a_model(problem));
    }
    let folder = match Path::new(model) {
        path if path.exists() || !looks_like_id(model) => path.to_owned(),
        _ => download(model, options)?,
    };
    ModelFiles::open(&folder).map_err(|error| told(&folder).map_or(error, not_a_model))
}

/// What an address is, if a model is given as one: which id it is of.
fn address(model: &str) -> Option<String> {
    let (scheme, rest) = match model.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, model),
    };
    let mut parts = rest.split(['/', '?', '#']).filter(|part| !part.is_empty());
    let host = parts.next()?;
    let is_hub = ["huggingface.co", "www.huggingface.co", "hf.co"].contains(&host);
    let parts: Vec<&str> = match scheme {
        Some("hf") => rest.split('/').take(2).collect(),
        Some(_) => parts.take(2).collect(),
        None if is_hub => parts.take(2).collect(),
        None => return None,
    };
    let id = match parts.as_slice() {
        [owner, name] => format!("the id `{owner}/{name}`"),
        _ => "the id `owner/name` of a model".to_owned(),
    };
    Some(match is_hub || scheme == Some("hf") {
        true => format!("an address: give {id}"),
        false => format!("an address: give {id}, and set HF_ENDPOINT for another hub"),
    })
}

#[cfg(feature = "hub")]
fn download(model: &str, options: &LoadOptions) -> Result<PathBuf> {
    Ok(crate::hub::fetch(model, &options.hub, std::sync::Arc::clone(&options.progress))?)
}

#[cfg(not(feature = "hub"))]
fn download(model: &str, _options: &LoadOptions) -> Result<PathBuf> {
    Err(Error::not_built(format!("`{model}`, which is no folder and may be on the hub,"), "hub"))
}

/// Whether a model is of the task, if there has to be one.
fn require(files: &ModelFiles, task: Option<Task>) -> Result<()> {
    let family = Family::of(&files.config)?;
    if task.is_none_or(|task| task == family.task()) {
        return Ok(());
    }
    Err(Error::OtherLoader {
        file: files.config.file().to_owned(),
        model_type: family.model_type.to_owned(),
        loader: family.task().loader(),
    })
}

/// Whether a name that is no path could be a hub id: `name` or `owner/name`.
fn looks_like_id(model: &str) -> bool {
    let parts = model.split('/').count();
    let is_path = Path::new(model).is_absolute() || model.starts_with('.') || parts > 2;
    !is_path && !model.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_with_the_id_that_it_holds() {
        for (model, expected) in [
            (
                "https://huggingface.co/Qwen/Qwen3-30B-A3B",
                "an address: give the id `Qwen/Qwen3-30B-A3B`",
            ),
            ("https://huggingface.co/a/b/tree/main?x=1", "an address: give the id `a/b`"),
            ("http://hf.co/a/b/", "an address: give the id `a/b`"),
            ("huggingface.co/a/b", "an address: give the id `a/b`"),
            ("hf://a/b", "an address: give the id `a/b`"),
            ("https://huggingface.co", "an address: give the id `owner/name` of a model"),
            (
                "https://hub.example/a/b",
                "an address: give the id `a/b`, and set HF_ENDPOINT for another hub",
            ),
        ] {
            assert_eq!(address(model).as_deref(), Some(expected), "{model}");
        }
        for model in ["Qwen/Qwen3-30B-A3B", "gpt2", "./a", "/tmp/a", "C:\\a", ""] {
            assert_eq!(address(model), None, "{model}");
        }
    }
}
