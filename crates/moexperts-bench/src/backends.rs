//! Which backends take part.

use std::{fmt::Display, sync::Arc};

use moexperts::{Device, Error, ExpertsBackend, ExpertsInterface};

use crate::error::BenchError;

/// A backend of a device.
pub(crate) type Backend<D> = Arc<dyn ExpertsBackend<D>>;

/// Backends, and whether the user named them.
#[derive(Debug)]
pub(crate) struct Backends<D: Device> {
    all: Vec<Backend<D>>,
    named: bool,
}

impl<D: Device<Experts = D>> Backends<D> {
    /// Those of these names; every registered one if there are none.
    pub(crate) fn named(names: &[String]) -> Result<Self, BenchError> {
        let named = !names.is_empty();
        let all = match named {
            true => names.iter().map(|name| ExpertsInterface::get(name)).collect(),
            false => Ok(ExpertsInterface::all()),
        };
        Ok(Self { all: all.map_err(Error::from)?, named })
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.all.iter().map(|backend| backend.name().to_owned()).collect()
    }

    /// Those that `check` passes, and why the others cannot take part.
    pub(crate) fn sorted_out<E>(
        &self,
        check: impl Fn(&Backend<D>) -> Result<(), E>,
    ) -> (Vec<Backend<D>>, Vec<Refused<E>>) {
        let (mut able, mut refused) = (Vec::new(), Vec::new());
        for backend in &self.all {
            match check(backend) {
                Ok(()) => able.push(Arc::clone(backend)),
                Err(error) => refused.push(Refused { name: backend.name().to_owned(), error }),
            }
        }
        (able, refused)
    }

    /// The same, but one that the user named has to pass.
    pub(crate) fn able<E: Into<BenchError> + Display>(
        &self,
        check: impl Fn(&Backend<D>) -> Result<(), E>,
    ) -> Result<(Vec<Backend<D>>, Vec<String>), BenchError> {
        let (able, refused) = self.sorted_out(check);
        let mut errors = refused.into_iter().map(|refused| refused.error);
        match errors.next() {
            Some(first) if self.named => Err(first.into()),
            first => Ok((able, first.into_iter().chain(errors).map(|e| e.to_string()).collect())),
        }
    }
}

/// A backend that cannot take part.
#[derive(Debug)]
pub(crate) struct Refused<E> {
    pub(crate) name: String,
    pub(crate) error: E,
}

#[cfg(test)]
mod tests {
    use moexperts::Cpu;

    use super::*;

    fn refuse_eager(backend: &Backend<Cpu>) -> Result<(), BenchError> {
        match backend.name() {
            "eager" => Err(BenchError::BrokenPipe),
            _ => Ok(()),
        }
    }

    #[test]
    fn a_backend_that_cannot_is_left_out_unless_it_was_named() {
        let (able, reasons) = Backends::named(&[]).unwrap().able(refuse_eager).unwrap();
        let names: Vec<&str> = able.iter().map(|backend| backend.name()).collect();
        assert_eq!(names, ["batched_mm", "grouped_mm"]);
        assert_eq!(reasons, ["standard output is closed"]);

        let named = Backends::named(&["grouped_mm".to_owned(), "eager".to_owned()]).unwrap();
        assert_eq!(named.names(), ["grouped_mm", "eager"]);
        assert!(matches!(named.able(refuse_eager), Err(BenchError::BrokenPipe)));
    }
}
