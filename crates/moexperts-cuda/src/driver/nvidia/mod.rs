//! NVIDIA's driver.

mod graph;

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    fmt,
    mem::MaybeUninit,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use cudarc::driver::{
    result::{self, DriverError},
    sys,
};
use moexperts_core::{Error, Result};

use self::graph::{Event, NvidiaGraph};
use super::{
    DevicePtr, Driver, Graph, Launch, Properties, TensorMap, TensorMapSpec, Work, cubins::Cubins,
};
use crate::{
    cuda::Cuda,
    kernels::{MODULES, Module},
};

/// Bytes of dynamic shared memory that a kernel may have without asking.
const SHARED_BYTES_UNASKED: u32 = 48 << 10;

/// A GPU of NVIDIA's: its primary context and a stream of our own.
#[derive(Debug)]
pub struct Nvidia(Arc<Gpu>);

/// What graphs share with the driver they are of.
struct Gpu {
    properties: Properties,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// The stream-ordered allocator; `None` where the device has none.
    pool: Option<sys::CUmemoryPool>,
    cubins: Cubins,
    functions: Mutex<HashMap<(&'static str, &'static str), Function>>,
    modules: Mutex<HashMap<&'static str, Loaded>>,
}

#[derive(Debug, Clone, Copy)]
struct Loaded(sys::CUmodule);

#[derive(Debug, Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: handles of the driver, which takes them on any thread.
unsafe impl Send for Gpu {}
// SAFETY: as above; what the handles are of is guarded by the driver.
unsafe impl Sync for Gpu {}
// SAFETY: as above.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Send for Function {}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("properties", &self.properties).finish_non_exhaustive()
    }
}

/// Whether the driver is there and starts; asked once.
fn start() -> Result<()> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        // SAFETY: NVIDIA's driver may be loaded at any time, from any thread.
        if !unsafe { sys::is_culib_present() } {
            let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so" };
            return Err(format!(
                "no NVIDIA driver: `{name}` was looked for where the system looks for libraries; \
                 install the driver, or use `--device cpu`"
            ));
        }
        // It panics if a function is missing, as in a driver older than it knows.
        match catch_unwind(AssertUnwindSafe(result::init)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the NVIDIA driver does not start: {}", text(error))),
            Err(_) => Err("the NVIDIA driver is too old".to_owned()),
        }
    });
    started.clone().map_err(Cuda::problem)
}

/// What the driver calls an error.
fn text(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("{error:?}"),
    }
}

/// An error of the driver, with what it was asked for.
fn refused(what: &str) -> impl Fn(DriverError) -> Error {
    move |error| Cuda::problem(format!("{what}: {}", text(error)))
}

fn count() -> Result<usize> {
    start()?;
    let count = result::device::get_count().map_err(refused("counting the GPUs"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn properties(device: sys::CUdevice) -> Result<Properties, DriverError> {
    use sys::CUdevice_attribute_enum as Attribute;
    let get = |attribute| {
        // SAFETY: the device is one the driver gave.
        let value = unsafe { result::device::get_attribute(device, attribute) }?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    Ok(Properties {
        name: result::device::get_name(device)?,
        compute_capability: (
            get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_per_block: get(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?,
        l2_bytes: u64::from(get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }? as u64,
    })
}

impl Nvidia {
    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver, it does not start, there is no such GPU, or kernels
    /// have to be compiled and there is no NVRTC.
    pub fn new(ordinal: usize) -> Result<Self> {
        let there_are = count()?;
        if ordinal >= there_are {
            let there_are = match there_are {
                0 => "there is none".to_owned(),
                1 => "there is one, number 0".to_owned(),
                many => format!("there are {many}, numbers 0 to {}", many - 1),
            };
            return Err(Cuda::problem(format!("no GPU of number {ordinal}: {there_are}")));
        }
        let gpu = Gpu::open(ordinal).map_err(refused(&format!("opening GPU {ordinal}")))?;
        if !MODULES.iter().filter(|module| gpu.runs(module)).all(|module| gpu.cubins.has(module)) {
            // Better said now than at the first launch.
            gpu.cubins.nvrtc()?;
        }
        Ok(Self(Arc::new(gpu)))
    }

    /// The GPUs there are, in the order of their numbers.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver or it does not start.
    pub fn devices() -> Result<Vec<Properties>> {
        let ordinals = 0..count()?;
        let all = ordinals.map(|ordinal| properties(result::device::get(ordinal as i32)?));
        all.collect::<Result<_, _>>().map_err(refused("reading what the GPUs are"))
    }
}

impl Gpu {
    fn open(ordinal: usize) -> Result<Self, DriverError> {
        use sys::{CUdevice_attribute_enum as Attribute, CUmemPool_attribute as PoolAttribute};
        let device = result::device::get(ordinal as i32)?;
        let properties = properties(device)?;
        // SAFETY: the device is one the driver gave.
        let context = unsafe { result::primary_ctx::retain(device) }?;
        // SAFETY: the context was given just now.
        unsafe { result::ctx::set_current(context) }?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        // SAFETY: as above.
        let has_pool = unsafe {
            result::device::get_attribute(
                device,
                Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED,
            )
        }?;
        let pool = if has_pool == 0 {
            None
        } else {
            // SAFETY: the device has a pool; the attribute is a u64, the bytes it keeps when the
            // stream waits.
            let pool = unsafe {
                let pool = result::device::get_default_mem_pool(device)?;
                let mut keep = u64::MAX;
                sys::cuMemPoolSetAttribute(
                    pool,
                    PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                    ptr::from_mut(&mut keep).cast(),
                )
                .result()?;
                pool
            };
            Some(pool)
        };
        let (major, minor) = properties.compute_capability;
        // The instructions of Hopper alone are under a name of their own.
        let suffix = if properties.compute_capability == (9, 0) { "a" } else { "" };
        let cubins = Cubins::new(format!("sm_{major}{minor}{suffix}"), Cubins::default_folder());
        Ok(Self {
            properties,
            device,
            context,
            stream,
            pool,
            cubins,
            functions: Mutex::default(),
            modules: Mutex::default(),
        })
    }

    /// Whether a module is for this GPU.
    fn runs(&self, module: &Module) -> bool {
        !module.hopper || self.properties.compute_capability == (9, 0)
    }

    /// Makes the GPU that of this thread's calls.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(refused("choosing the GPU"))
    }

    /// A kernel, compiled and loaded if it is not yet.
    fn function(&self, module: &'static Module, name: &'static str) -> Result<Function> {
        let key = (module.name(), name);
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&function) = functions.get(&key) {
            return Ok(function);
        }
        let loaded = self.module(module)?;
        let problem = |error| {
            Cuda::problem(format!("kernel `{name}` of `{}`: {}", module.name(), text(error)))
        };
        let c_name = CString::new(name).map_err(|error| Cuda::problem(error.to_string()))?;
        // SAFETY: the module is never unloaded.
        let function =
            unsafe { result::module::get_function(loaded.0, c_name) }.map_err(problem)?;
        // Static shared memory counts too.
        // SAFETY: the function was given just now.
        let static_bytes = unsafe {
            result::function::get_function_attribute(
                function,
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            )
        };
        let most = self.properties.shared_bytes_per_block as i32 - static_bytes.map_err(problem)?;
        if most > SHARED_BYTES_UNASKED as i32 {
            // SAFETY: as above.
            unsafe {
                result::function::set_function_attribute(
                    function,
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    most,
                )
            }
            .map_err(problem)?;
        }
        functions.insert(key, Function(function));
        Ok(Function(function))
    }

    fn module(&self, module: &'static Module) -> Result<Loaded> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&loaded) = modules.get(module.name()) {
            return Ok(loaded);
        }
        let loaded = self.cubins.load(module, |cubin| {
            // SAFETY: a cubin says itself how long it is, and the driver checks what it is.
            let loaded = unsafe { result::module::load_data(cubin.as_ptr().cast()) };
            loaded.map(Loaded).map_err(refused(&format!("loading `{}`", module.name())))
        })?;
        modules.insert(module.name(), loaded);
        Ok(loaded)
    }

    /// Submits a kernel to a stream of this GPU.
    fn launch(&self, stream: sys::CUstream, launch: &Launch<'_>) -> Result<()> {
        let function = self.function(launch.module, launch.kernel)?;
        let [x, y, z] = launch.grid;
        // The driver copies it; aligned as any struct of ours has to be.
        let mut params: Vec<u64> = vec![0; launch.params.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut params)[..launch.params.len()].copy_from_slice(launch.params);
        // SAFETY: the kernel takes one struct by value, of which these are the bytes (the type of
        // `Kernel` says so); the addresses in it are of live memory, as who launches it owes.
        let launched = unsafe {
            result::launch_kernel(
                function.0,
                (x, y, z),
                (launch.threads, 1, 1),
                launch.shared_bytes,
                stream,
                &mut [params.as_mut_ptr().cast::<c_void>()],
            )
        };
        launched.map_err(refused(&format!("launching `{}`", launch.kernel)))
    }

    /// Submits some work to a stream of this GPU.
    fn submit(&self, stream: sys::CUstream, work: Work<'_>) -> Result<()> {
        match work {
            Work::Launch(launch) => self.launch(stream, &launch),
            // SAFETY: the addresses are of live memory, as the caller owes; bytes that are not page
            // locked are read before the call returns, and those of a graph stay as long as it.
            Work::Upload { to, bytes } => unsafe {
                result::memcpy_htod_async(to.0, bytes, stream)
                    .map_err(refused("copying to the GPU"))
            },
            // SAFETY: as above.
            Work::Copy { from, to, bytes } => unsafe {
                result::memcpy_dtod_async(to.0, from.0, bytes, stream)
                    .map_err(refused("copying on the GPU"))
            },
            // SAFETY: as above.
            Work::Zero { at, bytes } => unsafe {
                result::memset_d8_async(at.0, 0, bytes, stream)
                    .map_err(refused("clearing memory of the GPU"))
            },
        }
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(refused("waiting for the GPU"))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // The program may be ending, and the driver with it: nothing can be done about an error.
        // SAFETY: nobody else has these handles, which are of this context.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::synchronize(self.stream);
            let _ = result::stream::destroy(self.stream);
            for module in self.modules.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
                let _ = result::module::unload(module.0);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl Driver for Nvidia {
    fn properties(&self) -> &Properties {
        &self.0.properties
    }

    fn is_compiled(&self, module: &'static Module) -> bool {
        !self.0.runs(module) || self.0.cubins.has(module)
    }

    fn compile(&self, module: &'static Module) -> Result<()> {
        self.0.cubins.compile(module)
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        self.0.bind()?;
        // SAFETY: the memory is used after work of the same stream alone; a size of 0 is refused.
        let ptr = unsafe {
            match self.0.pool {
                Some(_) => result::malloc_async(self.0.stream, bytes),
                None => result::malloc_sync(bytes),
            }
        };
        ptr.map(DevicePtr).map_err(|error| {
            if error.0 != sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                return refused("reserving memory of the GPU")(error);
            }
            match self.free_bytes() {
                Ok(free) => Cuda::problem(format!(
                    "out of memory: {bytes} bytes needed, {free} of {} free",
                    self.0.properties.memory_bytes
                )),
                Err(_) => Cuda::problem(format!("out of memory: {bytes} bytes needed")),
            }
        })
    }

    fn free(&self, ptr: DevicePtr) {
        if self.0.bind().is_err() {
            return;
        }
        // SAFETY: the caller owes that it came from `alloc` and nothing submitted later uses it.
        let freed = unsafe {
            match self.0.pool {
                Some(_) => result::free_async(ptr.0, self.0.stream),
                None => result::free_sync(ptr.0),
            }
        };
        if let Err(error) = freed {
            tracing::debug!(error = text(error), "memory of the GPU is not given back");
        }
    }

    fn free_bytes(&self) -> Result<u64> {
        use sys::CUmemPool_attribute as Attribute;
        self.0.bind()?;
        let problem = refused("asking for free memory");
        let (free, _) = result::mem_get_info().map_err(&problem)?;
        // What the pool keeps is free for who asks it.
        let Some(pool) = self.0.pool else { return Ok(free as u64) };
        let get = |attribute| {
            let mut value = 0_u64;
            // SAFETY: the pool is the device's; both attributes are u64.
            unsafe { sys::cuMemPoolGetAttribute(pool, attribute, ptr::from_mut(&mut value).cast()) }
                .result()
                .map(|()| value)
        };
        let held = get(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).map_err(&problem)?;
        let used = get(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT).map_err(&problem)?;
        Ok(free as u64 + held.saturating_sub(used))
    }

    fn submit(&self, work: Work<'_>) -> Result<()> {
        self.0.bind()?;
        self.0.submit(self.0.stream, work)
    }

    fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<()> {
        self.0.bind()?;
        // SAFETY: the address is of live memory, as the caller owes; `out` is borrowed until the
        // stream has been waited for.
        unsafe { result::memcpy_dtoh_async(out, from.0, self.0.stream) }
            .map_err(refused("reading from the GPU"))?;
        self.0.synchronize()
    }

    fn synchronize(&self) -> Result<()> {
        self.0.bind()?;
        self.0.synchronize()
    }

    fn capture(&self, works: &[Work<'_>]) -> Result<Box<dyn Graph>> {
        self.0.bind()?;
        for work in works {
            // What loads a module may not happen within a capture.
            if let Work::Launch(launch) = work {
                self.0.function(launch.module, launch.kernel)?;
            }
        }
        Ok(Box::new(NvidiaGraph::new(&self.0, works)?))
    }

    fn tensor_map(&self, spec: TensorMapSpec) -> Result<TensorMap> {
        self.0.bind()?;
        let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
        let data_type = if spec.bf16 {
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
        } else {
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16
        };
        let sizes = [spec.cols as u64, spec.rows as u64];
        let strides = [spec.row_bytes as u64];
        let box_sizes = [64_u32, spec.box_rows as u32];
        let steps = [1_u32, 1];
        // SAFETY: the arrays are as long as the rank asks for; the map is written if this succeeds.
        let map = unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                data_type,
                2,
                spec.at.0 as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                box_sizes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
            .map_err(refused(&format!("describing {spec:?} to the copy engine")))?;
            map.assume_init()
        };
        // SAFETY: a map is 128 bytes, all of them written.
        Ok(unsafe { std::mem::transmute::<sys::CUtensorMap, TensorMap>(map) })
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.0.bind()?;
        let problem = refused("timing");
        let event = || Event::new().map_err(refused("timing"));
        let (start, end) = (event()?, event()?);
        start.record(self.0.stream).map_err(&problem)?;
        work()?;
        end.record(self.0.stream).map_err(&problem)?;
        // SAFETY: both were recorded.
        unsafe {
            result::event::synchronize(end.0).map_err(&problem)?;
            let milliseconds = result::event::elapsed(start.0, end.0).map_err(&problem)?;
            Ok(f64::from(milliseconds) * 1e6)
        }
    }
}
