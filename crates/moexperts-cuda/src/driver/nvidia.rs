//! NVIDIA's driver.

use moexperts_core::Result;

use crate::{
    cuda::Cuda,
    driver::{DevicePtr, Driver, Graph, Properties, TensorMap, TensorMapSpec, Work},
};

/// A GPU of NVIDIA's.
#[derive(Debug)]
pub struct Nvidia {
    properties: Properties,
}

impl Nvidia {
    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// If there is no driver or no such GPU.
    pub fn new(_ordinal: usize) -> Result<Self> {
        Err(Cuda::problem("not written yet"))
    }

    /// The GPUs there are.
    ///
    /// # Errors
    /// If there is no driver.
    pub fn devices() -> Result<Vec<Properties>> {
        Err(Cuda::problem("not written yet"))
    }
}

impl Driver for Nvidia {
    fn properties(&self) -> &Properties {
        &self.properties
    }
    fn alloc(&self, _bytes: usize) -> Result<DevicePtr> {
        Err(Cuda::problem("not written yet"))
    }
    fn free(&self, _ptr: DevicePtr) {}
    fn free_bytes(&self) -> Result<u64> {
        Err(Cuda::problem("not written yet"))
    }
    fn submit(&self, _work: Work<'_>) -> Result<()> {
        Err(Cuda::problem("not written yet"))
    }
    fn read(&self, _from: DevicePtr, _out: &mut [u8]) -> Result<()> {
        Err(Cuda::problem("not written yet"))
    }
    fn synchronize(&self) -> Result<()> {
        Err(Cuda::problem("not written yet"))
    }
    fn capture(&self, _works: &[Work<'_>]) -> Result<Box<dyn Graph>> {
        Err(Cuda::problem("not written yet"))
    }
    fn tensor_map(&self, _spec: TensorMapSpec) -> Result<TensorMap> {
        Err(Cuda::problem("not written yet"))
    }
    fn time(&self, _work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        Err(Cuda::problem("not written yet"))
    }
}
