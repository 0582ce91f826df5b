//! A GPU.

use moexperts::{
    Cuda, DType, Device as _,
    core::Result,
    cuda::{driver::Properties, limits::Limits},
};

use super::{Bandwidth, Hardware, Meter, Peak};
use crate::summary::bytes;

impl Hardware for Cuda {
    fn threads(&self) -> Option<usize> {
        None
    }

    fn summary(&self) -> String {
        let Properties { name, memory_bytes, .. } = self.properties();
        let memory = match self.peak_memory() {
            Some(used) => format!("{} of {} in use", bytes(used), bytes(*memory_bytes)),
            None => bytes(*memory_bytes),
        };
        format!("{}, {name}, {memory}", Self::NAME)
    }

    fn machine(&self) -> String {
        described(self.properties())
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let Properties { memory_bytes, .. } = self.properties();
        let free = self.own_memory().map(|free| format!(", {} available", bytes(free)));
        vec![
            ("GPU", described(self.properties())),
            ("GPU memory", format!("{}{}", bytes(*memory_bytes), free.unwrap_or_default())),
        ]
    }

    fn own_memory(&self) -> Option<u64> {
        self.driver().free_bytes().ok()
    }

    fn forget_peak_memory(&self) {}

    fn peak_memory(&self) -> Option<u64> {
        self.own_memory().map(|free| self.properties().memory_bytes.saturating_sub(free))
    }

    fn meter(&self, dtype: Option<DType>) -> Result<Box<dyn Meter>> {
        Ok(Box::new(Limits::new(self, dtype)?))
    }
}

impl Meter for Limits {
    fn bandwidth(&mut self) -> Result<Bandwidth> {
        let measured = Limits::bandwidth(self)?;
        let [read, copy] = [measured.read_bytes_per_second, measured.copy_bytes_per_second]
            .map(|bytes_per_second| format!("{:.0} GB/s", bytes_per_second / 1e9));
        let buffer = bytes(measured.buffer_bytes as u64);
        Ok(Bandwidth {
            bytes_per_second: measured.bytes_per_second(),
            measured: format!("measured over {buffer}: {read} read, {copy} read and written"),
        })
    }

    fn peak(&mut self) -> Result<Option<Peak>> {
        Ok(self.linear()?.map(|speed| Peak {
            flops_per_second: speed.flops_per_second,
            of: format!("{} in linear {}, which is no peak", speed.dtype, speed.size),
        }))
    }
}

/// `NVIDIA H200, sm_90, 132 multiprocessors, 150 GB`.
pub(crate) fn described(gpu: &Properties) -> String {
    let Properties {
        name, compute_capability: (major, minor), multiprocessors, memory_bytes, ..
    } = gpu;
    let memory = bytes(*memory_bytes);
    format!("{name}, sm_{major}{minor}, {multiprocessors} multiprocessors, {memory}")
}

#[cfg(test)]
mod tests {
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
        assert_eq!(described(&gpu), "NVIDIA H200, sm_90, 132 multiprocessors, 150 GB");
    }
}
