//! The runtime in C++ (`emulated/launch.cpp`), as safe functions.

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

/// A kernel's argument where tensor maps may stand.
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

// SAFETY: kernels are constants of the program.
unsafe impl Send for Kernel {}

impl Kernel {
    /// The kernel `name` of a module.
    pub(crate) fn find(module: &str, name: &str) -> Option<Self> {
        let (module, name) = (CString::new(module).ok()?, CString::new(name).ok()?);
        // SAFETY: both strings live; what is found is a constant of the program.
        unsafe {
            let raw = NonNull::new(emulator_kernel(module.as_ptr(), name.as_ptr()).cast_mut())?;
            let params_bytes = emulator_params_bytes(raw.as_ptr()) as usize;
            Some(Self { raw, params_bytes, threads: emulator_threads(raw.as_ptr()) })
        }
    }

    /// Each kernel's module and name.
    pub(crate) fn all() -> Vec<(String, String)> {
        extern "C" fn visit(all: *mut c_void, module: *const c_char, name: *const c_char) {
            // SAFETY: the context given below, and strings that are constants of the program.
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
        // SAFETY: `visit` is called with `all` alone, before this returns.
        unsafe { emulator_each_kernel(visit, (&raw mut all).cast()) };
        all
    }
}

/// Memory, and what runs on it.
#[derive(Debug)]
pub(crate) struct Device(NonNull<RawDevice>);

// SAFETY: the runtime keeps nothing of a thread between calls.
unsafe impl Send for Device {}

/// What a call wrote into a message.
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
        // SAFETY: the settings are read before this returns.
        let raw = unsafe { emulator_device(&raw const settings) };
        Self(NonNull::new(raw).expect("the runtime gives a device"))
    }

    pub(crate) fn alloc(&mut self, bytes: usize) -> Option<DevicePtr> {
        // SAFETY: the device lives.
        let ptr = unsafe { emulator_alloc(self.0.as_ptr(), bytes) };
        (ptr != 0).then_some(DevicePtr(ptr))
    }

    /// How many bytes were given back; `None` if nothing begins there.
    pub(crate) fn free(&mut self, ptr: DevicePtr) -> Option<usize> {
        // SAFETY: the device lives, and looks the address up.
        let bytes = unsafe { emulator_free(self.0.as_ptr(), ptr.0) };
        (bytes != 0).then_some(bytes)
    }

    /// Where so many bytes are, if they are all of one allocation.
    fn at(&self, ptr: DevicePtr, bytes: usize) -> Result<*mut u8, String> {
        // SAFETY: the device lives, and looks the address up.
        if bytes > 0 && !unsafe { emulator_holds(self.0.as_ptr(), ptr.0, bytes) } {
            return Err(format!("{bytes} bytes at {:#x} are not all of one allocation", ptr.0));
        }
        Ok(std::ptr::with_exposed_provenance_mut(ptr.0 as usize))
    }

    pub(crate) fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<(), String> {
        let at = self.at(to, bytes.len())?;
        if !bytes.is_empty() {
            // SAFETY: the bytes are of an allocation, which nobody else uses meanwhile.
            unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        }
        Ok(())
    }

    pub(crate) fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), String> {
        let at = self.at(from, out.len())?;
        if !out.is_empty() {
            // SAFETY: the bytes are of an allocation, which nobody else uses meanwhile.
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
        if from.0.abs_diff(to.0) < bytes as u64 {
            return Err(format!("{bytes} bytes at {:#x} are copied to {:#x}", from.0, to.0));
        }
        if bytes > 0 {
            // SAFETY: both are of allocations, and do not overlap.
            unsafe { target.copy_from_nonoverlapping(source, bytes) };
        }
        Ok(())
    }

    pub(crate) fn zero(&mut self, at: DevicePtr, bytes: usize) -> Result<(), String> {
        let at = self.at(at, bytes)?;
        if bytes > 0 {
            // SAFETY: the bytes are of an allocation, which nobody else uses meanwhile.
            unsafe { at.write_bytes(0, bytes) };
        }
        Ok(())
    }

    /// Runs a kernel; then nothing must have been written beyond an allocation.
    pub(crate) fn launch(
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
        // SAFETY: the argument is as long as the kernel's struct and aligned as any of CUDA's. What
        // the addresses in it are of is the caller's to care for; what the kernel accesses that
        // is not there, the runtime reports where the host's system tells.
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
        // SAFETY: the device lives.
        said(|message, capacity| unsafe { emulator_check(self.0.as_ptr(), message, capacity) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: nobody else has the device.
        unsafe { emulator_delete(self.0.as_ptr()) };
    }
}
