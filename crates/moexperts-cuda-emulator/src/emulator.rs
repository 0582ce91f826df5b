//! The emulator as a driver.

use std::{
    fmt,
    num::NonZero,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use moexperts_core::{Error, Execution as _, Result};
use moexperts_cuda::{
    Cuda,
    driver::{DevicePtr, Driver, Graph, Launch, Properties, TensorMap, TensorMapSpec, Work},
    kernels::Module,
};

use crate::ffi::{Device, Kernel, Settings};

/// Which threads of a block, and which blocks of a grid, run first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The first ones.
    Ascending,
    /// The last ones.
    Descending,
    /// Another order each time threads can go on, drawn from a seed.
    Shuffled(u64),
}

/// When copies behind a thread's back (`cp.async`, the tensor memory accelerator) and products
/// (`wgmma`) happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// At once: what is overwritten while it is still read shows.
    Early,
    /// When they are waited for: what is read before it was waited for shows.
    Late,
}

/// What is emulated, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Compute capability, as (major, minor).
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Who runs first.
    pub order: Order,
    /// When copies happen.
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
pub struct Emulator(Arc<Gpu>);

struct Gpu {
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

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("properties", &self.properties).finish_non_exhaustive()
    }
}

/// An emulated GPU as a device.
pub fn emulated(options: EmulatorOptions) -> Cuda {
    Emulator::new(options).cuda()
}

/// Module and name of every kernel that was compiled.
pub fn compiled_kernels() -> Vec<(String, String)> {
    Kernel::all()
}

fn problem(problem: impl Into<String>) -> Error {
    Error::Device { device: Cuda::NAME, problem: problem.into() }
}

/// Bytes of shared memory that a block can ask for.
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
        let properties = Properties {
            name: "emulated GPU".to_owned(),
            compute_capability: options.compute_capability,
            multiprocessors: options.multiprocessors,
            shared_bytes_per_block: shared_bytes_per_block(options.compute_capability),
            l2_bytes: 50 << 20,
            memory_bytes: options.memory_bytes,
        };
        let state = Mutex::new(State {
            device: Device::new(settings),
            used_bytes: 0,
            kernels: Vec::new(),
            synchronisations: 0,
            graph_launches: 0,
        });
        Self(Arc::new(Gpu { properties, state }))
    }

    /// The GPU as a device.
    pub fn cuda(&self) -> Cuda {
        Cuda::with_driver(Arc::new(self.clone()))
    }

    /// The kernels launched since the last [`reset`](Self::reset), in their order.
    pub fn kernels(&self) -> Vec<&'static str> {
        self.0.lock().kernels.clone()
    }

    /// How many kernels were launched since the last [`reset`](Self::reset).
    pub fn launches(&self) -> usize {
        self.0.lock().kernels.len()
    }

    /// How often the host waited for the GPU, to read or for nothing, since the last
    /// [`reset`](Self::reset).
    pub fn synchronisations(&self) -> usize {
        self.0.lock().synchronisations
    }

    /// How many graphs were launched since the last [`reset`](Self::reset).
    pub fn graph_launches(&self) -> usize {
        self.0.lock().graph_launches
    }

    /// Bytes of memory in use.
    pub fn used_bytes(&self) -> u64 {
        self.0.lock().used_bytes
    }

    /// Counts launches and synchronisations from here.
    pub fn reset(&self) {
        let mut state = self.0.lock();
        state.kernels.clear();
        state.synchronisations = 0;
        state.graph_launches = 0;
    }
}

impl Gpu {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel of a launch, if the GPU takes it.
    fn kernel(&self, launch: &Launch<'_>) -> Result<Kernel, String> {
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

    fn submit(&self, work: Work<'_>) -> Result<()> {
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
                state.device.launch(kernel, grid, shared_bytes, launch.params).map_err(launching)
            }
            Work::Upload { to, bytes } => state.device.upload(to, bytes).map_err(problem),
            Work::Copy { from, to, bytes } => state.device.copy(from, to, bytes).map_err(problem),
            Work::Zero { at, bytes } => state.device.zero(at, bytes).map_err(problem),
        }
    }
}

impl Driver for Emulator {
    fn properties(&self) -> &Properties {
        &self.0.properties
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        if bytes == 0 {
            return Err(problem("0 bytes of memory are asked for"));
        }
        let mut state = self.0.lock();
        let total = self.0.properties.memory_bytes;
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

    fn free(&self, ptr: DevicePtr) {
        let mut state = self.0.lock();
        match state.device.free(ptr) {
            Some(bytes) => state.used_bytes -= bytes as u64,
            None if thread::panicking() => {}
            None => panic!("free of {:#x}, where no memory begins", ptr.0),
        }
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(self.0.properties.memory_bytes - self.0.lock().used_bytes)
    }

    fn submit(&self, work: Work<'_>) -> Result<()> {
        self.0.submit(work)
    }

    fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<()> {
        let mut state = self.0.lock();
        state.synchronisations += 1;
        state.device.read(from, out).map_err(problem)
    }

    fn synchronize(&self) -> Result<()> {
        self.0.lock().synchronisations += 1;
        Ok(())
    }

    fn capture(&self, works: &[Work<'_>]) -> Result<Box<dyn Graph>> {
        let works = works.iter().map(|work| {
            Ok(match *work {
                Work::Launch(launch) => {
                    self.0.kernel(&launch).map_err(|text| {
                        problem(format!("capturing `{}`: {text}", launch.kernel))
                    })?;
                    Captured::Launch {
                        module: launch.module,
                        kernel: launch.kernel,
                        grid: launch.grid,
                        threads: launch.threads,
                        shared_bytes: launch.shared_bytes,
                        params: launch.params.into(),
                    }
                }
                Work::Upload { to, bytes } => Captured::Upload { to, bytes: bytes.len() },
                Work::Copy { from, to, bytes } => Captured::Copy { from, to, bytes },
                Work::Zero { at, bytes } => Captured::Zero { at, bytes },
            })
        });
        let works = works.collect::<Result<_>>()?;
        Ok(Box::new(EmulatedGraph { gpu: Arc::clone(&self.0), works }))
    }

    fn tensor_map(&self, spec: TensorMapSpec) -> Result<TensorMap> {
        let TensorMapSpec { at, rows, cols, row_bytes, box_rows, bf16 } = spec;
        let what = if self.0.properties.compute_capability < (9, 0) {
            "which the GPU does not have"
        } else if !at.0.is_multiple_of(16) || !row_bytes.is_multiple_of(16) {
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
            map[8..16].copy_from_slice(&at.0.to_ne_bytes());
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

/// [`Work`] that is kept.
#[derive(Debug)]
enum Captured {
    Launch {
        module: &'static Module,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        params: Box<[u8]>,
    },
    Upload {
        to: DevicePtr,
        bytes: usize,
    },
    Copy {
        from: DevicePtr,
        to: DevicePtr,
        bytes: usize,
    },
    Zero {
        at: DevicePtr,
        bytes: usize,
    },
}

/// Work that is submitted again and again.
#[derive(Debug)]
struct EmulatedGraph {
    gpu: Arc<Gpu>,
    works: Vec<Captured>,
}

impl Graph for EmulatedGraph {
    fn launch(&mut self, uploads: &[&[u8]]) -> Result<()> {
        let lengths = self.works.iter().filter_map(|work| match work {
            Captured::Upload { bytes, .. } => Some(*bytes),
            _ => None,
        });
        if !lengths.eq(uploads.iter().map(|bytes| bytes.len())) {
            return Err(problem("a graph is launched with uploads of other lengths"));
        }
        self.gpu.lock().graph_launches += 1;
        let mut uploads = uploads.iter();
        for work in &self.works {
            let work = match *work {
                Captured::Launch { module, kernel, grid, threads, shared_bytes, ref params } => {
                    Work::Launch(Launch { module, kernel, grid, threads, shared_bytes, params })
                }
                Captured::Upload { to, .. } => {
                    Work::Upload { to, bytes: uploads.next().copied().unwrap_or_default() }
                }
                Captured::Copy { from, to, bytes } => Work::Copy { from, to, bytes },
                Captured::Zero { at, bytes } => Work::Zero { at, bytes },
            };
            self.gpu.submit(work)?;
        }
        Ok(())
    }
}
