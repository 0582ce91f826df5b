//! A GPU.

use moexperts::{
    Cuda, DType,
    core::{Execution as _, Result},
    cuda::{driver::Properties, limits::Limits},
    inspect::describe_gpu,
};

use super::{Bandwidth, Hardware, Meter, Peak};
use crate::output::text::bytes;

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
        describe_gpu(self.properties())
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let Properties { memory_bytes, .. } = self.properties();
        let free = self.own_memory().map(|free| format!(", {} available", bytes(free)));
        vec![
            ("GPU", describe_gpu(self.properties())),
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
        Ok(Box::new(Limits::new(self, dtype)))
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
