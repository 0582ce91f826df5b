//! `moexperts logits`.

use safetensors::tensor::{Dtype, TensorView};

use super::load_model;
use crate::{args::LogitsArgs, error::CliError, output_file};

pub(super) fn run(args: &LogitsArgs) -> Result<(), CliError> {
    output_file::check(&args.output)?;
    let model = load_model(&args.model)?;
    let logits = model.logits(&args.token_ids)?;
    let shape = [args.token_ids.len(), model.spec().vocab_size];
    output_file::replace(&args.output, &serialize(shape, &logits))?;
    eprintln!("wrote {}: logits [{}, {}] f32", args.output.display(), shape[0], shape[1]);
    Ok(())
}

fn serialize(shape: [usize; 2], logits: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = logits.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F32, shape.to_vec(), &bytes)
        .expect("the model gives one row of logits a token");
    safetensors::serialize([("logits", tensor)], None).expect("one tensor has a valid header")
}
