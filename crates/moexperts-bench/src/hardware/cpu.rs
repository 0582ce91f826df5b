//! The processor.

use std::fs;

use moexperts::{
    Cpu, DType,
    core::{Execution as _, Result},
    cpu::limits::peak,
    inspect::{ProcessMemory, describe_cpu, read_bandwidth},
    units::counted,
};

use super::{Bandwidth, Hardware, Meter, Peak};
use crate::output::text::bytes;

impl Hardware for Cpu {
    fn threads(&self) -> Option<usize> {
        Some(self.thread_count())
    }

    fn summary(&self) -> String {
        format!("{}, {}, {}", Self::NAME, self.isa(), counted(self.thread_count(), "thread"))
    }

    fn machine(&self) -> String {
        describe_cpu(self)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn own_memory(&self) -> Option<u64> {
        None
    }

    fn forget_peak_memory(&self) {
        // Without it the peak is that of the whole run.
        let _ = fs::write("/proc/self/clear_refs", "5");
    }

    fn peak_memory(&self) -> Option<u64> {
        ProcessMemory::now().map(|memory| memory.peak_bytes)
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
        let measured = read_bandwidth(&self.cpu);
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
