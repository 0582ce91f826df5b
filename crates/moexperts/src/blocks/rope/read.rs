//! Rotary embeddings as `config.json` says them.

use super::angles::{Rope, RopeScaling};
use crate::{
    config::Config,
    error::{Error, Result},
};

/// The kinds `rope_type` may name.
const KNOWN: &str = "`default`, `linear`, `dynamic`, `yarn`, `longrope`, `llama3`, `proportional`";

/// Kinds by names that only other readers know, with what to write instead.
const OTHER_NAMES: [(&str, &str); 4] =
    [("su", "longrope"), ("mrope", "default"), ("ntk", "dynamic"), ("axial", "default")];

/// No head turns more values: a frequency is made for each pair of them.
const MAX_DIMS: usize = 1 << 16;

/// The key of the context that the model was trained with, before stretching.
const ORIGINAL: &str = "original_max_position_embeddings";

/// The key of the part of a head that turns.
const PARTIAL: &str = "partial_rotary_factor";

/// The object of either dialect: `rope_scaling` if it has keys, or else `rope_parameters`.
pub(crate) fn rope_parameters(config: &Config) -> Result<Option<Config>> {
    let scaling = config.sub("rope_scaling")?.filter(|scaling| !scaling.is_empty());
    let parameters = config.sub("rope_parameters")?;
    let (Some(scaling), Some(parameters)) = (&scaling, &parameters) else {
        return Ok(scaling.or(parameters));
    };
    // Its keys are ignored as one, and need no warning each.
    if parameters.raw() != scaling.keys() {
        let (old, new) = (config.path("rope_scaling"), config.path("rope_parameters"));
        config.warn(format_args!(
            "keys `{old}` and `{new}` differ and `{old}` is obeyed; take one of them out"
        ));
    }
    Ok(Some(scaling.clone()))
}

/// What families differ in where a key is absent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RopeDefaults {
    pub(crate) rope_theta: f64,
    pub(crate) max_position_embeddings: usize,
    /// The part of a head that turns; `None` for families that turn whole heads, whatever the
    /// config says.
    pub(crate) partial_rotary_factor: Option<f64>,
    /// `rope_parameters` as JSON, where neither dialect is there.
    pub(crate) parameters: Option<&'static str>,
}

impl Rope {
    /// Reads both dialects: `rope_theta` with `rope_scaling`, and `rope_parameters`.
    ///
    /// - `head_dim`: width of a head
    ///
    /// # Errors
    /// [`Error::Config`] for a kind that is not known or a missing or impossible value.
    pub(crate) fn read(config: &Config, head_dim: usize, defaults: &RopeDefaults) -> Result<Self> {
        let key = "max_position_embeddings";
        let max_position_embeddings = config.or(key, defaults.max_position_embeddings)?;
        if max_position_embeddings == 0 {
            return Err(config.refused(key, "a positive integer"));
        }
        let parameters = match (rope_parameters(config)?, defaults.parameters) {
            (None, Some(default)) => Config::parse(config.file(), default)?,
            (parameters, _) => {
                parameters.map_or_else(|| config.sub_or_empty("rope_scaling"), Ok)?
            }
        };
        let theta = inner_or_outer(config, &parameters, "rope_theta")?;
        let rope_theta = theta.unwrap_or(defaults.rope_theta);
        let reader =
            Reader { config, parameters: &parameters, max: max_position_embeddings as f64 };
        let kind = reader.kind()?;
        let (dims, scaling) = reader.read(&kind, head_dim, defaults.partial_rotary_factor)?;
        if !(2..=MAX_DIMS).contains(&dims)
            || !dims.is_multiple_of(2)
            || rope_theta.is_nan()
            || rope_theta <= 0.0
        {
            return Err(reader.problem(format!(
                "rotary embedding of {dims} values with base {rope_theta} is impossible, \
                 expected an even number of values up to {MAX_DIMS} and a positive base"
            )));
        }
        let mrope_section = None;
        let rope = Self { dims, rope_theta, max_position_embeddings, scaling, mrope_section };
        // Each value may be possible and together they may not: a base of 1 has no wavelengths.
        if rope.inv_freq(max_position_embeddings).iter().any(|frequency| !frequency.is_finite()) {
            return Err(reader.problem(format!(
                "the rotary embedding with base {rope_theta} and {:?} has no finite frequencies",
                rope.scaling
            )));
        }
        Ok(rope)
    }
}

/// A number that may stand in the object or beside it; the object counts.
fn inner_or_outer(config: &Config, parameters: &Config, key: &str) -> Result<Option<f64>> {
    let (inner, outer): (Option<f64>, _) = (parameters.optional(key)?, config.optional(key)?);
    Ok(one_of(config, (parameters.path(key), inner), (config.path(key), outer)))
}

/// The first of two values for the same thing; where they differ, that is said.
fn one_of(
    config: &Config,
    (path, obeyed): (String, Option<f64>),
    (other_path, other): (String, Option<f64>),
) -> Option<f64> {
    if let (Some(obeyed), Some(other)) = (obeyed, other)
        && obeyed != other
    {
        config.warn(format_args!(
            "key `{path}` is {obeyed} and `{other_path}` is {other}: `{path}` is obeyed"
        ));
    }
    obeyed.or(other)
}

/// The object that says how wavelengths are stretched, and what is beside it.
struct Reader<'c> {
    config: &'c Config,
    parameters: &'c Config,
    /// `max_position_embeddings`.
    max: f64,
}

impl Reader<'_> {
    /// `rope_type`, or `type` as it was called.
    fn kind(&self) -> Result<String> {
        let new: Option<String> = self.parameters.optional("rope_type")?;
        let old: Option<String> = self.parameters.optional("type")?;
        if let (Some(new), Some(old)) = (&new, &old)
            && new != old
        {
            let [new_path, old_path] = ["rope_type", "type"].map(|key| self.parameters.path(key));
            self.config.warn(format_args!(
                "key `{new_path}` is \"{new}\" and `{old_path}` is \"{old}\": `{new_path}` is obeyed"
            ));
        }
        Ok(new.or(old).unwrap_or_else(|| "default".to_owned()))
    }

    /// Values of a head that turn, and how they are stretched.
    fn read(
        &self,
        kind: &str,
        head_dim: usize,
        default_partial: Option<f64>,
    ) -> Result<(usize, RopeScaling)> {
        let stated = inner_or_outer(self.config, self.parameters, PARTIAL)?;
        let partial = stated.or(default_partial).unwrap_or(1.0);
        if !(partial > 0.0 && partial <= 1.0) {
            return Err(self.problem(format!(
                "the rotary embedding turns {partial} of a head, expected more than 0 and at most 1"
            )));
        }
        if kind == "proportional" {
            let pairs = (partial * head_dim as f64 / 2.0) as usize;
            let factor = self.positive("factor", self.parameters.or("factor", 1.0)?)?;
            return Ok((head_dim, RopeScaling::Proportional { factor, pairs }));
        }
        let dims = match default_partial {
            Some(_) => (head_dim as f64 * partial) as usize,
            None if partial == 1.0 => head_dim,
            None if kind == "default" => {
                self.config.warn(format_args!(
                    "key `{PARTIAL}` is {partial} and is not obeyed: models of this family turn \
                     whole heads"
                ));
                head_dim
            }
            None => {
                return Err(self.problem(format!(
                    "key `{PARTIAL}` is {partial}, expected 1: models of this family turn whole \
                     heads"
                )));
            }
        };
        Ok((dims, self.scaling(kind, dims)?))
    }

    fn scaling(&self, kind: &str, dims: usize) -> Result<RopeScaling> {
        match kind {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear { factor: self.factor()? }),
            "dynamic" => Ok(RopeScaling::Dynamic { factor: self.factor()? }),
            "yarn" => self.yarn(),
            "longrope" => self.long_rope(dims),
            "llama3" => self.llama3(),
            _ => {
                let other = OTHER_NAMES.iter().find(|(name, _)| *name == kind);
                let hint = other.map(|(_, name)| format!("; write `{name}` if that is meant"));
                Err(self.problem(format!(
                    "rope_type `{kind}` is not known, expected one of {KNOWN}{}",
                    hint.unwrap_or_default()
                )))
            }
        }
    }

    fn yarn(&self) -> Result<RopeScaling> {
        let original = self.original()?;
        let stretched = self.max / original;
        let factor = match self.parameters.is_null("factor") {
            true => self.positive("factor", stretched)?,
            false => self.factor()?,
        };
        if stretched != factor && stretched != 1.0 {
            self.config.warn(format_args!(
                "YaRN's factor is {factor}, but max_position_embeddings / {ORIGINAL} is \
                 {stretched}: the factor is obeyed; correct `{ORIGINAL}` if it is wrong"
            ));
        }
        let [mscale, all] = [self.nonzero("mscale")?, self.nonzero("mscale_all_dim")?];
        let inferred = match (mscale, all) {
            (Some(mscale), Some(all)) => magnitude(factor, mscale) / magnitude(factor, all),
            _ => magnitude(factor, 1.0),
        };
        let rotations =
            |key: &str, default| self.positive(key, self.nonzero(key)?.unwrap_or(default));
        let (beta_fast, beta_slow) = (rotations("beta_fast", 32.0)?, rotations("beta_slow", 1.0)?);
        if beta_fast < beta_slow {
            self.config.warn(format_args!(
                "key `{}` is {beta_fast}, expected at least `beta_slow`, {beta_slow}; both are \
                 used as they are",
                self.parameters.path("beta_fast")
            ));
        }
        // `null` is no, as in transformers.
        let truncate =
            !self.parameters.is_null("truncate") && self.parameters.or("truncate", true)?;
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast,
            beta_slow,
            attention_factor: self.attention_factor(inferred)?,
            truncate,
        })
    }

    fn long_rope(&self, dims: usize) -> Result<RopeScaling> {
        let original = self.original()?;
        let factor = match self.parameters.contains("factor") {
            true => self.factor()?,
            false => self.max / original,
        };
        let inferred = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
        let factors = |key: &str| -> Result<Vec<f64>> {
            let factors: Vec<f64> = self.parameters.required(key)?;
            if factors.len() == dims / 2 && factors.iter().all(|&factor| factor > 0.0) {
                return Ok(factors);
            }
            Err(self.parameters.refused(key, &format!("{} positive numbers", dims / 2)))
        };
        Ok(RopeScaling::LongRope {
            short_factor: factors("short_factor")?,
            long_factor: factors("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor: self.attention_factor(inferred)?,
        })
    }

    fn llama3(&self) -> Result<RopeScaling> {
        let required = |key: &str| self.positive(key, self.parameters.required(key)?);
        let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
        if high <= low {
            self.config.warn(format_args!(
                "key `{}` is {low}, expected less than `high_freq_factor`, {high}; both are used \
                 as they are",
                self.parameters.path("low_freq_factor")
            ));
        }
        let original = self.original()?;
        if original >= self.max {
            self.config.warn(format_args!(
                "`{ORIGINAL}` of the rotary embedding is {original}, expected less than \
                 max_position_embeddings, {}; it is used as it is",
                self.max
            ));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.factor()?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        })
    }

    /// `factor`, which has to be there.
    fn factor(&self) -> Result<f64> {
        let key = "factor";
        let factor = self.positive(key, self.parameters.required(key)?)?;
        if factor < 1.0 {
            let path = self.parameters.path(key);
            self.config.warn(format_args!(
                "key `{path}` is {factor}, expected at least 1; it is used as it is"
            ));
        }
        Ok(factor)
    }

    /// The context before stretching. The key beside the object counts here, as in transformers.
    fn original(&self) -> Result<f64> {
        let (inner, outer) = (self.parameters.optional(ORIGINAL)?, self.config.optional(ORIGINAL)?);
        let outer = (self.config.path(ORIGINAL), outer);
        let original = one_of(self.config, outer, (self.parameters.path(ORIGINAL), inner));
        self.positive(ORIGINAL, original.unwrap_or(self.max))
    }

    fn attention_factor(&self, inferred: f64) -> Result<f64> {
        let key = "attention_factor";
        self.positive(key, self.parameters.or(key, inferred)?)
    }

    /// A number, where 0 is as if it were absent.
    fn nonzero(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.parameters.optional(key)?.filter(|&value: &f64| value != 0.0))
    }

    fn positive(&self, key: &str, value: f64) -> Result<f64> {
        if value > 0.0 && value.is_finite() {
            return Ok(value);
        }
        Err(self.problem(format!("key `{key}` is {value}, expected a positive number")))
    }

    fn problem(&self, problem: String) -> Error {
        Error::Config { file: self.config.file().to_owned(), problem }
    }
}

/// YaRN's correction of the attention's temperature.
fn magnitude(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}
