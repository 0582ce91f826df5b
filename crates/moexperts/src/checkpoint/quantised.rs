//! Quantised checkpoints, which are not read: what they are, and what a person can do.

use safetensors::Dtype;

/// The end of a sentence on weights quantised by a method, as `quant_method` names it.
pub(crate) fn way_out(method: &str) -> String {
    let dequantised = |how: &str| {
        format!("load it with transformers and {how}, and save it, or take an unquantised copy")
    };
    match method {
        "mxfp4" => dequantised("`Mxfp4Config(dequantize=True)`"),
        "fp8" => dequantised("`FineGrainedFP8Config(dequantize=True)`"),
        "compressed-tensors" => dequantised("`CompressedTensorsConfig(dequantize=True)`"),
        "bitsandbytes" => dequantised("`model.dequantize()`"),
        _ => "take the unquantised model that it was made from".to_owned(),
    }
}

/// What the weights are quantised by, as far as the element type of a needed tensor tells.
pub(super) fn by_dtype(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ => Some("fp8"),
        Dtype::U8 | Dtype::I8 | Dtype::F4 => Some("8 or 4 bits"),
        Dtype::I32 | Dtype::U32 => Some("GPTQ, AWQ or the like"),
        _ => None,
    }
}

/// What the weights are quantised by, as far as tensors tell that stand in the place of `name`.
pub(super) fn by_names(name: &str, contains: impl Fn(&str) -> bool) -> Option<&'static str> {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let parts = [
        ("_blocks", "mxfp4"),
        (".qweight", "GPTQ or AWQ"),
        (".weight_packed", "compressed-tensors"),
        (".weight.absmax", "bitsandbytes"),
    ];
    parts.into_iter().find(|(end, _)| contains(&format!("{stem}{end}"))).map(|(_, method)| method)
}
