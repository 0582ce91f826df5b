//! Devices by name.

use std::{any::Any, fmt, str::FromStr};

use moexperts_core::{Device, DeviceKind, Execution};
use moexperts_cpu::{Cpu, CpuOptions};
#[cfg(feature = "cuda")]
use moexperts_cuda::{Cuda, CudaOptions};

use crate::error::{Error, Result};

/// A device as users name it: `auto`, `cpu`, `cuda`, `cuda:1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceName {
    /// The first GPU, or the CPU if there is no GPU.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this number, as the driver counts those that `CUDA_VISIBLE_DEVICES` lets it see;
    /// `cuda` is number 0.
    Cuda(usize),
}

/// A device that was found by its name. Models load on it and run on it without a type parameter; for
/// what is generic over [`Device`](crate::Device), a `match` tells the devices apart: it has to have an
/// arm for each, so the list is exhaustive.
#[derive(Debug, Clone)]
pub enum AnyDevice {
    /// The processor.
    Cpu(Cpu),
    /// A GPU.
    #[cfg(feature = "cuda")]
    Cuda(Cuda),
}

impl AnyDevice {
    /// Finds the device of a name.
    ///
    /// - `options`: how the CPU computes, if it is the CPU
    ///
    /// # Errors
    /// As [`Cpu::new`], and as `Cuda::new` for the name of a GPU; where `auto` takes the CPU, the log
    /// says why. [`Error::NotBuilt`] for the name of a GPU without the feature `cuda`.
    pub fn find(name: DeviceName, options: CpuOptions) -> Result<Self> {
        if let Some(gpu) = find_gpu(name)? {
            return Ok(gpu);
        }
        Ok(Self::Cpu(Cpu::new(options)?))
    }

    /// A device of a known type; `None` for a caller's own device.
    pub(crate) fn of<D: Device>(device: &D) -> Option<Self> {
        let device: &dyn Any = device;
        let cpu = device.downcast_ref::<Cpu>().cloned().map(Self::Cpu);
        #[cfg(feature = "cuda")]
        let cpu = cpu.or_else(|| device.downcast_ref::<Cuda>().cloned().map(Self::Cuda));
        cpu
    }

    /// What messages call it: `CPU`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cpu(_) => Cpu::NAME,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Cuda::NAME,
        }
    }

    /// What kind of machine it is.
    pub fn kind(&self) -> DeviceKind {
        match self {
            Self::Cpu(_) => Cpu::KIND,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Cuda::KIND,
        }
    }

    /// The name of the backend that decodes, where the user has chosen this one: see
    /// [`Execution::decode_experts`](crate::core::Execution::decode_experts).
    pub fn decode_experts<'a>(&self, prefill: &'a str) -> &'a str {
        match self {
            Self::Cpu(_) => Cpu::decode_experts(prefill),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Cuda::decode_experts(prefill),
        }
    }

    /// Waits until all operations so far are done, for measurements.
    ///
    /// # Errors
    /// If the device failed at an operation before.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu(cpu) => cpu.synchronize()?,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.synchronize()?,
        }
        Ok(())
    }
}

impl From<Cpu> for AnyDevice {
    fn from(cpu: Cpu) -> Self {
        Self::Cpu(cpu)
    }
}

#[cfg(feature = "cuda")]
impl From<Cuda> for AnyDevice {
    fn from(cuda: Cuda) -> Self {
        Self::Cuda(cuda)
    }
}

/// The GPU of a name; `None` if the CPU is to compute.
#[cfg(feature = "cuda")]
fn find_gpu(name: DeviceName) -> Result<Option<AnyDevice>> {
    let ordinal = match name {
        DeviceName::Cpu => return Ok(None),
        DeviceName::Cuda(ordinal) => ordinal,
        DeviceName::Auto => match Cuda::devices() {
            Ok(gpus) if gpus.is_empty() => {
                tracing::info!("there is no GPU: the CPU computes");
                return Ok(None);
            }
            Ok(_) => 0,
            Err(error) => {
                tracing::info!(%error, "the CPU computes");
                return Ok(None);
            }
        },
    };
    match Cuda::new(CudaOptions { ordinal }) {
        Ok(cuda) => Ok(Some(AnyDevice::Cuda(cuda))),
        // The owner of a GPU wants to know.
        Err(error) if name == DeviceName::Auto => {
            tracing::warn!(%error, "the GPU cannot be used: the CPU computes");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(feature = "cuda"))]
fn find_gpu(name: DeviceName) -> Result<Option<AnyDevice>> {
    match name {
        DeviceName::Cuda(_) => Err(Error::not_built(format!("device `{name}`"), "cuda")),
        DeviceName::Auto | DeviceName::Cpu => Ok(None),
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
    use proptest::prelude::*;

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
    fn an_unknown_name_is_an_error_that_lists_the_names() {
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

    proptest! {
        #[test]
        fn a_name_that_reads_is_the_same_written_out(text in "(auto|cpu|cuda)?:?\\PC{0,4}") {
            if let Ok(name) = text.parse::<DeviceName>() {
                prop_assert_eq!(name.to_string().parse::<DeviceName>().unwrap(), name);
            }
        }
    }

    #[test]
    fn the_cpu_is_found_with_its_threads() {
        let options = CpuOptions { threads: 2.try_into().ok(), isa: None };
        let found = AnyDevice::find(DeviceName::Cpu, options).unwrap();
        assert_eq!((found.name(), found.kind()), ("CPU", DeviceKind::Cpu));
        assert!(found.describe().contains("2 threads"), "{}", found.describe());
        assert_eq!(found.decode_experts("grouped_mm"), "grouped_mm");
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn auto_is_the_cpu_without_a_gpu_and_cuda_is_an_error() {
        if Cuda::devices().is_ok_and(|gpus| !gpus.is_empty()) {
            return moexperts_conformance::skipped("machine without a GPU");
        }
        let auto = AnyDevice::find(DeviceName::Auto, CpuOptions::default()).unwrap();
        assert!(matches!(auto, AnyDevice::Cpu(_)));
        assert!(AnyDevice::find(DeviceName::Cuda(0), CpuOptions::default()).is_err());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_gpu_is_refused_by_the_name_of_the_feature() {
        let error = AnyDevice::find(DeviceName::Cuda(1), CpuOptions::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "device `cuda:1` needs the feature `cuda` of moexperts, which is not built in"
        );
        let auto = AnyDevice::find(DeviceName::Auto, CpuOptions::default()).unwrap();
        assert!(matches!(auto, AnyDevice::Cpu(_)));
    }
}
