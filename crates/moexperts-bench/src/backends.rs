//! Which backends take part.

use std::{fmt::Display, sync::Arc};

use moexperts::{AnyDevice, Device, Error, ExpertsBackend, ExpertsInterface};

use crate::error::BenchError;

/// A backend of a device.
pub(crate) type Backend<D> = Arc<dyn ExpertsBackend<D>>;

/// Names of backends, and whether the user chose them.
#[derive(Debug)]
pub(crate) struct Backends {
    names: Vec<String>,
    chosen: bool,
}

impl Backends {
    /// Those of these names; every registered one of the device if there are none.
    pub(crate) fn on<D: Device<Experts = D>>(
        _device: &D,
        names: &[String],
    ) -> Result<Self, BenchError> {
        let chosen = !names.is_empty();
        let backends: Result<Vec<Backend<D>>, _> = match chosen {
            true => names.iter().map(|name| ExpertsInterface::get(name)).collect(),
            false => Ok(ExpertsInterface::all()),
        };
        let backends = backends.map_err(Error::from)?;
        let names = backends.iter().map(|backend| backend.name().to_owned()).collect();
        Ok(Self { names, chosen })
    }

    /// [`on`](Self::on), for a device of any type.
    pub(crate) fn on_any(device: &AnyDevice, names: &[String]) -> Result<Self, BenchError> {
        crate::on_device!(device, device => Self::on(device, names))
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// What `check` returns for those that pass it, and why the others cannot take part.
    pub(crate) fn sorted_out<T, E>(
        &self,
        check: impl Fn(&str) -> Result<T, E>,
    ) -> (Vec<T>, Vec<Refused<E>>) {
        let (mut able, mut refused) = (Vec::new(), Vec::new());
        for name in &self.names {
            match check(name) {
                Ok(passed) => able.push(passed),
                Err(error) => refused.push(Refused { name: name.clone(), error }),
            }
        }
        (able, refused)
    }

    /// The same, but one that the user chose has to pass.
    pub(crate) fn able<T, E: Into<BenchError> + Display>(
        &self,
        check: impl Fn(&str) -> Result<T, E>,
    ) -> Result<(Vec<T>, Vec<String>), BenchError> {
        let (able, refused) = self.sorted_out(check);
        let mut errors = refused.into_iter().map(|refused| refused.error);
        match errors.next() {
            Some(first) if self.chosen => Err(first.into()),
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
    use moexperts::{Cpu, CpuOptions};

    use super::*;

    fn refuse_eager(name: &str) -> Result<String, BenchError> {
        match name {
            "eager" => Err(BenchError::BrokenPipe),
            name => Ok(name.to_owned()),
        }
    }

    #[test]
    fn a_backend_that_cannot_is_left_out_unless_it_was_named() {
        let cpu = AnyDevice::from(Cpu::new(CpuOptions::default()).unwrap());
        let on_cpu = |names: &[&str]| {
            let names: Vec<String> = names.iter().copied().map(str::to_owned).collect();
            Backends::on_any(&cpu, &names)
        };
        let (able, reasons) = on_cpu(&[]).unwrap().able(refuse_eager).unwrap();
        assert_eq!(able, ["batched_mm", "grouped_mm"]);
        assert_eq!(reasons, ["standard output is closed"]);

        let named = on_cpu(&["grouped_mm", "eager"]).unwrap();
        assert_eq!(named.names(), ["grouped_mm", "eager"]);
        assert!(matches!(named.able(refuse_eager), Err(BenchError::BrokenPipe)));
        let unknown = on_cpu(&["grouped"]).unwrap_err();
        assert!(unknown.to_string().contains("grouped_mm"), "{unknown}");
    }
}
