//! The inventory of a model's tensors is what its checkpoint holds.

use std::collections::BTreeMap;

use moexperts::{
    blocks::VisionSpec,
    families,
    files::ModelFiles,
    weights::{AsPublished, Stored, TensorSpec},
};

use crate::{
    common::{CASES, data},
    pictures,
};

#[test]
fn every_checkpoint_holds_the_tensors_of_its_family_and_no_others() {
    for case in CASES.into_iter().chain([pictures::CASE]) {
        let files = ModelFiles::open(&data(case)).unwrap();
        let spec = families::describe(&files.config).unwrap();
        let stored: BTreeMap<String, Vec<usize>> = files
            .checkpoint
            .tensors()
            .map(|(name, shape, _)| (name.to_owned(), shape.to_vec()))
            .collect();
        let mut listed = BTreeMap::new();
        for tensor in spec.tensors(&files.checkpoint) {
            for name in tensor.names() {
                assert_eq!(files.checkpoint.shape(&name), Some(&tensor.shape[..]), "{case} {name}");
                assert!(listed.insert(name, tensor.shape.clone()).is_none(), "{case}: twice");
            }
        }
        assert_eq!(listed, stored, "{case}");
        let weights = spec.tensors(&files.checkpoint);
        let weights = weights.iter().filter(|tensor| tensor.is_weight());
        let elements: u128 = weights.map(TensorSpec::elements).sum();
        let vision = spec.vision.as_ref().map_or(0, VisionSpec::total_weights);
        assert_eq!(elements, (spec.text.total_weights() + vision) as u128, "{case}");
    }
}

#[test]
fn a_model_as_it_is_published_has_as_many_weights_in_any_dialect() {
    for case in CASES {
        let files = ModelFiles::open(&data(case)).unwrap();
        let spec = families::describe(&files.config).unwrap().text;
        let elements = |stored: &dyn Stored| -> u128 {
            spec.tensors(stored).iter().map(TensorSpec::elements).sum()
        };
        assert_eq!(elements(&AsPublished), elements(&files.checkpoint), "{case}");
    }
}
