//! Tensors as the image of a safetensors file: eight bytes of length, JSON that says where each
//! tensor lies, then the tensors without gaps. Written here, because the format's crate makes one
//! only of tensors that are already somewhere else.

use moexperts::{DType, weights::TensorKind};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::tensors::Tensor;
use crate::pool::{ALIGNMENT, Pool, SCALE, Uniform};

/// The largest value of an embedding. Attention adds about the same to every token of a sequence:
/// unless the tokens' own values are larger, all choose the same experts after a few layers.
const EMBEDDING_SCALE: f32 = 4.0;

/// The image of tensors that are sorted by their kinds.
pub(crate) fn of(tensors: &[Tensor], dtype: DType, seed: u64, threads: usize) -> Pool {
    let size_bytes = |tensor: &Tensor| tensor.shape.iter().product::<usize>() * dtype.size_bytes();
    let header = header(tensors, dtype, size_bytes);
    let data_bytes: usize = tensors.iter().map(size_bytes).sum();
    let mut image = Pool::zeros(header.len() + data_bytes);
    image.bytes_mut()[..header.len()].copy_from_slice(&header);
    let mut end = header.len();
    for tensors in tensors.chunk_by(|a, b| a.kind == b.kind) {
        let start = end;
        end += tensors.iter().map(size_bytes).sum::<usize>();
        let uniform = |limit, purpose| Uniform { dtype, limit, seed, purpose };
        match tensors[0].kind {
            TensorKind::Embedding => image.fill(start..end, uniform(EMBEDDING_SCALE, 0), threads),
            TensorKind::Norm => image.repeat(start..end, 1.0, dtype),
            TensorKind::Bias => image.repeat(start..end, 0.0, dtype),
            _ => image.fill(start..end, uniform(SCALE, 1), threads),
        }
    }
    image
}

/// What stands before the data, padded so that the data is aligned as the image is.
fn header(tensors: &[Tensor], dtype: DType, size_bytes: impl Fn(&Tensor) -> usize) -> Vec<u8> {
    let dtype = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    };
    let mut end = 0;
    let info = |tensor: &Tensor| {
        let start = end;
        end += size_bytes(tensor);
        let shape = tensor.shape.clone();
        (tensor.name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    };
    let infos = tensors.iter().map(info).collect();
    let metadata = Metadata::new(None, infos).expect("tensors lie one after another");
    let json = serde_json::to_vec(&metadata).expect("names and numbers are JSON");
    let end = (size_of::<u64>() + json.len()).next_multiple_of(ALIGNMENT);
    let mut header = ((end - size_of::<u64>()) as u64).to_le_bytes().to_vec();
    header.extend(json);
    // Spaces at its end belong to the JSON.
    header.resize(end, b' ');
    header
}
