#!/usr/bin/env python3
"""Writes what transformers makes of config.json files, into `configs/`.

    pip install -r requirements.txt
    python make_config_goldens.py

`families.json`: for each family a config with hardly a key, and the same with further keys: the
tensors of the model (layer numbers as `*`: shape and how often) and the numbers that it computes
with. `rope.json`: frequencies of rotary embeddings in every dialect. Models are made without memory
for their weights.
"""

import json
import logging
import os
import re
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

HERE = Path(__file__).parent / "configs"
VISION = {"vision_config": {"out_hidden_size": 2048}}
TEXT = ["gpt_oss", "granitemoe", "minimax_m2", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"]
FOUR = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]

# Keys that are added to a config, one set at a time.
KEYS = [
    {"vocab_size": 1000},
    {"vocab_size": None},
    {"hidden_size": 1536},
    {"intermediate_size": 96},
    {"moe_intermediate_size": 96},
    {"shared_expert_intermediate_size": 96},
    {"num_attention_heads": 16},
    {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 1024},
    {"num_key_value_heads": 2},
    {"num_key_value_heads": None},
    {"head_dim": 32},
    {"head_dim": None},
    {"num_experts": 16},
    {"num_local_experts": 16},
    {"num_experts": 20, "num_local_experts": 24},
    {"num_experts_per_tok": 3},
    {"norm_topk_prob": True},
    {"rms_norm_eps": 1e-4},
    {"max_position_embeddings": 100},
    {"tie_word_embeddings": True},
    {"attention_bias": True},
    {"attention_bias": False},
    {"qkv_bias": False},
    {"mlp_bias": True},
    {"use_sliding_window": True},
    {"sliding_window": 7},
    {"sliding_window": 7, "use_sliding_window": True},
    {"use_sliding_window": True, "max_window_layers": 2},
    {"use_sliding_window": True, "layer_types": FOUR},
    {"layer_types": FOUR},
    {"layer_types": ["attention", "sliding_attention", "attention", "sliding_attention"]},
    {"layer_types": FOUR[:3]},
    {"layer_types": ["full"] * 4},
    {"decoder_sparse_step": 2},
    {"mlp_only_layers": [1, 3]},
    {"mlp_only_layers": None},
    {"hidden_act": "gelu"},
    {"hidden_act": "gelu_pytorch_tanh"},
    {"clip_qkv": 8.0},
    {"attention_multiplier": 0.5},
    {"rotary_dim": 64},
    {"rope_theta": 500.0},
]

# Rotary embeddings: the family, its keys, and lengths of sequences (0: none has been seen).
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    "original_max_position_embeddings": 64,
}


def without(kind, *keys):
    return {key: value for key, value in kind.items() if key not in keys}


ROPE = [
    ("qwen3_moe", {}),
    ("qwen3_moe", {"rope_theta": 777.0}),
    ("qwen3_moe", {"rope_scaling": {}}),
    ("qwen3_moe", {"rope_scaling": None, "rope_parameters": None}),
    ("qwen3_moe", {"rope_scaling": {}, "rope_parameters": {"rope_type": "default", "rope_theta": 55.0}}),
    ("qwen3_moe", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 55.0}}),
    ("qwen3_moe", {"rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 55.0}, "rope_theta": 66.0}),
    ("qwen3_moe", {"rope_parameters": {"rope_theta": 55.0}, "rope_theta": 66.0}),
    ("qwen3_moe", {"rope_parameters": {}, "rope_theta": 66.0}),
    ("qwen3_moe", {"rope_parameters": {"type": "linear", "rope_type": "default", "factor": 2.0}}),
    ("qwen3_moe", {"rope_parameters": {"type": "linear", "factor": 2.0}}),
    ("qwen3_moe", {"rope_parameters": {"rope_type": "linear", "factor": 0.5, "surplus": 1}}),
    ("qwen3_moe", {"rope_parameters": {"rope_type": "linear"}}),
    ("qwen3_moe", {"rope_parameters": {"rope_type": "linear", "factor": None}}),
    ("qwen3_moe", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
    ("qwen3_moe", {"rope_parameters": {"rope_type": "dynamic"}}),
    ("qwen3_moe", {"rope_parameters": {"rope_type": "su", **without(LONG, "rope_type")}}),
    ("qwen3_moe", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}),
    ("qwen3_moe", {"rope_scaling": {"type": "ntk", "factor": 2.0}}),
    ("qwen3_moe", {"rope_parameters": YARN}),
    ("qwen3_moe", {"rope_scaling": {**without(YARN, "rope_type"), "type": "yarn"}}),
    ("qwen3_moe", {"rope_parameters": without(YARN, "factor")}),
    ("qwen3_moe", {"rope_parameters": {**YARN, "factor": None}}),
    ("qwen3_moe", {"rope_parameters": without(YARN, "original_max_position_embeddings")}),
    ("qwen3_moe", {"rope_parameters": without(YARN, "original_max_position_embeddings"), "original_max_position_embeddings": 32}),
    ("qwen3_moe", {"rope_parameters": YARN, "original_max_position_embeddings": 32}),
    ("qwen3_moe", {"rope_parameters": {**YARN, "attention_factor": 0.75}}),
    ("qwen3_moe", {"rope_parameters": {**YARN, "attention_factor": None, "mscale": 1.0, "mscale_all_dim": 0.7}}),
    ("qwen3_moe", {"rope_parameters": {**YARN, "mscale": 0.0, "mscale_all_dim": 0.7}}),
    ("qwen3_moe", {"rope_parameters": {**YARN, "beta_fast": 4.0, "beta_slow": 2.0}}),
    ("qwen3_moe", {"rope_parameters": {**YARN, "beta_fast": 1.0, "beta_slow": 8.0}}),
    ("qwen3_moe", {"rope_parameters": {**YARN, "beta_fast": 0, "beta_slow": None}}),
    ("qwen3_moe", {"rope_parameters": {**YARN, "truncate": False}}),
    ("qwen3_moe", {"rope_parameters": {**YARN, "truncate": None}}),
    ("qwen3_moe", {"rope_parameters": {**YARN, "factor": 3.0}}),
    ("qwen3_moe", {"rope_parameters": LONG}),
    ("qwen3_moe", {"rope_parameters": {**LONG, "factor": 2.0}}),
    ("qwen3_moe", {"rope_parameters": {**LONG, "attention_factor": 1.25}}),
    ("qwen3_moe", {"rope_parameters": without(LONG, "original_max_position_embeddings"), "original_max_position_embeddings": 32}),
    ("qwen3_moe", {"rope_parameters": {**LONG, "long_factor": [1.0, 2.0]}}),
    ("qwen3_moe", {"rope_parameters": without(LONG, "short_factor")}),
    ("qwen3_moe", {"rope_parameters": LLAMA3}),
    ("qwen3_moe", {"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0, "high_freq_factor": 1.0}}),
    ("qwen3_moe", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 256}}),
    ("qwen3_moe", {"rope_parameters": without(LLAMA3, "original_max_position_embeddings")}),
    ("qwen3_moe", {"rope_parameters": without(LLAMA3, "high_freq_factor")}),
    ("qwen3_moe", {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.5}}),
    ("qwen3_moe", {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.3, "factor": 2.0}}),
    ("qwen3_moe", {"rope_parameters": {"rope_type": "proportional"}}),
    ("qwen3_moe", {"partial_rotary_factor": 0.5}),
    ("qwen3_moe", {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}),
    ("qwen2_moe", {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}),
    ("gpt_oss", {}),
    ("gpt_oss", {"rope_scaling": {}}),
    ("gpt_oss", {"rope_scaling": None}),
    ("gpt_oss", {"rope_parameters": {}}),
    ("gpt_oss", {"rope_parameters": None, "rope_theta": 1000.0}),
    ("gpt_oss", {"rope_scaling": YARN}),
    ("gpt_oss", {"original_max_position_embeddings": 64}),
    ("gpt_oss", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
    ("minimax_m2", {}),
    ("minimax_m2", {"rotary_dim": 8}),
    ("minimax_m2", {"rotary_dim": 8, "partial_rotary_factor": 0.25}),
    ("minimax_m2", {"rotary_dim": 8, "rope_parameters": {"partial_rotary_factor": 0.25}}),
    ("minimax_m2", {"rotary_dim": 8, "rope_parameters": YARN}),
    ("minimax_m2", {"partial_rotary_factor": 0.5, "rope_theta": 100.0}),
    ("mixtral", {}),
    ("olmoe", {}),
    ("granitemoe", {}),
    ("qwen2_moe", {}),
    ("qwen3_vl_moe", {}),
    ("qwen3_vl_moe", {"rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}}),
    ("qwen3_vl_moe", {"rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}}),
    ("qwen3_vl_moe", {"rope_scaling": YARN}),
]
SMALL = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "num_hidden_layers": 2, "max_position_embeddings": 256,
}


def config_of(family, keys):
    return CONFIG_MAPPING[family].from_dict({"model_type": family, **json.loads(json.dumps(keys))})


def model_of(config):
    auto = AutoModelForImageTextToText if config.model_type == "qwen3_vl_moe" else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config)


def facts(family, keys):
    config = config_of(family, keys)
    model = model_of(config)
    text = config.get_text_config()
    decoder = model.model.language_model if family == "qwen3_vl_moe" else model.model
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        pattern = re.sub(r"\.\d+\.", ".*.", name)
        shape, count = tensors.get(pattern, (list(tensor.shape), 0))
        assert shape == list(tensor.shape)
        tensors[pattern] = (shape, count + 1)
    out = {f"tensor {name}": [*shape, count] for name, (shape, count) in tensors.items()}
    layers = decoder.layers
    attention = layers[0].self_attn
    windows = [getattr(layer.self_attn, "sliding_window", None) or None for layer in layers]
    if family == "mixtral":
        windows = [config.sliding_window] * len(layers)
    feed_forward = [getattr(layer, "mlp", None) or layer.block_sparse_moe for layer in layers]
    out |= {
        "rms_norm_eps": decoder.norm.variance_epsilon,
        "max_position_embeddings": text.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "windows": windows,
        "sparse": [i for i, block in enumerate(feed_forward) if hasattr(block, "experts")],
        "top_k": text.num_experts_per_tok,
        "scale": attention.scaling,
        "rope_theta": text.rope_parameters["rope_theta"],
    }
    if family in ("olmoe", "qwen2_moe", "qwen3_moe"):
        out["norm_topk_prob"] = text.norm_topk_prob
    if family == "olmoe":
        out["clip_qkv"] = text.clip_qkv
    if family != "gpt_oss":
        out["hidden_act"] = text.hidden_act
    return out


def attempt(make):
    try:
        return make()
    except Exception as error:  # what a person sees is an error, of whatever kind
        return {"error": type(error).__name__}


def families():
    cases = []
    for family in [*TEXT, "qwen3_vl_moe"]:
        vl = family == "qwen3_vl_moe"
        width = lambda keys: {"out_hidden_size": keys.get("hidden_size", 2048)}
        wrap = (lambda keys: {"vision_config": width(keys), "text_config": keys}) if vl else (lambda keys: keys)
        bare = facts(family, VISION if vl else {})
        cases.append({"model_type": family, "config": VISION if vl else {}, "facts": bare})
        base = facts(family, wrap({"num_hidden_layers": 4}))
        cases.append({"model_type": family, "config": wrap({"num_hidden_layers": 4}), "facts": base})
        for keys in KEYS:
            keys = {"num_hidden_layers": 4, **keys}
            if vl and "tie_word_embeddings" in keys:
                continue
            if family == "olmoe" and keys.get("head_dim"):
                continue  # its norms keep their widths, and a forward pass fails
            got = attempt(lambda: facts(family, wrap(keys)))
            case = {"model_type": family, "config": wrap(keys)}
            if "error" in got:
                case["error"] = got["error"]
            else:
                # Only what differs from the case with four layers; null: is not there.
                case["changed"] = {
                    key: got.get(key) for key in base.keys() | got.keys() if base.get(key) != got.get(key)
                }
                case["changed"] = dict(sorted(case["changed"].items()))
            cases.append(case)
    return cases


def rope(family, keys):
    vl = family == "qwen3_vl_moe"
    keys = {**SMALL, **keys}
    config = config_of(family, {**VISION, "text_config": keys} if vl else keys)
    text = config.get_text_config()
    module = __import__(f"transformers.models.{family}.modeling_{family}", fromlist=["x"])
    name = next(n for n in dir(module) if n.endswith("RotaryEmbedding") and "Vision" not in n)
    embedding = getattr(module, name)(text)
    lengths = {}
    heads = torch.zeros(1, 1, text.hidden_size)
    for length in (1, 64, 65, 256, 257, 1000):
        positions = torch.arange(length)[None]
        cos, _ = embedding(heads, positions[None].expand(3, 1, -1) if vl else positions)
        # The halves of a head turn alike; a family that turns a part of a head cuts it off.
        assert cos.shape[-1] == 2 * len(embedding.inv_freq) or family == "gpt_oss"
        lengths[str(length)] = [float(value) for value in embedding.inv_freq]
    if len(set(map(tuple, lengths.values()))) == 1:
        lengths = {"1": lengths["1"]}
    if 2 * len(embedding.inv_freq) != text.head_dim and family != "minimax_m2":
        raise ValueError("turns a part of a head, which the model fails at")
    return {"inv_freq": lengths, "attention_scaling": float(embedding.attention_scaling)}


def main():
    logging.disable(logging.WARNING)
    HERE.mkdir(exist_ok=True)
    ropes = []
    for family, keys in ROPE:
        keys_of = {"text_config": {**SMALL, **keys}, **VISION} if family == "qwen3_vl_moe" else {**SMALL, **keys}
        if family == "qwen3_vl_moe":
            keys_of["vision_config"] = {"out_hidden_size": SMALL["hidden_size"]}
        got = attempt(lambda: rope(family, keys))
        ropes.append({"config": {"model_type": family, **keys_of}, **got})
    for name, cases in (("families", families()), ("rope", ropes)):
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        (HERE / f"{name}.json").write_text(f"[\n{lines}\n]\n")
    print(transformers.__version__, len(ropes), "rotary embeddings")


if __name__ == "__main__":
    main()
