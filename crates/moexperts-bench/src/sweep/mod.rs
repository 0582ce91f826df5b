//! `moexperts bench sweep`.

mod distinct;
mod folder;
mod group;
mod row;
mod state;
mod target;

use std::ffi::OsString;

use self::{distinct::distinct, state::Name};
pub(crate) use self::{folder::Folder, state::Sweep};
use crate::{args::BenchSweepArgs, error::BenchError, interrupts::Interrupts, load::DefaultModel};

pub(crate) fn run(
    args: &BenchSweepArgs,
    words: &[OsString],
    default: DefaultModel,
) -> Result<(), BenchError> {
    let folder = Folder::open(&args.out, args.resume)?;
    Interrupts::listen()?;
    let sweep = Sweep::new(args, words, folder, default)?;
    let dtypes = &distinct(&args.dtype);
    let targets: Vec<_> = distinct(&args.device)
        .into_iter()
        .flat_map(|device| dtypes.iter().map(move |&dtype| (device, dtype)))
        .collect();
    sweep.finish_with(|sweep| {
        for (index, &(device, dtype)) in targets.iter().enumerate() {
            sweep.targets_left = targets.len() - index - 1;
            match args.find(device) {
                Ok(found) => sweep.target(found, device, dtype)?,
                Err(error) => {
                    let name = Name { device: device.to_string(), dtype: None };
                    sweep.skip(name.skipped(error.to_string()));
                }
            }
        }
        sweep.results.planned = sweep.planned.len();
        Ok(())
    })
}
