//! The registry of experts backends, by device and name.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    device::Device,
    error::{Error, Result, listed},
    experts::backend::ExpertsBackend,
};

type Key = (TypeId, String);
type AnyBackend = Box<dyn Any + Send + Sync>;

static REGISTERED: RwLock<BTreeMap<Key, AnyBackend>> = RwLock::new(BTreeMap::new());

/// The built-in backends of each device, made once: plans are kept by a backend's address, so that
/// a second copy would be compiled again.
static BUILT_IN: RwLock<BTreeMap<TypeId, AnyBackend>> = RwLock::new(BTreeMap::new());

fn built_in<D: Device<Experts = D>>() -> Vec<Arc<dyn ExpertsBackend<D>>> {
    type All<D> = Vec<Arc<dyn ExpertsBackend<D>>>;
    let key = TypeId::of::<D>();
    let made =
        |all: &BTreeMap<TypeId, AnyBackend>| all.get(&key)?.downcast_ref::<All<D>>().cloned();
    if let Some(all) = made(&BUILT_IN.read().unwrap_or_else(PoisonError::into_inner)) {
        return all;
    }
    let mut all = BUILT_IN.write().unwrap_or_else(PoisonError::into_inner);
    all.entry(key).or_insert_with(|| Box::new(D::built_in_experts()));
    made(&all).unwrap_or_default()
}

/// The experts backends of this process, by device and name: the ones that come with each device
/// and the ones users register.
///
/// A device here is one that experts run on; code over any device `D` names
/// [`D::Experts`](crate::Execution::Experts).
#[derive(Debug, Clone, Copy)]
pub struct ExpertsInterface;

impl ExpertsInterface {
    /// Makes a backend available under its name, for every model on its device.
    ///
    /// # Errors
    /// [`Error::Register`] if the name is taken, or is not made of lower-case letters, digits,
    /// `_` and `-`.
    pub fn register<D: Device<Experts = D>>(
        backend: impl ExpertsBackend<D> + 'static,
    ) -> Result<()> {
        let backend: Arc<dyn ExpertsBackend<D>> = Arc::new(backend);
        let name = backend.name().to_owned();
        let refused = |problem: &str| Error::Register {
            name: name.clone(),
            device: D::NAME,
            problem: problem.to_owned(),
        };
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        if name.is_empty() || !name.chars().all(allowed) {
            return Err(refused("a name is made of lower-case letters, digits, `_` and `-`"));
        }
        if D::built_in_experts().iter().any(|built_in| built_in.name() == name) {
            return Err(refused("it is the name of a built-in backend"));
        }
        let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
        let key = (TypeId::of::<D>(), name.clone());
        if registered.contains_key(&key) {
            return Err(refused("the name is taken"));
        }
        registered.insert(key, Box::new(backend));
        Ok(())
    }

    /// Removes a registered backend; models that use it keep it until they are switched.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`] if no backend of that name was registered; built-in backends
    /// stay.
    pub fn unregister<D: Device<Experts = D>>(name: &str) -> Result<()> {
        let key = (TypeId::of::<D>(), name.to_owned());
        let removed = REGISTERED.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        removed.map(|_| ()).ok_or_else(|| unknown::<D>(name))
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`], which lists the names there are.
    pub fn get<D: Device<Experts = D>>(name: &str) -> Result<Arc<dyn ExpertsBackend<D>>> {
        Self::all::<D>()
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| unknown::<D>(name))
    }

    /// Every name on device `D`: the built-in ones in their order, then the registered ones in
    /// alphabetical order.
    pub fn names<D: Device<Experts = D>>() -> Vec<String> {
        Self::all::<D>().iter().map(|backend| backend.name().to_owned()).collect()
    }

    /// Every backend on device `D`, in the order of [`names`](Self::names).
    pub fn all<D: Device<Experts = D>>() -> Vec<Arc<dyn ExpertsBackend<D>>> {
        let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
        let own = registered.iter().filter(|((device, _), _)| *device == TypeId::of::<D>());
        let own = own.filter_map(|(_, backend)| backend.downcast_ref::<Arc<_>>().map(Arc::clone));
        built_in::<D>().into_iter().chain(own).collect()
    }
}

fn unknown<D: Device<Experts = D>>(name: &str) -> Error {
    Error::UnknownBackend {
        name: name.to_owned(),
        device: D::NAME,
        known: listed(ExpertsInterface::names::<D>()),
    }
}
