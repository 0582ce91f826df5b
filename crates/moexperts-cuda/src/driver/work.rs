//! What a device does in order: launches, uploads, copies.

use bytemuck::{Pod, Zeroable};

use crate::kernels::Module;

/// An address in a device's memory.
///
/// Like a raw pointer, it may point anywhere: whatever uses it is `unsafe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct DevicePtr(u64);

impl DevicePtr {
    /// Where nothing is.
    pub const NULL: Self = Self(0);

    /// The pointer to an address, as a driver gives it.
    pub const fn from_address(address: u64) -> Self {
        Self(address)
    }

    /// The address.
    pub const fn address(self) -> u64 {
        self.0
    }

    /// Whether this is [`NULL`](Self::NULL).
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address `bytes` further.
    #[must_use]
    pub const fn offset(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes as u64))
    }
}

/// A kernel with its grid and its argument.
///
/// - `B`: how the bytes of the argument are held
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Launch<B> {
    /// Where the kernel is.
    pub module: &'static Module,
    /// Its name in the source.
    pub kernel: &'static str,
    /// Number of blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// The one argument of the kernel, by value.
    pub params: B,
}

/// A step of a device's work.
///
/// - `B`: how bytes of the host are held: [`BorrowedWork`] is submitted, [`OwnedWork`] is kept
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work<B> {
    /// Runs a kernel.
    Launch(Launch<B>),
    /// Copies bytes to the device.
    Upload {
        /// The destination.
        to: DevicePtr,
        /// What is copied.
        bytes: B,
    },
    /// Copies bytes on the device, between ranges that do not overlap.
    Copy {
        /// The source.
        from: DevicePtr,
        /// The destination.
        to: DevicePtr,
        /// Number of bytes.
        bytes: usize,
    },
    /// Zeroes bytes on the device.
    Zero {
        /// The first byte.
        at: DevicePtr,
        /// Number of bytes.
        bytes: usize,
    },
}

/// Work whose bytes are elsewhere on the host.
pub type BorrowedWork<'a> = Work<&'a [u8]>;

/// Work with its bytes.
pub type OwnedWork = Work<Box<[u8]>>;

impl<B> Work<B> {
    /// The same work, its bytes held in another way.
    fn with_bytes<'a, C>(&'a self, hold: impl FnOnce(&'a B) -> C) -> Work<C> {
        match self {
            Self::Launch(Launch { module, kernel, grid, threads, shared_bytes, params }) => {
                Work::Launch(Launch {
                    module,
                    kernel,
                    grid: *grid,
                    threads: *threads,
                    shared_bytes: *shared_bytes,
                    params: hold(params),
                })
            }
            Self::Upload { to, bytes } => Work::Upload { to: *to, bytes: hold(bytes) },
            Self::Copy { from, to, bytes } => Work::Copy { from: *from, to: *to, bytes: *bytes },
            Self::Zero { at, bytes } => Work::Zero { at: *at, bytes: *bytes },
        }
    }
}

impl BorrowedWork<'_> {
    /// The same work with a copy of its bytes.
    pub fn to_owned(&self) -> OwnedWork {
        self.with_bytes(|&bytes| bytes.into())
    }
}

impl OwnedWork {
    /// The same work, to submit.
    pub fn borrowed(&self) -> BorrowedWork<'_> {
        self.with_bytes(|bytes| &**bytes)
    }

    /// The bytes that it uploads, if it is an upload.
    pub fn upload(&self) -> Option<&[u8]> {
        match self {
            Self::Upload { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// Whether `work` is the same but for the bytes of an upload, which replace those here if so.
    pub fn replace_upload(&mut self, work: &BorrowedWork<'_>) -> bool {
        match (&mut *self, work) {
            (Self::Upload { to, bytes }, Work::Upload { to: other, bytes: new })
                if to == other && bytes.len() == new.len() =>
            {
                bytes.copy_from_slice(new);
                true
            }
            (Self::Upload { .. }, _) => false,
            _ => self.borrowed() == *work,
        }
    }
}
