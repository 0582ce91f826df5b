"""Tiny configs of any model, made by shrinking the fields of its config by their names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

HIDDEN = 64
HEADS = 4
HEAD_DIM = HIDDEN // HEADS
LAYERS = 4
VOCAB = 128
EXPERTS = 8
# No power of two, so that kernels meet their tails.
MOE_INTERMEDIATE = 40
EXPERTS_PER_TOKEN = 3

PAD, BOS, EOS = 0, 1, 2
# Every other special token of a config gets a separate id, from here up to FIRST_TEXT_ID.
FIRST_SPECIAL_ID = 3
FIRST_TEXT_ID = 32

# The projections then keep the scale of their input (1 / sqrt(HIDDEN)), so that the experts weigh
# as much in the output as in a trained model; with the usual 0.02 they vanish beside the tolerance.
INITIALIZER_RANGE = HIDDEN**-0.5

# Fields that many configs share. A field is shrunk where the config has it; a field with the default
# None keeps it, as None switches a feature off.
SHRUNK: Mapping[str, Any] = {
    **dict.fromkeys(
        [
            "adapter_in_dim",
            "adapter_input_size",
            "adapter_out_dim",
            "d_model",
            "decoder_dim",
            "downsample_hidden_size",
            "hidden_size",
            "moe_hidden_size",
            "out_hidden_size",
            "output_dim",
            "output_proj_dims",
            "projection_hidden_dim",
            "projector_hidden_size",
            "text_hidden_size",
            "thinker_hidden_size",
        ],
        HIDDEN,
    ),
    **dict.fromkeys(
        [
            "dense_intermediate_size",
            "encoder_ffn_dim",
            "intermediate_size",
            "mlp_dim",
            "prefix_dense_intermediate_size",
            "projection_intermediate_size",
        ],
        96,
    ),
    "moe_intermediate_size": MOE_INTERMEDIATE,
    **dict.fromkeys(
        [
            "moe_shared_expert_intermediate_size",
            "shared_expert_intermediate_size",
            "shared_experts_intermediate_size",
            "shared_intermediate_size",
        ],
        48,
    ),
    "num_hidden_layers": LAYERS,
    **dict.fromkeys(["depth", "encoder_layers"], 2),
    **dict.fromkeys(
        [
            "encoder_attention_heads",
            "index_n_heads",
            "linear_num_heads",
            "linear_num_value_heads",
            "mamba_n_heads",
            "mamba_num_heads",
            "num_attention_heads",
            "num_heads",
            "swa_num_attention_heads",
        ],
        HEADS,
    ),
    **dict.fromkeys(["linear_num_key_heads", "n_groups", "o_groups"], 2),
    **dict.fromkeys(
        [
            "global_head_dim",
            "head_dim",
            "index_head_dim",
            "linear_head_dim",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "mamba_chunk_size",
            "mamba_d_state",
            "mamba_head_dim",
            "ssm_state_size",
            "swa_head_dim",
            "v_head_dim",
        ],
        HEAD_DIM,
    ),
    **dict.fromkeys(["qk_nope_head_dim", "qk_rope_head_dim", "rotary_dim"], HEAD_DIM // 2),
    **dict.fromkeys(
        ["kv_lora_rank", "o_lora_rank", "q_lora_rank", "router_hidden_size", "output_channels"], 32
    ),
    **dict.fromkeys(
        ["moe_num_experts", "n_routed_experts", "num_experts", "num_local_experts"], EXPERTS
    ),
    **dict.fromkeys(["n_group", "num_expert_group"], 2),
    "topk_group": 1,
    **dict.fromkeys(["first_k_dense_replace", "num_dense_layers"], 1),
    **dict.fromkeys(["attn_layer_period", "layer_group_size"], 2),
    "attn_layer_offset": 1,
    "canvas_length": 16,
    # Small enough to clamp something.
    "swiglu_limit": 0.5,
    "unpadded_vocab_size": VOCAB,
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    **dict.fromkeys(["max_position_embeddings", "model_max_length"], 256),
    **dict.fromkeys(["deepstack_visual_indexes", "global_attn_indexes"], [0, 1]),
    "hidden_sizes": [HIDDEN] * 4,
    "initializer_range": INITIALIZER_RANGE,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}

# Fields that get a value although they are None by default: without it the model has no experts,
# cannot be built, or cannot classify a batch.
GIVEN: Mapping[str, Any] = {
    "enable_moe_block": True,
    "head_dim": HEAD_DIM,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "indexer_head_dim": HEAD_DIM,
    "indexer_kv_heads": 1,
    "indexer_n_heads": HEADS,
    "moe_intermediate_size": MOE_INTERMEDIATE,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts": EXPERTS,
    "pad_token_id": PAD,
}

# The names under which a config says how many experts a token goes to.
PER_TOKEN = ["moe_k", "moe_topk", "num_experts_per_tok", "num_experts_per_token", "top_k_experts"]

# What a name cannot tell, by config class.
BY_CLASS: Mapping[str, Mapping[str, Any]] = {
    # The sizes of layers with a sliding window, which are no fields.
    "Dots3NoteTextConfig": {
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": 32,
        "swa_kv_lora_rank": 32,
        "swa_head_dim": HEAD_DIM,
        "swa_qk_nope_head_dim": HEAD_DIM // 2,
        "swa_v_head_dim": HEAD_DIM,
    },
    # The default types are of 42 layers, whatever num_hidden_layers says.
    "Dots3NoteVisionConfig": {"mlp_layer_types": ["dense"] + ["sparse"] * (LAYERS - 1)},
    # One size for the experts of text, one for those of images.
    "Ernie4_5_VLMoeTextConfig": {"moe_intermediate_size": [MOE_INTERMEDIATE, 24]},
    # The default sections are refused with small heads, before those that fit are derived.
    "HYV4VLTextConfig": {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2, 1]}},
    # Read by the modeling file, declared nowhere.
    "Qwen3OmniMoeTalkerConfig": {"spatial_merge_size": 2},
    "Qwen3OmniMoeTalkerTextConfig": {"shared_expert_intermediate_size": 48},
    "Qwen3OmniMoeThinkerConfig": {"vision_start_token_id": FIRST_TEXT_ID - 1},
}


def tiny_config(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A config of few, small layers with some experts, its sub-configs shrunk too."""
    defaults = _defaults(config_class)
    values = {name: _tiny(name, value, defaults) for name, value in defaults.items()}
    values = {name: value for name, value in values.items() if value is not UNCHANGED}
    values |= _special_tokens(defaults) | _sub_configs(config_class)
    # A classified sequence then brings as many numbers as its hidden state.
    values["num_labels"] = HIDDEN
    values |= BY_CLASS.get(config_class.__name__, {})
    config = config_class(**values)
    derived = _layer_types(config, defaults) | _rope_sections(config)
    return config_class(**values | derived) if derived else config


UNCHANGED = object()


def _tiny(name: str, default: Any, defaults: Mapping[str, Any]) -> Any:
    if name in PER_TOKEN:
        # Routers of one expert per token are made for it.
        return 1 if default == 1 else EXPERTS_PER_TOKEN
    if name.endswith("num_key_value_heads") and default is not None:
        # Latent attention has as many as there are heads.
        return HEADS if default == defaults.get("num_attention_heads") else min(default, 2)
    if default is None or default is False:
        return GIVEN.get(name, UNCHANGED)
    if default == 0:
        return UNCHANGED
    return SHRUNK.get(name, UNCHANGED)


def _defaults(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(config_class) if field.init}


def _special_tokens(defaults: Mapping[str, Any]) -> dict[str, int]:
    """Ids in the vocabulary, all different and in no text, for the tokens of images and such."""
    endings = ("token_id", "token_index", "_bos_id", "_eos_id", "_pad_id", "_nothink_id")
    names = [
        name
        for name, value in defaults.items()
        if name.endswith(endings) and isinstance(value, int) and name not in SHRUNK
    ]
    return {name: FIRST_SPECIAL_ID + index for index, name in enumerate(names)}


def _sub_configs(config_class: type[PreTrainedConfig]) -> dict[str, PreTrainedConfig]:
    if not config_class.sub_configs:
        return {}
    default = config_class()
    subs = {name: getattr(default, name, None) for name in config_class.sub_configs}
    return {name: tiny_config(type(sub)) for name, sub in subs.items() if sub is not None}


def _layer_types(config: PreTrainedConfig, defaults: Mapping[str, Any]) -> dict[str, list[str]]:
    """Lists of layer types with attention and experts, where the derived ones lack either."""
    result = {}
    if "layer_types" in defaults:
        types = config.layer_types
        if types is None:
            result["layer_types"] = ["full_attention"] * LAYERS
        elif set(types) == {"linear_attention"}:
            result["layer_types"] = ["linear_attention", "full_attention"] * (LAYERS // 2)
    if "mlp_layer_types" in defaults:
        types = config.mlp_layer_types
        if types is None or "dense" in types:
            result["mlp_layer_types"] = ["dense"] + ["sparse"] * (LAYERS - 1)
    return result


def _rope_sections(config: PreTrainedConfig) -> dict[str, Any]:
    """Sections of rotary dimensions for time, height and width that fit the small heads."""
    if "mrope_section" not in getattr(config, "ignore_keys_at_rope_validation", set()):
        return {}
    rope = config.rope_parameters
    head_dim = getattr(config, "head_dim", HEAD_DIM)
    pairs = int(head_dim * rope.get("partial_rotary_factor", 1.0)) // 2
    # Two equal ones come first, as those are height and width where they come first.
    third = pairs // 4 + pairs % 2
    second = (pairs - third) // 2
    return {"rope_parameters": rope | {"mrope_section": [second, pairs - third - second, third]}}
