//! The devices of this machine, and the backends of each.

use moexperts_core::{Error, ExpertsInterface};
use moexperts_cpu::{Cpu, inspect::describe_cpu};
use moexperts_cuda::{Cuda, driver::Properties};

use crate::{any_device::DeviceName, units::Bytes};

/// A device of this machine, or a kind of device that it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceFacts {
    /// A device that a model can be loaded on.
    Found {
        /// The name that `--device` takes.
        name: DeviceName,
        /// A description, see [`describe_cpu`] and [`describe_gpu`].
        description: String,
        /// Names of its experts backends, those that users registered among them.
        backends: Vec<String>,
    },
    /// There is no device of this kind.
    Missing {
        /// The kind, as names of its devices begin: `cuda`.
        kind: &'static str,
        /// Why there is none.
        reason: String,
    },
}

/// Lists the CPU, then every GPU in the order of its number, or why there is none.
pub fn devices(cpu: &Cpu) -> Vec<DeviceFacts> {
    let cpu = DeviceFacts::Found {
        name: DeviceName::Cpu,
        description: describe_cpu(cpu),
        backends: ExpertsInterface::names::<Cpu>(),
    };
    let gpu = |(ordinal, gpu): (usize, &Properties)| DeviceFacts::Found {
        name: DeviceName::Cuda(ordinal),
        description: describe_gpu(gpu),
        backends: ExpertsInterface::names::<Cuda>(),
    };
    let none = |reason: String| vec![DeviceFacts::Missing { kind: "cuda", reason }];
    let gpus = match Cuda::devices() {
        Ok(gpus) if gpus.is_empty() => none("the driver sees no GPU".to_owned()),
        Ok(gpus) => gpus.iter().enumerate().map(gpu).collect(),
        // The kind is named already.
        Err(Error::Device { problem, .. }) => none(problem),
        Err(error) => none(error.to_string()),
    };
    [cpu].into_iter().chain(gpus).collect()
}

/// Describes a GPU: `NVIDIA H200, sm_90, 132 multiprocessors, 150 GB`.
pub fn describe_gpu(gpu: &Properties) -> String {
    let Properties {
        name, compute_capability: (major, minor), multiprocessors, memory_bytes, ..
    } = gpu;
    let memory = Bytes(*memory_bytes as f64);
    format!("{name}, sm_{major}{minor}, {multiprocessors} multiprocessors, {memory}")
}

#[cfg(test)]
mod tests {
    use moexperts_cpu::{CpuOptions, Isa};

    use super::*;

    #[test]
    fn a_gpu_is_its_name_architecture_and_size() {
        let gpu = Properties {
            name: "NVIDIA H200".to_owned(),
            compute_capability: (9, 0),
            multiprocessors: 132,
            shared_bytes_per_block: 232_448,
            l2_bytes: 50 << 20,
            memory_bytes: 150_110_011_392,
        };
        assert_eq!(describe_gpu(&gpu), "NVIDIA H200, sm_90, 132 multiprocessors, 150 GB");
    }

    #[test]
    fn the_cpu_comes_first_with_its_backends_and_then_gpus_or_why_there_is_none() {
        let options = CpuOptions { threads: 2.try_into().ok(), isa: Some(Isa::Portable) };
        let devices = devices(&Cpu::new(options).unwrap());
        let DeviceFacts::Found { name, description, backends } = &devices[0] else {
            panic!("{devices:?}")
        };
        assert_eq!(*name, DeviceName::Cpu);
        assert!(description.ends_with("2 threads, portable"), "{description}");
        assert_eq!(backends[..3], ["eager", "batched_mm", "grouped_mm"]);
        match &devices[1] {
            DeviceFacts::Found { name, .. } => assert_eq!(*name, DeviceName::Cuda(0)),
            DeviceFacts::Missing { kind, reason } => {
                assert_eq!(*kind, "cuda");
                assert!(!reason.is_empty());
                assert_eq!(devices.len(), 2);
            }
        }
    }
}
