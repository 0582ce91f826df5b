//! Every operation against f64.

use moexperts_conformance::check_operation;
use moexperts_core::Operation;

#[test]
fn every_operation_is_that_of_its_name() {
    for (name, cuda) in crate::common::devices() {
        let problems = Operation::ALL.map(|operation| check_operation(&cuda, operation).err());
        let problems: Vec<String> = problems.into_iter().flatten().collect();
        assert!(problems.is_empty(), "{}: {problems:#?}", name);
    }
}
