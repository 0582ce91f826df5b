//! An experts layer on a device.

use crate::{
    cache::TypedCache,
    device::memory::Memory,
    error::Result,
    experts::{check, expert::Expert, spec::ExpertsSpec},
    weights::{Linear, Matrix, Weight},
};

/// The experts of one layer on a device, and the cache of backends for them.
#[derive(Debug)]
pub struct Experts<D: Memory> {
    spec: ExpertsSpec,
    experts: Vec<Expert<D::Matrix, D::Vector>>,
    cache: TypedCache,
}

impl<D: Memory> Experts<D> {
    /// Brings checked weights to the device.
    ///
    /// # Errors
    /// [`Error::Count`](crate::Error::Count), [`Error::Shape`](crate::Error::Shape),
    /// [`Error::Format`](crate::Error::Format) or [`Error::Value`](crate::Error::Value) where the
    /// weights are not those of `spec`, and what the device returns.
    pub fn load(
        device: &D,
        spec: ExpertsSpec,
        experts: Vec<Expert<Matrix, Vec<f32>>>,
    ) -> Result<Self> {
        check::weights(&spec, &experts, |bias| Some(bias.len()))?;
        let load = |linear: Linear<Matrix, Vec<f32>>| {
            let bias = linear.bias.map(|bias| device.load_vector(bias)).transpose()?;
            Ok(Linear { weight: device.load_matrix(linear.weight)?, bias })
        };
        let load = |expert: Expert<Matrix, Vec<f32>>| {
            Ok(Expert {
                gate_proj: expert.gate_proj.map(load).transpose()?,
                up_proj: load(expert.up_proj)?,
                down_proj: load(expert.down_proj)?,
            })
        };
        let experts = experts.into_iter().map(load).collect::<Result<_>>()?;
        Ok(Self { spec, experts, cache: TypedCache::default() })
    }

    /// A layer of weights that are on the device already.
    ///
    /// # Errors
    /// [`Error::Count`](crate::Error::Count), [`Error::Shape`](crate::Error::Shape),
    /// [`Error::Format`](crate::Error::Format) or [`Error::Value`](crate::Error::Value) where the
    /// weights are not those of `spec`.
    pub fn resident(spec: ExpertsSpec, experts: Vec<Expert<D::Matrix, D::Vector>>) -> Result<Self> {
        check::weights(&spec, &experts, |_| None)?;
        Ok(Self { spec, experts, cache: TypedCache::default() })
    }

    /// A layer with more experts: those of this layer, then `others` as the experts from E on. They
    /// share their elements with this layer.
    ///
    /// # Panics
    /// If one of the others has another shape or format than this layer's.
    #[must_use]
    pub fn joined(&self, others: Vec<Expert<D::Matrix, D::Vector>>) -> Self {
        let shape = |expert: &Expert<D::Matrix, D::Vector>| {
            let [up, down] = [&expert.up_proj, &expert.down_proj].map(|linear| {
                let weight = &linear.weight;
                (weight.rows(), weight.cols(), weight.format(), linear.bias.is_some())
            });
            (expert.gate_proj.is_some(), up, down)
        };
        let mut experts = self.experts.clone();
        for expert in others {
            assert!(experts.first().is_none_or(|own| shape(own) == shape(&expert)), "experts");
            experts.push(expert);
        }
        let spec = ExpertsSpec { experts: experts.len(), ..self.spec };
        Self { spec, experts, cache: TypedCache::default() }
    }

    /// The same experts with other matrices of the same values.
    ///
    /// # Errors
    /// The first that `replace` returns.
    pub fn with_matrices(
        &self,
        mut replace: impl FnMut(&D::Matrix) -> Result<D::Matrix>,
    ) -> Result<Self> {
        let mut linear = |linear: &Linear<D::Matrix, D::Vector>| -> Result<_> {
            Ok(Linear { weight: replace(&linear.weight)?, bias: linear.bias.clone() })
        };
        let mut experts = Vec::with_capacity(self.experts.len());
        for expert in &self.experts {
            experts.push(Expert {
                gate_proj: expert.gate_proj.as_ref().map(&mut linear).transpose()?,
                up_proj: linear(&expert.up_proj)?,
                down_proj: linear(&expert.down_proj)?,
            });
        }
        Ok(Self { spec: self.spec, experts, cache: TypedCache::default() })
    }

    /// The description.
    pub fn spec(&self) -> &ExpertsSpec {
        &self.spec
    }

    /// The weights of expert `index`.
    ///
    /// # Panics
    /// If there is no such expert.
    pub fn expert(&self, index: usize) -> &Expert<D::Matrix, D::Vector> {
        &self.experts[index]
    }

    /// The values that backends keep for this layer.
    pub fn cache(&self) -> &TypedCache {
        &self.cache
    }
}
