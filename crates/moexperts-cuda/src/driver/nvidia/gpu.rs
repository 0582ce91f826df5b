//! An open GPU: its context, its stream, its loaded kernels.

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    fmt, ptr,
    sync::{Mutex, PoisonError},
};

use cudarc::driver::{
    result::{self, DriverError},
    sys,
};
use moexperts_core::Result;

use super::{
    error::{refused, text},
    library,
};
use crate::{
    driver::{BorrowedWork, Launch, Properties, Work, cubins::Cubins},
    error::problem as device_problem,
    kernels::Module,
};

/// Bytes of dynamic shared memory that a kernel may have without setting an attribute.
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;

/// A GPU's primary context and a separate stream of it. Graphs share it with the driver.
pub(super) struct Gpu {
    pub(super) properties: Properties,
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    /// The stream-ordered allocator; `None` where the device has none.
    pub(super) pool: Option<sys::CUmemoryPool>,
    pub(super) cubins: Cubins,
    functions: Mutex<HashMap<(&'static str, &'static str), Function>>,
    modules: Mutex<HashMap<&'static str, Loaded>>,
}

#[derive(Debug, Clone, Copy)]
struct Loaded(sys::CUmodule);

#[derive(Debug, Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: device, context, stream and pool are handles, which the driver takes on any thread.
unsafe impl Send for Gpu {}
// SAFETY: the driver locks what its handles stand for; the maps are behind mutexes.
unsafe impl Sync for Gpu {}
// SAFETY: a module's handle, which the driver takes on any thread.
unsafe impl Send for Loaded {}
// SAFETY: a function's handle, which the driver takes on any thread.
unsafe impl Send for Function {}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("properties", &self.properties).finish_non_exhaustive()
    }
}

impl Gpu {
    /// Opens a GPU and makes its context that of this thread.
    pub(super) fn open(ordinal: usize) -> Result<Self, DriverError> {
        use sys::{CUdevice_attribute_enum as Attribute, CUmemPool_attribute as PoolAttribute};
        let device = result::device::get(ordinal as i32)?;
        let properties = library::properties(device)?;
        // SAFETY: `device` was returned by the driver.
        let context = unsafe { result::primary_ctx::retain(device) }?;
        // SAFETY: the context was retained just now.
        unsafe { result::ctx::set_current(context) }?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        // SAFETY: `device` was returned by the driver.
        let has_pool = unsafe {
            result::device::get_attribute(
                device,
                Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED,
            )
        }?;
        let pool = if has_pool == 0 {
            None
        } else {
            // SAFETY: the device has a pool. The attribute is a u64, the bytes that the pool keeps when
            // the stream is waited for, and `keep` is one.
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
        // Instructions that only Hopper has need a separate architecture.
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
    pub(super) fn runs(&self, module: &Module) -> bool {
        !module.hopper || self.properties.compute_capability == (9, 0)
    }

    /// Makes this GPU the one that calls of this thread use.
    pub(super) fn bind(&self) -> Result<()> {
        // SAFETY: the context was retained when the GPU was opened, and is released when it is dropped.
        unsafe { result::ctx::set_current(self.context) }.map_err(refused("choosing the GPU"))
    }

    /// Compiles and loads a kernel if it is not loaded.
    pub(super) fn load(&self, module: &'static Module, name: &'static str) -> Result<()> {
        self.function(module, name).map(drop)
    }

    /// A kernel; compiles and loads it if it is not loaded.
    fn function(&self, module: &'static Module, name: &'static str) -> Result<Function> {
        let key = (module.name(), name);
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&function) = functions.get(&key) {
            return Ok(function);
        }
        let loaded = self.module(module)?;
        let problem = |error| {
            device_problem(format!("kernel `{name}` of `{}`: {}", module.name(), text(error)))
        };
        let c_name = CString::new(name).map_err(|error| device_problem(error.to_string()))?;
        // SAFETY: the module is loaded until the GPU is dropped.
        let function =
            unsafe { result::module::get_function(loaded.0, c_name) }.map_err(problem)?;
        // Static shared memory counts too.
        // SAFETY: `function` was found just now, in a module that stays loaded.
        let static_bytes = unsafe {
            result::function::get_function_attribute(
                function,
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            )
        };
        let most = self.properties.shared_bytes_per_block as i32 - static_bytes.map_err(problem)?;
        if most > DEFAULT_SHARED_BYTES as i32 {
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
            // SAFETY: the slice holds a whole cubin, whose header says how long it is; the driver reads
            // no further.
            let loaded = unsafe { result::module::load_data(cubin.as_ptr().cast()) };
            loaded.map(Loaded).map_err(refused(&format!("loading `{}`", module.name())))
        })?;
        modules.insert(module.name(), loaded);
        Ok(loaded)
    }

    /// Submits a kernel to a stream of this GPU.
    ///
    /// # Safety
    /// As [`Driver::submit`](crate::driver::Driver::submit); the stream is of this GPU.
    unsafe fn launch(&self, stream: sys::CUstream, launch: &Launch<&[u8]>) -> Result<()> {
        let function = self.function(launch.module, launch.kernel)?;
        let [x, y, z] = launch.grid;
        // The driver copies the argument; in words of 64 bits it is aligned for all of its fields.
        let mut params: Vec<u64> = vec![0; launch.params.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut params)[..launch.params.len()].copy_from_slice(launch.params);
        // SAFETY: `function` is loaded. The caller promises that the kernel takes one struct by value, of
        // which these are the bytes, and that what it accesses is allocated.
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
    ///
    /// # Safety
    /// As [`Driver::submit`](crate::driver::Driver::submit); the stream is of this GPU. If the stream is
    /// captured, page-locked bytes of uploads stay as long as the graph.
    pub(super) unsafe fn submit(
        &self,
        stream: sys::CUstream,
        work: BorrowedWork<'_>,
    ) -> Result<()> {
        match work {
            // SAFETY: the caller's promise.
            Work::Launch(launch) => unsafe { self.launch(stream, &launch) },
            // SAFETY: the caller promises that the bytes at `to` are allocated. The driver reads bytes that
            // are not page-locked before it returns, and those of a graph stay as long as it.
            Work::Upload { to, bytes } => unsafe {
                result::memcpy_htod_async(to.address(), bytes, stream)
                    .map_err(refused("copying to the GPU"))
            },
            // SAFETY: the caller promises that both ranges are allocated and do not overlap.
            Work::Copy { from, to, bytes } => unsafe {
                result::memcpy_dtod_async(to.address(), from.address(), bytes, stream)
                    .map_err(refused("copying on the GPU"))
            },
            // SAFETY: the caller promises that the range is allocated.
            Work::Zero { at, bytes } => unsafe {
                result::memset_d8_async(at.address(), 0, bytes, stream)
                    .map_err(refused("clearing memory of the GPU"))
            },
        }
    }

    /// Waits for all work of the stream.
    pub(super) fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is destroyed when the GPU is dropped.
        unsafe { result::stream::synchronize(self.stream) }.map_err(refused("waiting for the GPU"))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // The program may be ending, and the driver with it, so errors are ignored.
        // SAFETY: `self` owns these handles, and graphs, which use them too, hold the GPU by an `Arc`.
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
