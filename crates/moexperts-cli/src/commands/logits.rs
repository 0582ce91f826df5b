//! `moexperts logits`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use safetensors::tensor::{Dtype, TensorView};

use super::load_model;
use crate::{args::LogitsArgs, error::CliError};

pub(super) fn run(args: &LogitsArgs) -> Result<(), CliError> {
    let model = load_model(&args.model)?;
    let logits = model.logits(&args.token_ids)?;
    let shape = [args.token_ids.len(), model.spec().vocab_size];
    write(&args.output, &serialize(shape, &logits))
        .map_err(|source| CliError::Write { path: args.output.clone(), source })?;
    eprintln!("wrote {}: logits [{}, {}] f32", args.output.display(), shape[0], shape[1]);
    Ok(())
}

fn serialize(shape: [usize; 2], logits: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = logits.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F32, shape.to_vec(), &bytes)
        .expect("the model gives one row of logits a token");
    safetensors::serialize([("logits", tensor)], None).expect("one tensor has a valid header")
}

/// Writes beside the file, then renames: a reader sees the old file or the new one, never a part.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut partial = path.to_owned().into_os_string();
    partial.push(format!(".{}.part", process::id()));
    let partial = PathBuf::from(partial);
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&partial);
    }
    written
}
