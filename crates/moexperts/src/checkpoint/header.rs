//! What the header of a safetensors file says: eight bytes of length, then JSON that gives each
//! tensor its dtype, shape and place in the data behind it.

use std::ops::Range;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;
use serde_json::Value;

/// Bytes of the length in front of the JSON.
const LENGTH_BYTES: usize = 8;

/// One tensor as the header describes it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Where it lies in the file.
    pub(super) bytes: Range<usize>,
}

/// Reads the header of a whole file; the tensors lie inside it, and cover its data without
/// overlap or gap.
///
/// # Errors
/// What is wrong with the file, in words.
pub(super) fn read(file: &[u8]) -> Result<Vec<(String, Entry)>, String> {
    let json = json_of(file)?;
    // `SafeTensors::read_metadata` does the same, but adds lengths from the file unchecked and
    // says neither which tensor is wrong nor by how much.
    let metadata: Metadata = serde_json::from_slice(json).map_err(|error| explain(json, &error))?;
    let start = LENGTH_BYTES + json.len();
    let described = metadata.data_len();
    let stored = file.len() - start;
    if described > stored {
        return Err(format!(
            "truncated: the header describes {described} bytes of tensors, the file has {stored}"
        ));
    }
    if described < stored {
        return Err(format!(
            "the header describes {described} bytes of tensors, the file has {stored}"
        ));
    }
    let entry = |info: &TensorInfo| Entry {
        dtype: info.dtype,
        shape: info.shape.clone(),
        bytes: start + info.data_offsets.0..start + info.data_offsets.1,
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect())
}

/// The JSON of the header.
fn json_of(file: &[u8]) -> Result<&[u8], String> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(match file.len() {
            0 => "the file is empty".to_owned(),
            len => format!("the file has only {len} bytes, too few for a safetensors header"),
        });
    };
    if file.starts_with(b"version https://git-lfs") {
        return Err(
            "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`".into()
        );
    }
    let length = u64::from_le_bytes(*length);
    usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(|| {
        format!("the header of {length} bytes ends beyond the file of {} bytes", file.len())
    })
}

/// Says in words why safetensors refused a header.
fn explain(json: &[u8], error: &serde_json::Error) -> String {
    let header = match serde_json::from_slice(json) {
        Ok(Value::Object(header)) => header,
        Ok(_) => return "the header is not a JSON object".to_owned(),
        Err(error) => return format!("broken JSON in the header: {error}"),
    };
    let mut tensors = Vec::new();
    for (name, value) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        match TensorInfo::deserialize(value) {
            Ok(info) => tensors.push((name, info)),
            Err(error) => return format!("tensor `{name}`: {error}"),
        }
    }
    tensors.sort_by_key(|(name, info)| (info.data_offsets, *name));
    misplaced(&tensors).unwrap_or_else(|| format!("unusable header: {error}"))
}

/// The first tensor, in order of place, that is not where or what it should be.
fn misplaced(tensors: &[(&String, TensorInfo)]) -> Option<String> {
    let mut end = 0;
    let mut previous = "";
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        if to < from {
            return Some(format!("tensor `{name}` starts at byte {from} and ends at byte {to}"));
        }
        if from < end {
            return Some(format!(
                "tensor `{name}` starts at byte {from}, inside `{previous}` that ends at byte {end}"
            ));
        }
        if from > end {
            return Some(format!(
                "tensor `{name}` starts at byte {from}, but the bytes from {end} on belong to no \
                 tensor"
            ));
        }
        let (shape, dtype, held) = (&info.shape, info.dtype, to - from);
        match size_bits(info).map(|bits| (bits / 8, bits % 8)) {
            Some((bytes, 0)) if bytes == held => {}
            Some((bytes, 0)) => {
                return Some(format!(
                    "tensor `{name}` of shape {shape:?} and dtype {dtype} needs {bytes} bytes, \
                     its offsets hold {held}"
                ));
            }
            Some(_) => {
                return Some(format!(
                    "tensor `{name}` of shape {shape:?} and dtype {dtype} does not fill its last \
                     byte"
                ));
            }
            None => {
                return Some(format!("tensor `{name}` has the impossible shape {shape:?}"));
            }
        }
        (end, previous) = (to, name);
    }
    None
}

fn size_bits(info: &TensorInfo) -> Option<usize> {
    let elements = info.shape.iter().try_fold(1_usize, |elements, &dim| elements.checked_mul(dim));
    elements?.checked_mul(info.dtype.bitsize())
}
