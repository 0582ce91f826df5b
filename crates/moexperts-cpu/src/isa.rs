//! Instruction sets, found at run time.

use std::{env, fmt, str::FromStr};

#[cfg(target_arch = "x86_64")]
use crate::amx;

/// The environment variable that lowers the instruction set, for tests: one of [`Isa::ALL`].
pub const ISA_VARIABLE: &str = "MOEXPERTS_ISA";

/// An instruction set kernels are written for, in ascending order: each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Whatever the compiler makes of plain Rust for the target.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with bf16 dot products.
    Avx512Bf16,
    /// AMX tiles of bf16, where the system lets the process use them.
    AmxBf16,
}

impl Isa {
    /// Every instruction set, in ascending order.
    pub const ALL: [Self; 5] =
        [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::AmxBf16];

    /// The name as users type it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
            Self::AmxBf16 => "amxbf16",
        }
    }

    /// Whether this machine has it.
    #[cfg(target_arch = "x86_64")]
    pub fn runs_here(self) -> bool {
        let avx2 = || {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
        };
        let avx512 = || {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        };
        let avx512bf16 = || avx512() && is_x86_feature_detected!("avx512bf16");
        match self {
            Self::Portable => true,
            Self::Avx2 => avx2(),
            Self::Avx512 => avx512(),
            Self::Avx512Bf16 => avx512bf16(),
            Self::AmxBf16 => avx512bf16() && amx::runs_here(),
        }
    }

    /// Whether this machine has it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn runs_here(self) -> bool {
        self == Self::Portable
    }

    /// The instruction sets of this machine, in ascending order.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.runs_here())
    }

    /// The best instruction set of this machine, or the one `MOEXPERTS_ISA` names.
    ///
    /// # Errors
    /// If the variable names none, or one this machine lacks.
    pub fn choose() -> Result<Self, IsaError> {
        let best = Self::available().last().unwrap_or(Self::Portable);
        let Ok(text) = env::var(ISA_VARIABLE) else { return Ok(best) };
        let isa: Self = text.parse()?;
        if isa.runs_here() { Ok(isa) } else { Err(IsaError::Missing { isa, best }) }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(text: &str) -> Result<Self, IsaError> {
        let named = Self::ALL.into_iter().find(|isa| isa.name() == text);
        named.ok_or_else(|| IsaError::Unknown { text: text.to_owned() })
    }
}

/// An instruction set that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// The word names none.
    #[error(
        "instruction set `{text}` (MOEXPERTS_ISA) is not known, \
         expected one of `portable`, `avx2`, `avx512`, `avx512bf16`, `amxbf16`"
    )]
    Unknown {
        /// The word.
        text: String,
    },
    /// This machine lacks it.
    #[error(
        "instruction set `{isa}` (MOEXPERTS_ISA) is missing on this machine, the best is `{best}`"
    )]
    Missing {
        /// The one asked for.
        isa: Isa,
        /// The best there is.
        best: Isa,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        let error = "sse9".parse::<Isa>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "instruction set `sse9` (MOEXPERTS_ISA) is not known, \
             expected one of `portable`, `avx2`, `avx512`, `avx512bf16`, `amxbf16`"
        );
    }

    #[test]
    fn the_portable_set_is_always_there() {
        assert_eq!(Isa::available().next(), Some(Isa::Portable));
    }
}
