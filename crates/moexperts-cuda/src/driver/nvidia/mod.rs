//! NVIDIA's driver.

mod error;
mod event;
mod gpu;
mod graph;
mod library;

use std::{ffi::c_void, mem::MaybeUninit, ptr, sync::Arc};

use cudarc::driver::{result, sys};
use moexperts_core::Result;

use self::{
    error::{refused, text},
    event::Event,
    gpu::Gpu,
    graph::NvidiaGraph,
};
use super::{BorrowedWork, DevicePtr, Driver, Graph, Properties, TensorMap, TensorMapSpec, Work};
use crate::{
    error::problem,
    kernels::{MODULES, Module},
};

/// A GPU of NVIDIA's.
#[derive(Debug)]
pub struct Nvidia(Arc<Gpu>);

impl Nvidia {
    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// [`Error::Device`](moexperts_core::Error::Device) if there is no driver, it does not start, there
    /// is no such GPU, or kernels have to be compiled and there is no NVRTC.
    pub fn new(ordinal: usize) -> Result<Self> {
        let count = library::count()?;
        if ordinal >= count {
            return Err(problem(format!("no GPU {ordinal}: {}", existing(count))));
        }
        let gpu = Gpu::open(ordinal).map_err(refused(&format!("opening GPU {ordinal}")))?;
        if !MODULES.iter().filter(|module| gpu.runs(module)).all(|module| gpu.cubins.has(module)) {
            // Without a compiler this fails now, not at the first launch.
            gpu.cubins.nvrtc()?;
        }
        Ok(Self(Arc::new(gpu)))
    }

    /// Describes the GPUs of this machine, in the order of their numbers.
    ///
    /// # Errors
    /// [`Error::Device`](moexperts_core::Error::Device) if there is no driver or it does not start.
    pub fn devices() -> Result<Vec<Properties>> {
        let ordinals = 0..library::count()?;
        let all = ordinals.map(|ordinal| library::properties(result::device::get(ordinal as i32)?));
        all.collect::<Result<_, _>>().map_err(refused("reading what the GPUs are"))
    }
}

/// Says which GPUs there are.
fn existing(count: usize) -> String {
    match count {
        0 => "there is none".to_owned(),
        1 => "there is 1 (0)".to_owned(),
        2 => "there are 2 (0 and 1)".to_owned(),
        many => format!("there are {many} (0 to {})", many - 1),
    }
}

// SAFETY: the driver's allocator returns memory that overlaps no other; allocating, freeing and all work
// are ordered by one stream, and reading waits for it.
unsafe impl Driver for Nvidia {
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
        // SAFETY: allocating accesses no memory of others; the context is bound.
        let ptr = unsafe {
            match self.0.pool {
                Some(_) => result::malloc_async(self.0.stream, bytes),
                None => result::malloc_sync(bytes),
            }
        };
        ptr.map(DevicePtr::from_address).map_err(|error| {
            if error.0 != sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                return refused("reserving memory of the GPU")(error);
            }
            match self.free_bytes() {
                Ok(free) => problem(format!(
                    "out of memory: {bytes} bytes needed, {free} of {} free",
                    self.0.properties.memory_bytes
                )),
                Err(_) => problem(format!("out of memory: {bytes} bytes needed")),
            }
        })
    }

    unsafe fn free(&self, ptr: DevicePtr) {
        if self.0.bind().is_err() {
            return;
        }
        // SAFETY: the caller promises that `alloc` returned the pointer and that no later work uses it. Both
        // ways of freeing come after the work of the stream.
        let freed = unsafe {
            match self.0.pool {
                Some(_) => result::free_async(ptr.address(), self.0.stream),
                None => result::free_sync(ptr.address()),
            }
        };
        if let Err(error) = freed {
            tracing::debug!(error = text(error), "memory of the GPU is not given back");
        }
    }

    fn free_bytes(&self) -> Result<u64> {
        use sys::CUmemPool_attribute as Attribute;
        self.0.bind()?;
        let problem = refused("reading the amount of free memory");
        let (free, _) = result::mem_get_info().map_err(&problem)?;
        // The pool keeps memory that was freed; it is available for new allocations.
        let Some(pool) = self.0.pool else { return Ok(free as u64) };
        let get = |attribute| {
            let mut value = 0_u64;
            // SAFETY: the pool is that of the open device; both attributes are a u64, as `value` is.
            unsafe { sys::cuMemPoolGetAttribute(pool, attribute, ptr::from_mut(&mut value).cast()) }
                .result()
                .map(|()| value)
        };
        let held = get(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).map_err(&problem)?;
        let used = get(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT).map_err(&problem)?;
        Ok(free as u64 + held.saturating_sub(used))
    }

    unsafe fn submit(&self, work: BorrowedWork<'_>) -> Result<()> {
        self.0.bind()?;
        // SAFETY: the caller's promise; the stream is the GPU's and is not captured.
        unsafe { self.0.submit(self.0.stream, work) }
    }

    unsafe fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<()> {
        self.0.bind()?;
        // SAFETY: the caller promises that the bytes are allocated; `out` is borrowed until `synchronize`
        // has waited for the copy.
        unsafe { result::memcpy_dtoh_async(out, from.address(), self.0.stream) }
            .map_err(refused("reading from the GPU"))?;
        self.0.synchronize()
    }

    fn synchronize(&self) -> Result<()> {
        self.0.bind()?;
        self.0.synchronize()
    }

    fn capture(&self, works: &[BorrowedWork<'_>]) -> Result<Box<dyn Graph>> {
        self.0.bind()?;
        for work in works {
            // Modules cannot be loaded within a capture.
            if let Work::Launch(launch) = work {
                self.0.load(launch.module, launch.kernel)?;
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
        // SAFETY: sizes, box sizes and steps have as many entries as the rank, 2, and strides one less; they
        // and the map live through the call, which encodes the address without accessing it. The map is
        // written if the call succeeds.
        let map = unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                data_type,
                2,
                spec.at.address() as *mut c_void,
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
        // SAFETY: `CUtensorMap` is an array of 16 u64, so it has 128 bytes, all initialised.
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
        // SAFETY: both events exist until this returns, and were recorded.
        unsafe {
            result::event::synchronize(end.0).map_err(&problem)?;
            let milliseconds = result::event::elapsed(start.0, end.0).map_err(&problem)?;
            Ok(f64::from(milliseconds) * 1e6)
        }
    }
}
