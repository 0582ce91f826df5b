//! Rotary position embedding and its scaling variants, after transformers'
//! `modeling_rope_utils.py`: `angles` computes, `read` reads `config.json`.

mod angles;
mod read;
#[cfg(test)]
mod tests;

pub use self::angles::{Position, Rope, RopeScaling};
pub(crate) use self::{
    angles::Angles,
    read::{RopeDefaults, rope_parameters},
};
