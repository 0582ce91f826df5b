//! The kernels' sources, and how they are launched.

use std::marker::PhantomData;

use bytemuck::NoUninit;
use moexperts_core::DType;

/// A file of kernels, compiled on its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    /// Its files by name and text, in order; the last gives the module its name: `gemv.cu`. The
    /// [`PRELUDE`] comes before them.
    pub files: &'static [(&'static str, &'static str)],
    /// Whether it has instructions of compute capability 9.0 alone (`sm_90a`).
    pub hopper: bool,
}

/// What comes before every module: types, then the instructions that C++ has no syntax for.
pub const PRELUDE: [(&str, &str); 2] = [
    ("prelude.cuh", include_str!("../kernels/prelude.cuh")),
    ("ptx.cuh", include_str!("../kernels/ptx.cuh")),
];

impl Module {
    /// Its name: `gemv.cu`.
    pub fn name(&self) -> &'static str {
        self.files.last().map_or("", |(name, _)| name)
    }
}

macro_rules! modules {
    ($($module:ident = [$($file:literal),*] $(, hopper = $hopper:literal)?;)*) => {
        $(
            #[doc = concat!($("`", $file, "` "),*)]
            pub static $module: Module = Module {
                files: &[$(($file, include_str!(concat!("../kernels/", $file)))),*],
                hopper: false $(|| $hopper)?,
            };
        )*

        /// Every module.
        pub static MODULES: &[&Module] = &[$(&$module),*];
    };
}

include!("modules.rs");

/// A kernel that takes a `P`.
#[derive(Debug)]
pub struct Kernel<P> {
    /// The module it is in.
    pub module: &'static Module,
    /// Its name in the source.
    pub name: &'static str,
    /// Threads of a block.
    pub threads: u32,
    params: PhantomData<fn(P)>,
}

impl<P: NoUninit> Kernel<P> {
    /// The kernel `name`, launched with blocks of `threads` threads.
    ///
    /// Nothing is checked before it is launched: that the module has this kernel, and that it takes a
    /// struct laid out as `P`, is up to [`Cuda::launch`](crate::Cuda::launch).
    pub const fn new(module: &'static Module, name: &'static str, threads: u32) -> Self {
        Self { module, name, threads, params: PhantomData }
    }
}

/// A kernel for each element type of weights.
#[derive(Debug)]
pub struct PerDType<P> {
    /// For f32.
    pub f32: Kernel<P>,
    /// For f16.
    pub f16: Kernel<P>,
    /// For bf16.
    pub bf16: Kernel<P>,
}

impl<P> PerDType<P> {
    /// The kernel for weights of a type.
    pub const fn of(&self, dtype: DType) -> &Kernel<P> {
        match dtype {
            DType::F32 => &self.f32,
            DType::F16 => &self.f16,
            DType::Bf16 => &self.bf16,
        }
    }
}

/// The kernels `name_f32`, `name_f16` and `name_bf16` of a module.
macro_rules! per_dtype {
    ($module:expr, $name:literal, $threads:expr) => {
        $crate::kernels::PerDType {
            f32: $crate::kernels::Kernel::new($module, concat!($name, "_f32"), $threads),
            f16: $crate::kernels::Kernel::new($module, concat!($name, "_f16"), $threads),
            bf16: $crate::kernels::Kernel::new($module, concat!($name, "_bf16"), $threads),
        }
    };
}
pub(crate) use per_dtype;
