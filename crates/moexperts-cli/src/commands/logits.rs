//! `moexperts logits`.

use moexperts::{AnyDevice, Image, LanguageModel, PixelValues, Prompt, Visual};
use moexperts_bench::output::{file, note};
use safetensors::tensor::{Dtype, TensorView};

use super::{encode, load_model, open_images, prepare_images};
use crate::{args::LogitsArgs, error::CliError};

pub(super) fn run(args: &LogitsArgs) -> Result<(), CliError> {
    file::check(&args.output)?;
    let images = open_images(&args.image)?;
    write(args, &images, args.model.load.device.find()?)
}

pub(super) fn write(
    args: &LogitsArgs,
    images: &[Image],
    device: AnyDevice,
) -> Result<(), CliError> {
    let model = load_model(device, &args.model)?;
    let visuals = prepare_images(&model, images)?;
    let prompt = match &args.prompt {
        Some(text) => encode(&model, text, &visuals)?,
        None => model.prompt_of_tokens(args.token_ids.clone(), visuals.clone())?,
    };
    let tensors = tensors(&model, &prompt, &visuals)?;
    file::replace(&args.output, &serialize(&tensors))?;
    let shapes: Vec<String> =
        tensors.iter().map(|tensor| format!("{} {:?}", tensor.name, tensor.shape)).collect();
    note(format_args!("wrote {}: {}", args.output.display(), shapes.join(", ")));
    Ok(())
}

struct Tensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn f32(name: &'static str, shape: Vec<usize>, values: impl Iterator<Item = f32>) -> Self {
        let bytes = values.flat_map(f32::to_le_bytes).collect();
        Self { name, dtype: Dtype::F32, shape, bytes }
    }

    fn i64(name: &'static str, shape: Vec<usize>, values: impl Iterator<Item = i64>) -> Self {
        let bytes = values.flat_map(i64::to_le_bytes).collect();
        Self { name, dtype: Dtype::I64, shape, bytes }
    }
}

fn tensors(
    model: &LanguageModel,
    prompt: &Prompt,
    visuals: &[Visual],
) -> Result<Vec<Tensor>, CliError> {
    let logits = model.logits(prompt.clone())?;
    let ids = prompt.tokens();
    let mut tensors = vec![
        Tensor::f32("logits", vec![ids.len(), model.spec().vocab_size], logits.into_iter()),
        Tensor::i64("input_ids", vec![ids.len()], ids.iter().copied().map(i64::from)),
    ];
    if let Some(first) = visuals.first() {
        let pixels = || visuals.iter().map(Visual::pixels);
        let patches = pixels().map(PixelValues::patches).sum();
        let shape = vec![patches, first.pixels().patch_len()];
        let values = pixels().flat_map(|pixels| pixels.values().iter().copied());
        tensors.push(Tensor::f32("pixel_values", shape, values));
        let grids = pixels().flat_map(PixelValues::grid_thw).map(|size| size as i64);
        tensors.push(Tensor::i64("image_grid_thw", vec![visuals.len(), 3], grids));
    }
    Ok(tensors)
}

fn serialize(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|Tensor { name, dtype, shape, bytes }| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (*name, view.expect("a tensor has as many values as its shape"))
    });
    safetensors::serialize(views, None).expect("a few tensors have a valid header")
}
