//! The runtime in C++ (`emulated/launch.cpp`). All addresses are looked up but those that a kernel uses.

use std::{
    ffi::{CStr, CString, c_char, c_void},
    ptr::NonNull,
};

use moexperts_cuda::driver::DevicePtr;

/// `Settings` of block.h.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) order: u32,
    pub(crate) late: u32,
    pub(crate) threads: u32,
    pub(crate) padding: u32,
}

#[repr(C)]
struct RawDevice(c_void);

#[repr(C)]
struct RawKernel(c_void);

unsafe extern "C" {
    fn emulator_device(settings: *const Settings) -> *mut RawDevice;
    fn emulator_delete(device: *mut RawDevice);
    fn emulator_alloc(device: *mut RawDevice, bytes: usize) -> u64;
    fn emulator_free(device: *mut RawDevice, ptr: u64) -> usize;
    fn emulator_holds(device: *const RawDevice, ptr: u64, bytes: usize) -> bool;
    fn emulator_check(device: *const RawDevice, message: *mut c_char, capacity: usize) -> bool;
    fn emulator_kernel(module: *const c_char, name: *const c_char) -> *const RawKernel;
    fn emulator_each_kernel(
        visit: extern "C" fn(*mut c_void, *const c_char, *const c_char),
        context: *mut c_void,
    );
    fn emulator_params_bytes(kernel: *const RawKernel) -> u32;
    fn emulator_threads(kernel: *const RawKernel) -> u32;
    fn emulator_launch(
        device: *const RawDevice,
        kernel: *const RawKernel,
        grid: *const u32,
        shared_bytes: u32,
        params: *const c_void,
        message: *mut c_char,
        capacity: usize,
    ) -> bool;
}

/// Part of a kernel's argument, aligned as tensor maps are.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Aligned([u8; 64]);

/// A kernel as it was compiled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    raw: NonNull<RawKernel>,
    /// Bytes of its argument.
    pub(crate) params_bytes: usize,
    /// Threads of a block.
    pub(crate) threads: u32,
}

// SAFETY: `raw` points to a static object of the program that is never changed after it starts.
unsafe impl Send for Kernel {}

impl Kernel {
    /// The kernel `name` of a module.
    pub(crate) fn find(module: &str, name: &str) -> Option<Self> {
        let (module, name) = (CString::new(module).ok()?, CString::new(name).ok()?);
        // SAFETY: both strings end with 0 and live through the call. What is found is a static object, so
        // the other two functions can read it.
        unsafe {
            let raw = NonNull::new(emulator_kernel(module.as_ptr(), name.as_ptr()).cast_mut())?;
            let params_bytes = emulator_params_bytes(raw.as_ptr()) as usize;
            Some(Self { raw, params_bytes, threads: emulator_threads(raw.as_ptr()) })
        }
    }

    /// Each kernel's module and name.
    pub(crate) fn all() -> Vec<(String, String)> {
        extern "C" fn visit(all: *mut c_void, module: *const c_char, name: *const c_char) {
            // SAFETY: `context` is the vector below, which nothing else borrows meanwhile; the strings are
            // static and end with 0.
            let (all, module, name) = unsafe {
                (
                    &mut *all.cast::<Vec<(String, String)>>(),
                    CStr::from_ptr(module),
                    CStr::from_ptr(name),
                )
            };
            let text = |text: &CStr| text.to_string_lossy().into_owned();
            all.push((text(module), text(name)));
        }
        let mut all = Vec::new();
        // SAFETY: the runtime calls `visit` with this pointer to `all`, and only before it returns.
        unsafe { emulator_each_kernel(visit, (&raw mut all).cast()) };
        all
    }
}

/// The memory of a GPU, and the launches on it.
#[derive(Debug)]
pub(crate) struct Device(NonNull<RawDevice>);

// SAFETY: the runtime stores nothing that belongs to a thread in a device.
unsafe impl Send for Device {}

/// The message of a call, if it failed.
fn said(call: impl FnOnce(*mut c_char, usize) -> bool) -> Result<(), String> {
    let mut message = vec![0_u8; 4096];
    if call(message.as_mut_ptr().cast(), message.len()) {
        return Ok(());
    }
    let text = CStr::from_bytes_until_nul(&message).unwrap_or_default();
    Err(text.to_string_lossy().into_owned())
}

impl Device {
    pub(crate) fn new(settings: Settings) -> Self {
        // SAFETY: `Settings` is laid out as in block.h; the runtime copies it before it returns.
        let raw = unsafe { emulator_device(&raw const settings) };
        Self(NonNull::new(raw).expect("the runtime gives a device"))
    }

    pub(crate) fn alloc(&mut self, bytes: usize) -> Option<DevicePtr> {
        // SAFETY: the device exists until it is dropped.
        let ptr = unsafe { emulator_alloc(self.0.as_ptr(), bytes) };
        (ptr != 0).then(|| DevicePtr::from_address(ptr))
    }

    /// Frees an allocation. Returns its bytes; `None` if none begins there.
    pub(crate) fn free(&mut self, ptr: DevicePtr) -> Option<usize> {
        // SAFETY: the device exists; the runtime searches the address among its allocations.
        let bytes = unsafe { emulator_free(self.0.as_ptr(), ptr.address()) };
        (bytes != 0).then_some(bytes)
    }

    /// The address of `bytes` bytes, if they all lie in one allocation.
    fn at(&self, ptr: DevicePtr, bytes: usize) -> Result<*mut u8, String> {
        // SAFETY: the device exists; the runtime only compares the address with its allocations.
        if bytes > 0 && !unsafe { emulator_holds(self.0.as_ptr(), ptr.address(), bytes) } {
            return Err(format!(
                "{bytes} bytes at {:#x} are not all of one allocation",
                ptr.address()
            ));
        }
        Ok(std::ptr::with_exposed_provenance_mut(ptr.address() as usize))
    }

    pub(crate) fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<(), String> {
        let at = self.at(to, bytes.len())?;
        if !bytes.is_empty() {
            // SAFETY: `at` found that the bytes lie in one allocation. It is accessed through this device
            // alone, which is borrowed, and no memory of Rust.
            unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        }
        Ok(())
    }

    pub(crate) fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), String> {
        let at = self.at(from, out.len())?;
        if !out.is_empty() {
            // SAFETY: `at` found that the bytes lie in one allocation. It is accessed through this device
            // alone, which is borrowed, and no memory of Rust.
            unsafe { at.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
        }
        Ok(())
    }

    pub(crate) fn copy(
        &mut self,
        from: DevicePtr,
        to: DevicePtr,
        bytes: usize,
    ) -> Result<(), String> {
        let (source, target) = (self.at(from, bytes)?, self.at(to, bytes)?);
        if from.address().abs_diff(to.address()) < bytes as u64 {
            return Err(format!(
                "{bytes} bytes at {:#x} are copied to {:#x}",
                from.address(),
                to.address()
            ));
        }
        if bytes > 0 {
            // SAFETY: `at` found that both ranges lie in allocations; that they do not overlap was checked.
            unsafe { target.copy_from_nonoverlapping(source, bytes) };
        }
        Ok(())
    }

    pub(crate) fn zero(&mut self, at: DevicePtr, bytes: usize) -> Result<(), String> {
        let at = self.at(at, bytes)?;
        if bytes > 0 {
            // SAFETY: `at` found that the bytes lie in one allocation. It is accessed through this device
            // alone, which is borrowed, and no memory of Rust.
            unsafe { at.write_bytes(0, bytes) };
        }
        Ok(())
    }

    /// Runs a kernel, then checks that nothing was written beyond an allocation.
    ///
    /// # Safety
    /// With this grid and these parameters the kernel accesses only allocations of this device that are
    /// not freed. Tests of the emulator may be wrong about that by a few bytes, or by an address of the
    /// first page: guards and the signal handler turn these into errors.
    pub(crate) unsafe fn launch(
        &mut self,
        kernel: Kernel,
        grid: [u32; 3],
        shared_bytes: u32,
        params: &[u8],
    ) -> Result<(), String> {
        assert_eq!(params.len(), kernel.params_bytes, "the kernel's argument");
        let mut aligned = vec![Aligned([0; 64]); params.len().div_ceil(64)];
        for (chunk, bytes) in aligned.iter_mut().zip(params.chunks(64)) {
            chunk.0[..bytes.len()].copy_from_slice(bytes);
        }
        // SAFETY: device and kernel exist. The argument has as many bytes as the kernel's struct, as
        // asserted, and is aligned to 64, which is the most that a struct of a kernel needs. The caller
        // promises that what the kernel accesses is allocated.
        said(|message, capacity| unsafe {
            emulator_launch(
                self.0.as_ptr(),
                kernel.raw.as_ptr(),
                grid.as_ptr(),
                shared_bytes,
                aligned.as_ptr().cast(),
                message,
                capacity,
            )
        })?;
        // SAFETY: the device exists, and the message has the capacity that is passed.
        said(|message, capacity| unsafe { emulator_check(self.0.as_ptr(), message, capacity) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: `self` owns the device.
        unsafe { emulator_delete(self.0.as_ptr()) };
    }
}
