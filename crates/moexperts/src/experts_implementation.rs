//! Which backend runs the experts of which part of a model.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use moexperts_core::{Device, Execution, ExpertsBackend, ExpertsInterface, ExpertsSpec};

use crate::error::{Error, Result};

/// A choice of experts backends, as users write it: one name for the whole model, or a name a
/// backbone.
///
/// The keys of a map are the sub-config names of `config.json` (`text_config`). The key `""` is
/// the model itself, and every backbone that has no key of its own. A backbone the map says
/// nothing of keeps what it has.
///
/// A text converted with `into` is one name; one that is parsed may be a map, as on the command
/// line: `text_config=grouped_mm,vision_config=eager`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpertsImplementation {
    /// One backend everywhere.
    Everywhere(String),
    /// A backend for each key.
    PerBackbone(BTreeMap<String, String>),
}

impl ExpertsImplementation {
    /// Whether every name is one that device `D` knows.
    ///
    /// # Errors
    /// [`moexperts_core::Error::UnknownBackend`] for the first that is not.
    pub fn check_names<D: Device>(&self) -> Result<()> {
        let names: Vec<&String> = match self {
            Self::Everywhere(name) => vec![name],
            Self::PerBackbone(names) => names.values().collect(),
        };
        for name in names {
            ExpertsInterface::get::<D::Experts>(name)?;
        }
        Ok(())
    }
}

impl From<&str> for ExpertsImplementation {
    fn from(name: &str) -> Self {
        Self::Everywhere(name.to_owned())
    }
}

impl From<String> for ExpertsImplementation {
    fn from(name: String) -> Self {
        Self::Everywhere(name)
    }
}

impl From<BTreeMap<String, String>> for ExpertsImplementation {
    fn from(names: BTreeMap<String, String>) -> Self {
        Self::PerBackbone(names)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for ExpertsImplementation {
    fn from(names: [(&str, &str); N]) -> Self {
        Self::PerBackbone(names.map(|(key, name)| (key.to_owned(), name.to_owned())).into())
    }
}

impl FromStr for ExpertsImplementation {
    type Err = Error;

    /// Reads `grouped_mm` and `text_config=grouped_mm,vision_config=eager`.
    fn from_str(text: &str) -> Result<Self> {
        if !text.contains(['=', ',']) {
            return Ok(text.into());
        }
        let refused = |expected: &str| Error::Option {
            option: "experts_implementation",
            got: format!("`{text}`"),
            expected: expected.to_owned(),
        };
        let mut names = BTreeMap::new();
        for part in text.split(',') {
            let Some((key, name)) = part.split_once('=') else {
                return Err(refused("NAME or KEY=NAME,KEY=NAME"));
            };
            if names.insert(key.trim().to_owned(), name.trim().to_owned()).is_some() {
                return Err(refused("each key once"));
            }
        }
        Ok(Self::PerBackbone(names))
    }
}

impl fmt::Display for ExpertsImplementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere(name) => f.write_str(name),
            Self::PerBackbone(names) => {
                for (index, (key, name)) in names.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}{key}={name}")?;
                }
                Ok(())
            }
        }
    }
}

/// A part of a model whose experts have a backend of their own.
#[derive(Debug, Clone)]
pub(crate) struct Backbone {
    /// Its sub-config in `config.json`; `""` for the model itself.
    pub(crate) key: String,
    /// What its experts layers are.
    pub(crate) experts: Vec<ExpertsSpec>,
}

/// The backends of one backbone.
#[derive(Debug)]
pub(crate) struct Choice<D: Device> {
    name: String,
    prefill: Arc<dyn ExpertsBackend<D::Experts>>,
    decode: Arc<dyn ExpertsBackend<D::Experts>>,
}

impl<D: Device> Clone for Choice<D> {
    fn clone(&self) -> Self {
        let (prefill, decode) = (Arc::clone(&self.prefill), Arc::clone(&self.decode));
        Self { name: self.name.clone(), prefill, decode }
    }
}

/// Whether a forward reads a prompt or writes one token a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Prefill,
    Decode,
}

/// The backends of every backbone, found and checked. Never changed: a switch makes a new one, so
/// a forward that started with the old one finishes with it.
#[derive(Debug)]
pub(crate) struct Choices<D: Device>(BTreeMap<String, Choice<D>>);

impl<D: Device> Clone for Choices<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Device> Choices<D> {
    /// `implementation` on every backbone it names, what `self` has on the others.
    pub(crate) fn with(
        &self,
        implementation: &ExpertsImplementation,
        backbones: &[Backbone],
        device: &D,
    ) -> Result<Self> {
        // A name is checked even where every backbone has a key of its own.
        implementation.check_names::<D>()?;
        if let ExpertsImplementation::PerBackbone(names) = implementation {
            let is_known = |key: &str| key.is_empty() || backbones.iter().any(|b| b.key == key);
            if let Some(key) = names.keys().find(|key| !is_known(key)) {
                let mut known = "`` (the model itself)".to_owned();
                for backbone in backbones.iter().filter(|backbone| !backbone.key.is_empty()) {
                    known.push_str(&format!(", `{}`", backbone.key));
                }
                return Err(Error::UnknownBackbone { key: key.clone(), known });
            }
        }
        let mut choices = BTreeMap::new();
        for backbone in backbones {
            let name = match implementation {
                ExpertsImplementation::Everywhere(name) => Some(name),
                ExpertsImplementation::PerBackbone(names) => {
                    names.get(&backbone.key).or_else(|| names.get(""))
                }
            };
            let choice = match (name, self.0.get(&backbone.key)) {
                (Some(name), _) => Choice::new(name, backbone, device)?,
                (None, Some(current)) => current.clone(),
                (None, None) => Choice::new(DEFAULT, backbone, device)?,
            };
            choices.insert(backbone.key.clone(), choice);
        }
        Ok(Self(choices))
    }

    pub(crate) fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// One backend for everything, registered or not.
    pub(crate) fn everywhere(
        backend: &Arc<dyn ExpertsBackend<D::Experts>>,
        backbones: &[Backbone],
        device: &D,
    ) -> Result<Self> {
        let mut choices = BTreeMap::new();
        for backbone in backbones {
            check(&**backend, backbone, device)?;
            let (prefill, decode) = (Arc::clone(backend), Arc::clone(backend));
            let choice = Choice { name: backend.name().to_owned(), prefill, decode };
            choices.insert(backbone.key.clone(), choice);
        }
        Ok(Self(choices))
    }

    /// The names, by backbone.
    pub(crate) fn names(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(key, choice)| (key.clone(), choice.name.clone())).collect()
    }

    /// The backend of a backbone.
    ///
    /// # Panics
    /// If the model has no such backbone.
    pub(crate) fn backend(&self, key: &str, phase: Phase) -> &Arc<dyn ExpertsBackend<D::Experts>> {
        let choice = &self.0[key];
        match phase {
            Phase::Prefill => &choice.prefill,
            Phase::Decode => &choice.decode,
        }
    }
}

/// The backend of a backbone nobody chose one for.
pub(crate) const DEFAULT: &str = "grouped_mm";

impl<D: Device> Choice<D> {
    fn new(name: &str, backbone: &Backbone, device: &D) -> Result<Self> {
        let find = |name: &str| -> Result<Arc<dyn ExpertsBackend<D::Experts>>> {
            let backend = ExpertsInterface::get::<D::Experts>(name)?;
            check(&*backend, backbone, device)?;
            Ok(backend)
        };
        let prefill = find(name)?;
        let decode = match <D::Experts>::decode_experts(name) {
            same if same == name => Arc::clone(&prefill),
            other => find(other)?,
        };
        Ok(Self { name: name.to_owned(), prefill, decode })
    }
}

/// Whether a backend can run the experts of a backbone.
fn check<D: Device>(
    backend: &dyn ExpertsBackend<D::Experts>,
    backbone: &Backbone,
    device: &D,
) -> Result<()> {
    for spec in &backbone.experts {
        backend.check(spec, device.experts_device())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use moexperts_core::WeightFormat;
    use moexperts_cpu::{Cpu, CpuOptions};

    use super::*;

    fn two_backbones() -> Vec<Backbone> {
        let experts = vec![ExpertsSpec::gated_silu(4, 4, 2, WeightFormat::F32)];
        let backbone = |key: &str| Backbone { key: key.into(), experts: experts.clone() };
        vec![backbone("text_config"), backbone("vision_config")]
    }

    fn names(choices: &Choices<Cpu>) -> Vec<String> {
        choices.names().into_iter().map(|(key, name)| format!("{key}={name}")).collect()
    }

    #[test]
    fn a_map_reaches_the_backbones_it_names_and_the_empty_key_the_others() {
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let backbones = two_backbones();
        let with = |choices: &Choices<Cpu>, implementation: ExpertsImplementation| {
            choices.with(&implementation, &backbones, &cpu)
        };
        let start = with(&Choices::none(), [].into()).unwrap();
        assert_eq!(names(&start), ["text_config=grouped_mm", "vision_config=grouped_mm"]);
        let one = with(&start, [("vision_config", "eager")].into()).unwrap();
        assert_eq!(names(&one), ["text_config=grouped_mm", "vision_config=eager"]);
        let everywhere = with(&one, [("", "batched_mm")].into()).unwrap();
        assert_eq!(names(&everywhere), ["text_config=batched_mm", "vision_config=batched_mm"]);
        let mixed = [("", "eager"), ("text_config", "grouped_mm")];
        let mixed = with(&everywhere, mixed.into()).unwrap();
        assert_eq!(names(&mixed), ["text_config=grouped_mm", "vision_config=eager"]);
        let restored = with(&start, mixed.names().into()).unwrap();
        assert_eq!(names(&restored), names(&mixed));
    }

    #[test]
    fn an_unknown_key_or_name_is_an_error_that_lists_the_known() {
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let backbones = two_backbones();
        let error = |implementation: ExpertsImplementation| {
            let result = Choices::none().with(&implementation, &backbones, &cpu);
            result.unwrap_err().to_string()
        };
        assert_eq!(
            error([("audio_config", "eager")].into()),
            "experts implementation: the model has no sub-config `audio_config`, \
             expected one of `` (the model itself), `text_config`, `vision_config`"
        );
        let unknown = error([("text_config", "eager"), ("", "fast")].into());
        assert!(unknown.starts_with("experts implementation `fast` is not registered for CPU"));
        assert!(unknown.contains("`eager`, `batched_mm`, `grouped_mm`"));
    }

    #[test]
    fn text_reads_back() {
        for text in ["eager", "text_config=eager,vision_config=grouped_mm", "=eager"] {
            assert_eq!(text.parse::<ExpertsImplementation>().unwrap().to_string(), text);
        }
        let error = "a=b,c".parse::<ExpertsImplementation>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "option `experts_implementation` is `a=b,c`, expected NAME or KEY=NAME,KEY=NAME"
        );
        assert!("a=b,a=c".parse::<ExpertsImplementation>().is_err());
    }
}
