//! Shared weights as keys of maps.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// What was made of shared values.
pub(super) type ByArc<K, V> = HashMap<SameArc<K>, Arc<V>>;

/// A shared value as a key, equal only to itself, whatever it holds. The key holds the value, so no
/// other value can come to lie at its address while the key is in a map.
#[derive(Debug)]
pub(super) struct SameArc<T>(Arc<T>);

impl<T> SameArc<T> {
    pub(super) fn new(shared: &Arc<T>) -> Self {
        Self(Arc::clone(shared))
    }
}

impl<T> PartialEq for SameArc<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for SameArc<T> {}

impl<T> Hash for SameArc<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}
