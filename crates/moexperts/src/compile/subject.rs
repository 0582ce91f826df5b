//! What is compiled.

use std::sync::Arc;

use moexperts_core::{Device, ExpertsBackend};

use crate::model::{Decoder, VisionTower};

/// What a plan is made of.
pub(super) enum Subject<'a, D: Device> {
    /// A decoder's forward with a backend.
    Decoder(&'a Decoder<D>, &'a Arc<dyn ExpertsBackend<D::Experts>>),
    /// A vision tower's.
    Tower(&'a VisionTower<D>),
}

impl<D: Device> Clone for Subject<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for Subject<'_, D> {}

impl<'a, D: Device> Subject<'a, D> {
    pub(super) fn backend(self) -> Option<&'a Arc<dyn ExpertsBackend<D::Experts>>> {
        match self {
            Self::Decoder(_, backend) => Some(backend),
            Self::Tower(_) => None,
        }
    }

    pub(super) fn device(self) -> &'a D {
        match self {
            Self::Decoder(decoder, _) => decoder.device(),
            Self::Tower(tower) => tower.device(),
        }
    }
}
