#!/usr/bin/env python3
"""Writes a checkpoint with the layers of a real model, as many as wanted, of random numbers.

Without a tokenizer: the programs are given random token ids, or images.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    Qwen3VLMoeConfig,
)

import gpu

VOCABULARY = 32000
DEVIATION = 0.02

# As Qwen3-VL has it; transformers' defaults are those of an older family.
PREPROCESSOR = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}


def qwen2_moe(layers: int, vocabulary: int) -> PreTrainedConfig:
    """Qwen1.5-MoE-A2.7B."""
    return Qwen2MoeConfig(
        num_hidden_layers=layers,
        hidden_size=2048,
        num_attention_heads=16,
        num_key_value_heads=16,
        moe_intermediate_size=1408,
        num_experts=60,
        num_experts_per_tok=4,
        shared_expert_intermediate_size=5632,
        vocab_size=vocabulary,
    )


def qwen3_moe(layers: int, vocabulary: int) -> PreTrainedConfig:
    """Qwen3-30B-A3B."""
    return Qwen3MoeConfig(
        num_hidden_layers=layers,
        hidden_size=2048,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        moe_intermediate_size=768,
        num_experts=128,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        vocab_size=vocabulary,
    )


def qwen3_vl_moe(layers: int, vocabulary: int) -> PreTrainedConfig:
    """The vision tower of Qwen3-VL-30B-A3B, before one layer of its decoder with few experts."""
    special_tokens = ["image", "video", "vision_start", "vision_end"]
    return Qwen3VLMoeConfig(
        vision_config={
            "depth": layers,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 2048,
            "num_position_embeddings": 2304,
            # Three of them, as in the model with 27 layers, where there are layers enough.
            "deepstack_visual_indexes": [index for index in [1, 2, 3] if index < layers],
        },
        text_config={
            "num_hidden_layers": 1,
            "hidden_size": 2048,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_experts": 8,
            "num_experts_per_tok": 8,
            "vocab_size": vocabulary,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5000000.0,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        # The last of the vocabulary.
        **{f"{name}_token_id": vocabulary - 4 + at for at, name in enumerate(special_tokens)},
    )


FAMILIES = {"qwen2_moe": qwen2_moe, "qwen3_moe": qwen3_moe, "qwen3_vl_moe": qwen3_vl_moe}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("layers", type=int, help="of the vision tower, if the family has one")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens")
    parser.add_argument("--device", default="cpu", help="where the numbers are made: cpu, cuda")
    args = parser.parse_args()

    device = gpu.find(args.device)
    config = FAMILIES[args.family](args.layers, args.vocabulary)
    sees = hasattr(config, "vision_config")
    auto_model = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto_model.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device=device)
    source = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1:
                weights.normal_(0, DEVIATION, generator=source)
            else:
                weights.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    model.save_pretrained(args.folder, max_shard_size="2GB")
    if sees:
        text = json.dumps(PREPROCESSOR, indent=2) + "\n"
        (args.folder / "preprocessor_config.json").write_text(text)


if __name__ == "__main__":
    main()
