//! Weights stay in the file.

use crate::common::load;
use moexperts::{DType, LoadOptions};

#[test]
fn weights_are_used_in_place_unless_another_dtype_is_chosen() {
    let stored = load("mixtral", LoadOptions::new()).load_report().clone();
    assert_eq!(stored.converted_bytes, 0);
    assert!(stored.in_place_bytes > 100_000);
    let converted = load("mixtral", LoadOptions::new().dtype(DType::F32)).load_report().clone();
    assert_eq!(converted.in_place_bytes, 0);
    assert_eq!(converted.converted_bytes, 2 * stored.in_place_bytes);
}
