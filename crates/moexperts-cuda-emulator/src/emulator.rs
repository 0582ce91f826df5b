//! The emulator as a driver.

use std::{
    fmt,
    num::NonZero,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Instant,
};

use moexperts_core::{Error, Execution as _, Result};
use moexperts_cuda::{
    Cuda,
    driver::{
        BorrowedWork, DevicePtr, Driver, Graph, Launch, OwnedWork, Properties, TensorMap,
        TensorMapSpec, Work,
    },
};

use crate::ffi::{Device, Kernel, Settings};

/// The order in which the threads of a block, and the blocks of a grid, run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The first ones first.
    Ascending,
    /// The last ones first.
    Descending,
    /// A new random order each time threads can continue, from a seed.
    Shuffled(u64),
}

/// When asynchronous copies (`cp.async`, the tensor memory accelerator) and products (`wgmma`) happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// At once: shows memory that is overwritten while it is still read.
    Early,
    /// When they are waited for: shows memory that is read before it was waited for.
    Late,
}

/// The GPU that is emulated, and how it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Compute capability, as (major, minor).
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The order of threads and blocks.
    pub order: Order,
    /// When asynchronous copies happen.
    pub copies: Copies,
    /// Threads of the host that run the blocks of a launch.
    pub threads: usize,
}

impl Default for EmulatorOptions {
    /// A Hopper GPU with 4 GiB.
    fn default() -> Self {
        Self {
            compute_capability: (9, 0),
            multiprocessors: 132,
            memory_bytes: 4 << 30,
            order: Order::Ascending,
            copies: Copies::Late,
            threads: thread::available_parallelism().map_or(1, NonZero::get),
        }
    }
}

/// A GPU emulated on the host. Clones share it.
#[derive(Debug, Clone)]
pub struct Emulator(Arc<EmulatedGpu>);

struct EmulatedGpu {
    /// Itself, for the graphs that are captured.
    this: Weak<Self>,
    properties: Properties,
    state: Mutex<State>,
}

struct State {
    device: Device,
    used_bytes: u64,
    kernels: Vec<&'static str>,
    synchronisations: usize,
    graph_launches: usize,
}

impl fmt::Debug for EmulatedGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulatedGpu").field("properties", &self.properties).finish_non_exhaustive()
    }
}

/// A new emulated GPU as a device.
pub fn emulated(options: EmulatorOptions) -> Cuda {
    Emulator::new(options).cuda()
}

/// The module and the name of every kernel that was compiled.
pub fn compiled_kernels() -> Vec<(String, String)> {
    Kernel::all()
}

fn problem(problem: impl Into<String>) -> Error {
    Error::Device { device: Cuda::NAME, problem: problem.into() }
}

/// Bytes of shared memory that a block may have.
fn shared_bytes_per_block(compute_capability: (u32, u32)) -> u32 {
    let kib = match compute_capability {
        (7, 0) => 96,
        (7, _) => 64,
        (8, 0 | 7) => 163,
        (9 | 10, _) => 227,
        _ => 99,
    };
    kib << 10
}

impl Emulator {
    /// A GPU with nothing in its memory.
    pub fn new(options: EmulatorOptions) -> Self {
        let (order, seed) = match options.order {
            Order::Ascending => (0, 0),
            Order::Descending => (1, 0),
            Order::Shuffled(seed) => (2, seed),
        };
        let settings = Settings {
            seed,
            order,
            late: u32::from(options.copies == Copies::Late),
            threads: u32::try_from(options.threads).unwrap_or(u32::MAX).max(1),
            padding: 0,
        };
        let mut properties = Properties::new("emulated GPU", options.compute_capability);
        properties.multiprocessors = options.multiprocessors;
        properties.shared_bytes_per_block = shared_bytes_per_block(options.compute_capability);
        properties.l2_bytes = 50 << 20;
        properties.memory_bytes = options.memory_bytes;
        let state = Mutex::new(State {
            device: Device::new(settings),
            used_bytes: 0,
            kernels: Vec::new(),
            synchronisations: 0,
            graph_launches: 0,
        });
        Self(Arc::new_cyclic(|this| EmulatedGpu { this: Weak::clone(this), properties, state }))
    }

    /// The GPU as a device. Memory of one such device can be used with another of the same GPU.
    pub fn cuda(&self) -> Cuda {
        let gpu = Arc::clone(&self.0);
        Cuda::with_driver(gpu)
    }

    /// The driver of the GPU.
    pub fn driver(&self) -> &dyn Driver {
        &*self.0
    }

    /// The names of the kernels launched since the last [`reset`](Self::reset), in order.
    pub fn kernels(&self) -> Vec<&'static str> {
        self.0.lock().kernels.clone()
    }

    /// Number of kernels launched since the last [`reset`](Self::reset).
    pub fn launches(&self) -> usize {
        self.0.lock().kernels.len()
    }

    /// Number of times that the host waited for the GPU or read from it since the last
    /// [`reset`](Self::reset).
    pub fn synchronisations(&self) -> usize {
        self.0.lock().synchronisations
    }

    /// Number of graphs launched since the last [`reset`](Self::reset).
    pub fn graph_launches(&self) -> usize {
        self.0.lock().graph_launches
    }

    /// Bytes of memory in use.
    pub fn used_bytes(&self) -> u64 {
        self.0.lock().used_bytes
    }

    /// Sets all counts to 0.
    pub fn reset(&self) {
        let mut state = self.0.lock();
        state.kernels.clear();
        state.synchronisations = 0;
        state.graph_launches = 0;
    }
}

impl EmulatedGpu {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel of a launch, if the GPU can run it.
    fn kernel(&self, launch: &Launch<&[u8]>) -> Result<Kernel, String> {
        let Launch { module, kernel: name, grid, threads, shared_bytes, params } = *launch;
        let Some(kernel) = Kernel::find(module.name(), name) else {
            if Kernel::find(module.name(), "").is_some() {
                return Err("the module did not compile for the host".to_owned());
            }
            return Err("there is no such kernel".to_owned());
        };
        if module.hopper && self.properties.compute_capability != (9, 0) {
            let (major, minor) = self.properties.compute_capability;
            return Err(format!("compiled for sm_90a, which sm_{major}{minor} does not run"));
        }
        if params.len() != kernel.params_bytes {
            let (got, expected) = (params.len(), kernel.params_bytes);
            return Err(format!("its argument has {got} bytes, expected {expected}"));
        }
        if threads != kernel.threads {
            return Err(format!("blocks of {threads} threads, expected {}", kernel.threads));
        }
        let [x, y, z] = grid;
        if grid.contains(&0) || x > i32::MAX as u32 || y.max(z) > u32::from(u16::MAX) {
            return Err(format!("a grid of [{x}, {y}, {z}] blocks"));
        }
        let most = self.properties.shared_bytes_per_block;
        if shared_bytes > most {
            return Err(format!(
                "{shared_bytes} bytes of shared memory, of which there are {most}"
            ));
        }
        Ok(kernel)
    }

    /// Does some work.
    ///
    /// # Safety
    /// What a launch accesses is memory of this GPU that is allocated. All else is looked up.
    unsafe fn run(&self, work: BorrowedWork<'_>) -> Result<()> {
        let mut state = self.lock();
        match work {
            Work::Launch(launch) => {
                let launching = |text: String| {
                    let (kernel, module) = (launch.kernel, launch.module.name());
                    problem(format!("launching `{kernel}` of `{module}`: {text}"))
                };
                let kernel = self.kernel(&launch).map_err(launching)?;
                state.kernels.push(launch.kernel);
                let (grid, shared_bytes) = (launch.grid, launch.shared_bytes);
                // SAFETY: `kernel` found that the parameters have the size of the kernel's struct; the
                // caller promises that what it accesses is allocated, and the lock is held, so no other
                // work runs.
                let launched =
                    unsafe { state.device.launch(kernel, grid, shared_bytes, launch.params) };
                launched.map_err(launching)
            }
            Work::Upload { to, bytes } => state.device.upload(to, bytes).map_err(problem),
            Work::Copy { from, to, bytes } => state.device.copy(from, to, bytes).map_err(problem),
            Work::Zero { at, bytes } => state.device.zero(at, bytes).map_err(problem),
        }
    }
}

// SAFETY: memory is allocated between guards and looked up before the host accesses it; work is done
// before `submit` returns, so everything is in order.
unsafe impl Driver for EmulatedGpu {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        if bytes == 0 {
            return Err(problem("an allocation of 0 bytes"));
        }
        let mut state = self.lock();
        let total = self.properties.memory_bytes;
        let free = total - state.used_bytes;
        let full =
            || problem(format!("out of memory: {bytes} bytes needed, {free} of {total} free"));
        if bytes as u64 > free {
            return Err(full());
        }
        let ptr = state.device.alloc(bytes).ok_or_else(full)?;
        state.used_bytes += bytes as u64;
        Ok(ptr)
    }

    unsafe fn free(&self, ptr: DevicePtr) {
        let mut state = self.lock();
        match state.device.free(ptr) {
            Some(bytes) => state.used_bytes -= bytes as u64,
            None if thread::panicking() => {}
            None => panic!("free of {:#x}, where no memory begins", ptr.address()),
        }
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(self.properties.memory_bytes - self.lock().used_bytes)
    }

    unsafe fn submit(&self, work: BorrowedWork<'_>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.run(work) }
    }

    unsafe fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<()> {
        let mut state = self.lock();
        state.synchronisations += 1;
        state.device.read(from, out).map_err(problem)
    }

    fn synchronize(&self) -> Result<()> {
        self.lock().synchronisations += 1;
        Ok(())
    }

    fn capture(&self, works: &[BorrowedWork<'_>]) -> Result<Box<dyn Graph>> {
        for work in works {
            if let Work::Launch(launch) = work {
                self.kernel(launch)
                    .map_err(|text| problem(format!("capturing `{}`: {text}", launch.kernel)))?;
            }
        }
        let gpu = self.this.upgrade().expect("the caller holds the GPU");
        let works = works.iter().map(BorrowedWork::to_owned).collect();
        Ok(Box::new(EmulatedGraph { gpu, works }))
    }

    fn tensor_map(&self, spec: TensorMapSpec) -> Result<TensorMap> {
        let TensorMapSpec { at, rows, cols, row_bytes, box_rows, bf16 } = spec;
        let what = if self.properties.compute_capability < (9, 0) {
            "which the GPU does not have"
        } else if !at.address().is_multiple_of(16) || !row_bytes.is_multiple_of(16) {
            "whose rows are not aligned to 16 bytes"
        } else if rows == 0 || cols == 0 || rows.max(cols) as u64 > 1 << 32 {
            "whose matrix has too few or too many elements"
        } else if row_bytes < 2 * cols || row_bytes as u64 >= 1 << 40 {
            "whose rows overlap or are too far apart"
        } else if box_rows == 0 || box_rows > 256 {
            "whose boxes have too few or too many rows"
        } else {
            let mut map = [0; 128];
            // As in tensor_map.h.
            map[0..8].copy_from_slice(b"tnsr-map");
            map[8..16].copy_from_slice(&at.address().to_ne_bytes());
            map[16..24].copy_from_slice(&(rows as u64).to_ne_bytes());
            map[24..32].copy_from_slice(&(cols as u64).to_ne_bytes());
            map[32..40].copy_from_slice(&(row_bytes as u64).to_ne_bytes());
            map[40..44].copy_from_slice(&(box_rows as u32).to_ne_bytes());
            map[44..48].copy_from_slice(&u32::from(bf16).to_ne_bytes());
            return Ok(map);
        };
        Err(problem(format!("a tensor map {spec:?}, {what}")))
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64() * 1e9)
    }
}

/// Work that is submitted again and again.
#[derive(Debug)]
struct EmulatedGraph {
    gpu: Arc<EmulatedGpu>,
    works: Vec<OwnedWork>,
}

impl Graph for EmulatedGraph {
    unsafe fn launch(&mut self, uploads: &[&[u8]]) -> Result<()> {
        let captured = self.works.iter().filter_map(OwnedWork::upload).map(<[u8]>::len);
        if !captured.eq(uploads.iter().map(|bytes| bytes.len())) {
            return Err(problem("a graph is launched with uploads of other lengths"));
        }
        self.gpu.lock().graph_launches += 1;
        let mut uploads = uploads.iter();
        for work in &mut self.works {
            if let Work::Upload { bytes, .. } = work {
                bytes.copy_from_slice(uploads.next().expect("there are as many, as checked"));
            }
            // SAFETY: the caller promises that the memory which this work accesses is allocated.
            unsafe { self.gpu.run(work.borrowed()) }?;
        }
        Ok(())
    }
}
