//! Lists without repetition.

/// Each once, in order.
pub(crate) fn distinct<T: Clone + PartialEq>(all: &[T]) -> Vec<T> {
    let mut distinct: Vec<T> = Vec::new();
    for one in all {
        if !distinct.contains(one) {
            distinct.push(one.clone());
        }
    }
    distinct
}
