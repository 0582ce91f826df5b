//! Errors of NVIDIA's driver.

use cudarc::driver::result::DriverError;
use moexperts_core::Error;

use crate::error::problem;

/// The driver's text of an error, with its name.
pub(super) fn text(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("{error:?}"),
    }
}

/// Makes an error of the driver one of this crate, which says what failed.
pub(super) fn refused(what: &str) -> impl Fn(DriverError) -> Error {
    move |error| problem(format!("{what}: {}", text(error)))
}
