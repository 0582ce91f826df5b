//! The processor.

use moexperts::{
    Cpu, DType, Device as _,
    core::Result,
    cpu::limits::{peak, read_bandwidth},
};

use super::{Bandwidth, Hardware, Meter, Peak};
use crate::{
    machine::{self, Memory},
    summary::{bytes, counted},
};

impl Hardware for Cpu {
    fn threads(&self) -> Option<usize> {
        Some(self.thread_count())
    }

    fn summary(&self) -> String {
        format!("{}, {}, {}", Self::NAME, self.isa(), counted(self.thread_count(), "thread"))
    }

    fn machine(&self) -> String {
        let name = Self::processor().map_or(String::new(), |name| format!("{name}, "));
        format!("{name}{}, {}", counted(self.thread_count(), "thread"), self.isa())
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn own_memory(&self) -> Option<u64> {
        None
    }

    fn forget_peak_memory(&self) {
        machine::forget_peak_memory();
    }

    fn peak_memory(&self) -> Option<u64> {
        machine::peak_memory()
    }

    fn meter(&self, dtype: Option<DType>) -> Result<Box<dyn Meter>> {
        Ok(Box::new(CpuMeter { cpu: self.clone(), dtype }))
    }
}

struct CpuMeter {
    cpu: Cpu,
    dtype: Option<DType>,
}

impl Meter for CpuMeter {
    fn bandwidth(&mut self) -> Result<Bandwidth> {
        let available = Memory::now().map(|memory| memory.available);
        let measured = read_bandwidth(&self.cpu, available);
        let (threads, buffer) = (counted(measured.threads, "thread"), bytes(measured.buffer_bytes));
        Ok(Bandwidth {
            bytes_per_second: measured.bytes_per_second,
            measured: format!("measured with {threads} over {buffer}"),
        })
    }

    fn peak(&mut self) -> Result<Option<Peak>> {
        Ok(self.dtype.map(|dtype| {
            let peak = peak(&self.cpu, dtype);
            let of = format!("{} on {}", peak.inputs, peak.isa);
            Peak { flops_per_second: peak.flops_per_second, of }
        }))
    }
}
