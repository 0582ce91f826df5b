//! A model as its config describes it, brought together with the checkpoint it is loaded from.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use moexperts_core::DType;

use super::spec::ModelSpec;
use crate::{
    checkpoint::Checkpoint,
    error::Result,
    warnings::Warnings,
    weights::{Orientation, Share, TensorSpec, experts_dtype},
};

/// The tensor of the language model head.
const HEAD: &str = "lm_head.weight";

/// Names that a warning lists.
const LISTED: usize = 4;

/// A model and its checkpoint, contradictions between them resolved as transformers does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fit {
    /// The model as it is loaded.
    pub spec: ModelSpec,
    /// The checkpoint, its tensors under the names that the model has for them.
    pub checkpoint: Checkpoint,
    /// The tensors of the model.
    pub inventory: Vec<TensorSpec>,
    /// Tensors of the model that the checkpoint lacks: it cannot be loaded.
    pub missing: Vec<String>,
    /// Tensors of the checkpoint that the model does not have.
    pub superfluous: Vec<String>,
    /// What was resolved, and how.
    pub warnings: Warnings,
}

/// Bytes that the weights of a model take once they are loaded; norms and biases, which are few, are
/// left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightBytes {
    /// Used where the checkpoint has them: pages of its files.
    pub in_place: u64,
    /// Converted to another dtype or layout, or copied, and held in memory beside the files.
    pub converted: u64,
}

impl ModelSpec {
    /// Brings the model together with a checkpoint: names with the base model's prefix once, not or twice,
    /// whether the embedding is the head, what is missing and what is too much.
    ///
    /// # Errors
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) if tensors that have to be compared are of an
    /// element type that is not read.
    pub fn fit(mut self, checkpoint: &Checkpoint) -> Result<Fit> {
        let mut checkpoint = checkpoint.clone();
        let mut warnings = checkpoint.warnings().clone();
        let prefixed = Prefixed::of(&self);
        checkpoint.rename(|name| prefixed.name(name));
        let tied_head = self.tie(&mut checkpoint, &mut warnings)?;
        let inventory = self.tensors(&checkpoint);
        let names: BTreeSet<String> = inventory.iter().flat_map(TensorSpec::names).collect();
        let missing = names.iter().filter(|name| !checkpoint.contains(name)).cloned().collect();
        let surplus = |name: &&str| {
            let is_known = names.contains(*name) || (tied_head && *name == HEAD);
            !is_known && !is_ignored(name)
        };
        let superfluous: Vec<String> =
            checkpoint.names().filter(surplus).map(str::to_owned).collect();
        if !superfluous.is_empty() {
            warnings.push(format_args!(
                "{}: {} not used, the model that config.json describes has none of the name: {}",
                checkpoint.file(),
                match superfluous.len() {
                    1 => "a tensor is".to_owned(),
                    count => format!("{count} tensors are"),
                },
                listed(&superfluous)
            ));
        }
        let doubles = names.iter().filter(|name| checkpoint.is_f64(name)).count();
        if doubles > 0 {
            warnings.push(format_args!(
                "{}: {doubles} tensors are stored as F64 and are converted to F32",
                checkpoint.file()
            ));
        }
        Ok(Fit { spec: self, checkpoint, inventory, missing, superfluous, warnings })
    }

    /// Whether the embedding is the head too, as the config and the checkpoint together say; returns
    /// whether it is and the checkpoint stores the head nevertheless.
    fn tie(&mut self, checkpoint: &mut Checkpoint, warnings: &mut Warnings) -> Result<bool> {
        let table = self.text.name("embed_tokens.weight");
        match (checkpoint.contains(&table), checkpoint.contains(HEAD)) {
            (true, true) if self.text.tie_word_embeddings => {
                if checkpoint.are_equal(&table, HEAD)? {
                    return Ok(true);
                }
                self.text.tie_word_embeddings = false;
                warnings.push(format_args!(
                    "config.json: key `tie_word_embeddings` is true, but `{HEAD}` is stored and \
                     differs from `{table}`: they are not tied; correct the key"
                ));
            }
            // Tying is symmetric.
            (false, true) if self.text.tie_word_embeddings => {
                checkpoint.rename(|name| (name == HEAD).then(|| table.clone()));
            }
            (true, false) if !self.text.tie_word_embeddings => {
                let why = "config.json does not say that it is the embedding; if it is, write \
                           `\"tie_word_embeddings\": true` there";
                checkpoint.explain_missing(HEAD, why.to_owned());
            }
            _ => {}
        }
        Ok(false)
    }
}

impl Fit {
    /// What the weights take in memory, loaded as `dtype`; as they are stored if `None`.
    pub fn weight_bytes(&self, dtype: Option<DType>) -> WeightBytes {
        let shared = self.experts_dtypes(dtype);
        let mut bytes = WeightBytes::default();
        for tensor in self.inventory.iter().filter(|tensor| tensor.is_weight()) {
            let target = experts_of(tensor).and_then(|experts| shared.get(experts).copied());
            let each = tensor.elements() / tensor.count().max(1) as u128;
            for name in tensor.names() {
                let Some(stored) = self.checkpoint.dtype(&name) else { continue };
                let used = target.flatten().or(dtype).unwrap_or(stored);
                let size = u64::try_from(each.saturating_mul(used.size_bytes() as u128));
                let sum = match used == stored
                    && tensor.orientation == Orientation::OutIn
                    && !self.checkpoint.is_copied(&name)
                {
                    true => &mut bytes.in_place,
                    false => &mut bytes.converted,
                };
                *sum = sum.saturating_add(size.unwrap_or(u64::MAX));
            }
        }
        bytes
    }

    /// What the experts of each layer are converted to, by their module.
    fn experts_dtypes(&self, dtype: Option<DType>) -> HashMap<&str, Option<DType>> {
        let mut names: HashMap<&str, Vec<String>> = HashMap::new();
        if dtype.is_none() {
            for tensor in self.inventory.iter().filter(|tensor| tensor.is_weight()) {
                if let Some(experts) = experts_of(tensor) {
                    names.entry(experts).or_default().extend(tensor.names());
                }
            }
        }
        let of = |(module, names): (_, Vec<String>)| {
            (module, experts_dtype(&self.checkpoint, names.iter().map(String::as_str)))
        };
        names.into_iter().map(of).collect()
    }
}

/// The layer whose experts a tensor is of: `model.layers.0`.
fn experts_of(tensor: &TensorSpec) -> Option<&str> {
    const LAYERS: &str = "layers.";
    if !matches!(tensor.share, Share::Routed { .. }) {
        return None;
    }
    let number = tensor.name.find(LAYERS)? + LAYERS.len();
    let end = tensor.name[number..].find('.')?;
    Some(&tensor.name[..number + end])
}

/// The names of a model's tensors, which checkpoints have with one prefix of the base model too few or
/// too many, depending on the class that saved them.
struct Prefixed {
    /// What stands in the base model: `layers`, `norm`.
    inside: Vec<String>,
}

impl Prefixed {
    /// The base model of transformers' classes is `model`, whatever is in it.
    const PREFIX: &str = "model.";

    fn of(spec: &ModelSpec) -> Self {
        let module = |module: &str| module.strip_prefix(Self::PREFIX).map(str::to_owned);
        let inside = match module(spec.text.module) {
            Some(text) => std::iter::once(text)
                .chain(spec.vision.as_ref().and_then(|vision| module(vision.module)))
                .collect(),
            None => ["layers", "embed_tokens", "norm"].map(str::to_owned).to_vec(),
        };
        Self { inside }
    }

    /// The name that the model has for a tensor, if the checkpoint may have it under `stored`.
    fn name(&self, stored: &str) -> Option<String> {
        let Some(rest) = stored.strip_prefix(Self::PREFIX) else {
            return self.is_inside(stored).then(|| format!("{}{stored}", Self::PREFIX));
        };
        let in_base_model =
            rest.strip_prefix(Self::PREFIX).is_some_and(|name| self.is_inside(name));
        (in_base_model || rest.starts_with("lm_head.")).then(|| rest.to_owned())
    }

    /// Whether a name without prefix is one of the base model.
    fn is_inside(&self, name: &str) -> bool {
        let module = name.split_once('.').map(|(module, _)| module);
        module.is_some_and(|module| self.inside.iter().any(|inside| inside == module))
    }
}

/// Tensors that checkpoints have and no program needs: buffers of older programs, and layers that
/// predict further tokens.
fn is_ignored(name: &str) -> bool {
    name.contains("rotary_emb.inv_freq")
        || name.starts_with("mtp.")
        || name.starts_with("model.mtp.")
}

/// Names for a message, those that differ in numbers alone as one.
fn listed(names: &[String]) -> String {
    let mut groups: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<_> =
            name.split('.').map(|part| if number(part) { "*" } else { part }).collect();
        *groups.entry(parts.join(".")).or_default() += 1;
    }
    let shown = groups.iter().take(LISTED).map(|(name, count)| match count {
        1 => format!("`{name}`"),
        count => format!("`{name}` ({count})"),
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if groups.len() > LISTED {
        text += &format!(" and {} more kinds", groups.len() - LISTED);
    }
    text
}
