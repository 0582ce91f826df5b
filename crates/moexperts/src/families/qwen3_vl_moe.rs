//! Qwen3-VL-MoE: the decoder of Qwen3-MoE with positions in time, height and width, and a vision
//! tower whose deepstack features enter its first layers.

use moexperts_core::RouterSpec;

use super::{
    family::Family,
    qwen3_moe,
    read::{
        Defaults, ExpertsKeys, MAX_DIMENSION, activation, activation_or, decoder, dimension,
        layers, num_experts,
    },
};
use crate::{
    blocks::{
        ExpertNames, ExpertTensors, FusedExperts, Moe, MoeNames, VisionSpec, VisionTokens,
        rope_parameters,
    },
    config::Config,
    error::{Error, Result},
    model::{DecoderSpec, ModelSpec},
    weights::Orientation,
};

pub(super) const FAMILY: Family = Family::image_text_to_text("qwen3_vl_moe", describe);

/// The published checkpoints store fused experts as [E, in, out].
const NAMES: &[MoeNames] = &[MoeNames {
    experts: ExpertTensors::Either(
        ExpertNames::LLAMA,
        FusedExperts { orientation: Orientation::InOut, ..FusedExperts::TRANSFORMERS },
    ),
    ..MoeNames::LLAMA
}];

fn describe(config: &Config) -> Result<ModelSpec> {
    let mut text = text(&config.sub_or_empty("text_config")?)?;
    text.model_type = config.required("model_type")?;
    // transformers ignores the key of `text_config`, which may say something else.
    text.tie_word_embeddings = config.or("tie_word_embeddings", false)?;
    let vision = vision(config, &config.sub_or_empty("vision_config")?)?;
    if vision.out_hidden_size != text.hidden_size {
        return Err(Error::Config {
            file: config.file().to_owned(),
            problem: format!(
                "key `vision_config.out_hidden_size` is {}, expected {}, the hidden_size of \
                 text_config",
                vision.out_hidden_size, text.hidden_size
            ),
        });
    }
    Ok(ModelSpec { text, vision: Some(vision) })
}

const DEFAULTS: Defaults = Defaults {
    kv_heads: Some(16),
    max_position_embeddings: 128_000,
    rope_theta: 5e5,
    ..Defaults::COMMON
};

fn text(config: &Config) -> Result<DecoderSpec> {
    let (mut spec, attention) = decoder(config, &DEFAULTS)?;
    spec.backbone = "text_config";
    spec.module = "model.language_model";
    spec.ropes[0].mrope_section = Some(mrope_section(config)?);
    let experts = num_experts(config, ExpertsKeys::LOCAL_FIRST, 60)?;
    let inner = dimension(config, "moe_intermediate_size", 1408)?;
    // Whatever `norm_topk_prob` says, as in transformers.
    let router = RouterSpec::softmax(config.or("num_experts_per_tok", 4)?, true);
    let moe = Moe { names: NAMES, ..Moe::new(experts, inner, router, activation(config)?) };
    let dense = dimension(config, "intermediate_size", 5632)?;
    spec.layers = qwen3_moe::layers(config, attention, &moe, dense, None)?;
    Ok(spec)
}

/// How many pairs of a head turn by time, height and width.
fn mrope_section(config: &Config) -> Result<[usize; 3]> {
    const DEFAULT: [usize; 3] = [24, 20, 20];
    let Some(parameters) = rope_parameters(config)? else { return Ok(DEFAULT) };
    parameters.or("mrope_section", DEFAULT)
}

fn vision(config: &Config, vision: &Config) -> Result<VisionSpec> {
    let spec = VisionSpec {
        backbone: "vision_config",
        module: "model.visual",
        depth: layers(vision, "depth", 27)?,
        hidden_size: dimension(vision, "hidden_size", 1152)?,
        intermediate_size: dimension(vision, "intermediate_size", 4304)?,
        heads: dimension(vision, "num_heads", 16)?,
        in_channels: dimension(vision, "in_channels", 3)?,
        patch_size: dimension(vision, "patch_size", 16)?,
        temporal_patch_size: dimension(vision, "temporal_patch_size", 2)?,
        spatial_merge_size: dimension(vision, "spatial_merge_size", 2)?,
        out_hidden_size: dimension(vision, "out_hidden_size", 3584)?,
        position_side: dimension(vision, "num_position_embeddings", 2304)?.isqrt(),
        deepstack_visual_indexes: vision.or("deepstack_visual_indexes", vec![8, 16, 24])?,
        activation: activation_or(vision, "gelu_pytorch_tanh")?,
        layer_norm_eps: 1e-6,
        rope_theta: rope_theta(vision)?,
        tokens: VisionTokens {
            image: config.or("image_token_id", 151_655)?,
            video: config.or("video_token_id", 151_656)?,
            vision_start: config.or("vision_start_token_id", 151_652)?,
            vision_end: config.or("vision_end_token_id", 151_653)?,
        },
    };
    check_vision(vision, &spec)?;
    Ok(spec)
}

/// Whether a tower of these sizes can be.
fn check_vision(vision: &Config, spec: &VisionSpec) -> Result<()> {
    let product = |sizes: &[usize]| {
        let product = sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        product.filter(|&product| product <= MAX_DIMENSION)
    };
    let patch = spec.patch_size;
    if product(&[spec.in_channels, spec.temporal_patch_size, patch, patch]).is_none() {
        let expected = format!("a patch of at most {MAX_DIMENSION} values");
        return Err(vision.refused("patch_size", &expected));
    }
    let merge = spec.spatial_merge_size;
    if product(&[spec.hidden_size, merge, merge]).is_none() {
        let expected = format!("merged patches of at most {MAX_DIMENSION} values");
        return Err(vision.refused("spatial_merge_size", &expected));
    }
    let side = spec.position_side;
    if dimension(vision, "num_position_embeddings", 2304)? != side * side {
        return Err(vision.refused("num_position_embeddings", "a square"));
    }
    if !spec.hidden_size.is_multiple_of(4 * spec.heads) {
        let expected = "a number of heads whose width is a multiple of 4";
        return Err(vision.refused("num_heads", expected));
    }
    if spec.deepstack_visual_indexes.iter().any(|&index| index >= spec.depth) {
        let expected = format!("layers below {}", spec.depth);
        return Err(vision.refused("deepstack_visual_indexes", &expected));
    }
    Ok(())
}

fn rope_theta(vision: &Config) -> Result<f64> {
    let Some(parameters) = vision.sub("rope_parameters")? else { return Ok(1e4) };
    let theta: f64 = parameters.or("rope_theta", 1e4)?;
    if theta > 0.0 { Ok(theta) } else { Err(parameters.refused("rope_theta", "a positive number")) }
}
