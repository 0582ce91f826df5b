//! Devices by name.

use std::{fmt, str::FromStr};

use moexperts_cpu::{Cpu, CpuOptions};
use moexperts_cuda::{Cuda, CudaOptions};

use crate::error::{Error, Result};

/// A device as users name it: `auto`, `cpu`, `cuda`, `cuda:1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU, or the CPU where there is none.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this number, as the driver counts those that `CUDA_VISIBLE_DEVICES` lets it see;
    /// `cuda` is number 0.
    Cuda(usize),
}

/// A device that was found by its name. What runs on it is generic over
/// [`Device`](crate::Device), so a `match` is the one place that tells devices apart.
#[derive(Debug, Clone)]
pub enum AnyDevice {
    /// The processor.
    Cpu(Cpu),
    /// A GPU.
    Cuda(Cuda),
}

impl AnyDevice {
    /// Finds the device of a name.
    ///
    /// - `options`: how the CPU computes, if it is the CPU
    ///
    /// # Errors
    /// As [`Cpu::new`], and as [`Cuda::new`] where a GPU is asked for; `auto` logs why it takes
    /// none.
    pub fn find(name: DeviceName, options: CpuOptions) -> Result<Self> {
        let ordinal = match name {
            DeviceName::Cpu => None,
            DeviceName::Cuda(ordinal) => Some(ordinal),
            DeviceName::Auto => match Cuda::devices() {
                Ok(gpus) if gpus.is_empty() => {
                    tracing::info!("there is no GPU: the CPU computes");
                    None
                }
                Ok(_) => Some(0),
                Err(error) => {
                    tracing::info!(%error, "the CPU computes");
                    None
                }
            },
        };
        if let Some(ordinal) = ordinal {
            match Cuda::new(CudaOptions { ordinal }) {
                Ok(cuda) => return Ok(Self::Cuda(cuda)),
                // Whoever has a GPU wants to know.
                Err(error) if name == DeviceName::Auto => {
                    tracing::warn!(%error, "the GPU cannot be used: the CPU computes");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self::Cpu(Cpu::new(options)?))
    }
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ordinal = match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:").filter(|n| n.bytes().all(|b| b.is_ascii_digit())),
        };
        let ordinal = ordinal.and_then(|number| number.parse().ok());
        ordinal.map(Self::Cuda).ok_or_else(|| Error::Option {
            option: "device",
            got: format!("`{text}`"),
            expected: "`auto`, `cpu`, `cuda`, or `cuda:N` for GPU number N".to_owned(),
        })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for (text, name) in [
            ("auto", DeviceName::Auto),
            ("cpu", DeviceName::Cpu),
            ("cuda:0", DeviceName::Cuda(0)),
            ("cuda:12", DeviceName::Cuda(12)),
        ] {
            assert_eq!(text.parse::<DeviceName>().unwrap(), name);
            assert_eq!(name.to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceName>().unwrap(), DeviceName::Cuda(0));
        assert_eq!(DeviceName::default(), DeviceName::Auto);
    }

    #[test]
    fn what_is_no_name_lists_the_names() {
        let too_large = format!("cuda:{}0", usize::MAX);
        for text in
            ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cpu:0", &too_large]
        {
            assert_eq!(
                text.parse::<DeviceName>().unwrap_err().to_string(),
                format!(
                    "option `device` is `{text}`, expected `auto`, `cpu`, `cuda`, or `cuda:N` for \
                     GPU number N"
                )
            );
        }
    }

    #[test]
    fn the_cpu_is_found_with_its_threads() {
        let options = CpuOptions { threads: 2.try_into().ok(), isa: None };
        let AnyDevice::Cpu(cpu) = AnyDevice::find(DeviceName::Cpu, options).unwrap() else {
            panic!("the CPU was asked for")
        };
        assert_eq!(cpu.thread_count(), 2);
        if Cuda::devices().is_ok_and(|gpus| !gpus.is_empty()) {
            println!("skipped: what auto is without a GPU, there is one");
            return;
        }
        let auto = AnyDevice::find(DeviceName::Auto, CpuOptions::default()).unwrap();
        assert!(matches!(auto, AnyDevice::Cpu(_)));
        assert!(AnyDevice::find(DeviceName::Cuda(0), CpuOptions::default()).is_err());
    }
}
