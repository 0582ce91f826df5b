//! Instruction sets, found at run time.

use std::{fmt, str::FromStr, sync::OnceLock};

use moexperts_core::Variable;

#[cfg(target_arch = "x86_64")]
use crate::amx;

/// The environment variable that lowers the instruction set, for tests: one of [`Isa::ALL`].
pub const ISA_VARIABLE: &str = VARIABLE.name;

pub(crate) const VARIABLE: Variable =
    Variable::new("MOEXPERTS_ISA", "lowers the instruction set of the CPU's kernels");

/// An instruction set that kernels are written for.
///
/// The sets of an architecture are no ladder: which sets one [includes](Self::includes) is part of
/// its description, and kernels are dispatched by that alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
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

/// A kind of processors that have instruction sets in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
}

/// An instruction set as data.
struct Set {
    isa: Isa,
    name: &'static str,
    /// The processors that can have it; `None` for all.
    architecture: Option<Architecture>,
    /// The sets that a processor with this one has too, the portable one left out.
    includes: &'static [Isa],
    /// Whether this machine has what it adds to those.
    detect: fn() -> bool,
}

/// Whether this machine has features of x86-64.
macro_rules! x86_64 {
    ($($feature:tt),+) => {
        || {
            #[cfg(target_arch = "x86_64")]
            return $(is_x86_feature_detected!($feature))&&+;
            #[cfg(not(target_arch = "x86_64"))]
            return false;
        }
    };
}

/// Every instruction set in the order of [`Isa`]; of an architecture's, the best last.
const SETS: [Set; 5] = [
    Set {
        isa: Isa::Portable,
        name: "portable",
        architecture: None,
        includes: &[],
        detect: || true,
    },
    Set {
        isa: Isa::Avx2,
        name: "avx2",
        architecture: Some(Architecture::X86_64),
        includes: &[],
        detect: x86_64!("avx2", "fma", "f16c"),
    },
    Set {
        isa: Isa::Avx512,
        name: "avx512",
        architecture: Some(Architecture::X86_64),
        includes: &[Isa::Avx2],
        detect: x86_64!("avx512f", "avx512bw", "avx512dq", "avx512vl"),
    },
    Set {
        isa: Isa::Avx512Bf16,
        name: "avx512bf16",
        architecture: Some(Architecture::X86_64),
        includes: &[Isa::Avx2, Isa::Avx512],
        detect: x86_64!("avx512bf16"),
    },
    Set {
        isa: Isa::AmxBf16,
        name: "amxbf16",
        architecture: Some(Architecture::X86_64),
        includes: &[Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16],
        detect: amx_bf16,
    },
    // The sets of AArch64 go here, `neon` first: a row with no `includes`.
];

/// Only to be called on a machine with AVX-512.
fn amx_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return amx::runs_here();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

impl Isa {
    /// Every instruction set; of an architecture's, the best last.
    pub const ALL: [Self; SETS.len()] = {
        let mut all = [Self::Portable; SETS.len()];
        let mut place = 0;
        while place < all.len() {
            all[place] = SETS[place].isa;
            place += 1;
        }
        all
    };

    const fn set(self) -> &'static Set {
        &SETS[self as usize]
    }

    /// The name as users type it.
    pub const fn name(self) -> &'static str {
        self.set().name
    }

    /// The architecture whose processors can have it; `None` if all have it.
    pub const fn architecture(self) -> Option<Architecture> {
        self.set().architecture
    }

    /// Whether every processor with this set has `other` too, so that the kernels written for
    /// `other` run.
    pub fn includes(self, other: Self) -> bool {
        other == self || other == Self::Portable || self.set().includes.contains(&other)
    }

    /// Whether this machine has it.
    pub fn runs_here(self) -> bool {
        /// A bit for each set.
        static FOUND: OnceLock<u32> = OnceLock::new();
        let found = *FOUND.get_or_init(|| {
            let mut found = 0;
            // A set is detected only where those it includes are: `detect` may rely on them.
            for isa in Self::ALL {
                let others = isa.set().includes.iter().all(|&other| found & other.bit() != 0);
                if others && (isa.set().detect)() {
                    found |= isa.bit();
                }
            }
            found
        });
        found & self.bit() != 0
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The instruction sets of this machine, the best last.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.runs_here())
    }

    /// The best instruction set of this machine, or the one `MOEXPERTS_ISA` names.
    ///
    /// # Errors
    /// If the variable names none, or one this machine lacks.
    pub fn choose() -> Result<Self, IsaError> {
        let best = Self::available().last().unwrap_or(Self::Portable);
        let Some(text) = VARIABLE.get() else { return Ok(best) };
        let isa: Self = text.to_string_lossy().parse()?;
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
        "instruction set `{text}` (MOEXPERTS_ISA) is not known, expected one of {}",
        Isa::ALL.map(|isa| format!("`{isa}`")).join(", ")
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
        /// The set that was requested.
        isa: Isa,
        /// The best set of this machine.
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
    fn every_set_describes_itself() {
        for (place, isa) in Isa::ALL.into_iter().enumerate() {
            assert_eq!((isa as usize, isa.set().isa), (place, isa));
            assert_eq!(isa.architecture().is_none(), isa == Isa::Portable, "{isa}");
        }
    }

    #[test]
    fn included_sets_come_first_share_the_architecture_and_are_closed() {
        for isa in Isa::ALL {
            assert!(isa.includes(isa) && isa.includes(Isa::Portable));
            for &other in isa.set().includes {
                assert!((other as usize) < isa as usize, "{isa} {other}");
                assert_eq!(other.architecture(), isa.architecture(), "{isa} {other}");
                assert!(!other.includes(isa), "{isa} {other}");
                assert!(other.set().includes.iter().all(|&third| isa.includes(third)), "{isa}");
            }
        }
        assert!(Isa::AmxBf16.includes(Isa::Avx2) && !Isa::Avx2.includes(Isa::Avx512));
    }

    #[test]
    fn a_machine_has_all_that_its_sets_include() {
        for isa in Isa::available() {
            for other in Isa::ALL.into_iter().filter(|&other| isa.includes(other)) {
                assert!(other.runs_here(), "{isa} {other}");
            }
        }
        let here = if cfg!(target_arch = "x86_64") { Some(Architecture::X86_64) } else { None };
        let mut architectures = Isa::available().filter_map(Isa::architecture);
        assert!(architectures.all(|architecture| Some(architecture) == here));
    }
}
