//! What backends keep from call to call: per layer ([`TypedCache`]) and per caller ([`Scratch`]).

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Values that backends keep for one layer: at most one of each type, made on first use.
///
/// A backend that wants its own weight layout puts it here. The bytes are counted in the model's
/// memory report, and everything is dropped on request.
#[derive(Default)]
pub struct TypedCache {
    entries: Mutex<HashMap<TypeId, CacheEntry>>,
}

struct CacheEntry {
    value: Arc<dyn Any + Send + Sync>,
    size_bytes: usize,
}

impl TypedCache {
    /// The value of type `T`, made by `make` if there is none: the value and the bytes it takes.
    ///
    /// # Errors
    /// The error of `make`; nothing is kept then.
    pub fn get_or_try_make<T, E>(
        &self,
        make: impl FnOnce() -> Result<(T, usize), E>,
    ) -> Result<Arc<T>, E>
    where
        T: Any + Send + Sync,
    {
        let mut entries = self.lock();
        if let Some(entry) = entries.get(&TypeId::of::<T>())
            && let Ok(value) = Arc::clone(&entry.value).downcast()
        {
            return Ok(value);
        }
        let (value, size_bytes) = make()?;
        let value = Arc::new(value);
        let entry = CacheEntry { value: Arc::clone(&value) as _, size_bytes };
        entries.insert(TypeId::of::<T>(), entry);
        Ok(value)
    }

    /// Bytes of everything kept.
    pub fn size_bytes(&self) -> usize {
        self.lock().values().map(|entry| entry.size_bytes).sum()
    }

    /// Drops everything; the next use makes it anew.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TypeId, CacheEntry>> {
        // A panic in `make` leaves the map as it was.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TypedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedCache").field("size_bytes", &self.size_bytes()).finish()
    }
}

/// Buffers a backend reuses from call to call: one value of each type, for one caller at a time.
#[derive(Default)]
pub struct Scratch {
    slots: HashMap<TypeId, Box<dyn Any + Send>>,
}

impl Scratch {
    /// The value of type `T`, made by `Default` on first use and kept as it was left since.
    pub fn slot<T: Any + Send + Default>(&mut self) -> &mut T {
        self.slots
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Box::<T>::default())
            .downcast_mut()
            .expect("the key is the type of the value")
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("slots", &self.slots.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn a_value_is_made_once_counted_and_dropped_on_request() {
        let cache = TypedCache::default();
        let make = |value: u64| cache.get_or_try_make(|| Ok::<_, Infallible>((value, 8))).unwrap();
        assert_eq!((*make(1), *make(2)), (1, 1));
        assert_eq!(cache.size_bytes(), 8);
        cache.clear();
        assert_eq!(cache.size_bytes(), 0);
        assert_eq!(*make(3), 3);
    }

    #[test]
    fn a_failed_make_keeps_nothing() {
        let cache = TypedCache::default();
        assert_eq!(cache.get_or_try_make(|| Err::<(u8, usize), _>("no")).unwrap_err(), "no");
        assert_eq!(cache.size_bytes(), 0);
    }

    #[test]
    fn a_scratch_slot_keeps_its_value() {
        let mut scratch = Scratch::default();
        scratch.slot::<Vec<f32>>().push(1.0);
        assert_eq!(scratch.slot::<Vec<f32>>().len(), 1);
        assert_eq!(scratch.slot::<Vec<u32>>().len(), 0);
    }
}
