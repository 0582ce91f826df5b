//! Names of element types, as users and checkpoints write them.

use std::str::FromStr;

use crate::{
    error::{Error, listed},
    weights::dtype::DType,
};

impl FromStr for DType {
    type Err = Error;

    /// Reads `f32`, `f16`, `bf16` and the long names of checkpoints (`float32`, `bfloat16`).
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.trim_start_matches("torch.").to_ascii_lowercase().as_str() {
            "f32" | "float32" => Ok(Self::F32),
            "f16" | "float16" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            _ => Err(Error::Unknown {
                what: "dtype",
                got: text.to_owned(),
                known: listed(Self::ALL.map(Self::name)),
            }),
        }
    }
}
