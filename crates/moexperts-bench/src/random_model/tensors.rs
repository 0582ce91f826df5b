//! The tensors of a decoder, as published checkpoints have them, in the order of a forward.

use moexperts::{
    model::DecoderSpec,
    weights::{AsPublished, TensorKind, TensorSpec},
};

/// One tensor.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: TensorKind,
}

/// All tensors, those of a kind one after another: in the order of a forward, and vectors last, so
/// that a vector of odd length moves no matrix away from a cache line.
pub(crate) fn of(spec: &DecoderSpec) -> Vec<Tensor> {
    let inventory = spec.tensors(&AsPublished);
    let mut all = Vec::new();
    // The projections of an expert lie next to each other.
    for group in inventory.chunk_by(|a, b| a.experts.is_some() && a.experts == b.experts) {
        let names: Vec<Vec<String>> = group.iter().map(|spec| spec.names().collect()).collect();
        for index in 0..group.first().map_or(0, TensorSpec::count) {
            for (spec, names) in group.iter().zip(&names) {
                let (name, shape) = (names[index].clone(), spec.shape.clone());
                all.push(Tensor { name, shape, kind: spec.kind });
            }
        }
    }
    all.sort_by_key(|tensor| tensor.kind);
    all
}
