#!/usr/bin/env python3
"""Writes a checkpoint with the layers of a real model, but few of them and of random numbers.

Without a tokenizer: the programs are given random token ids.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen2MoeConfig, Qwen3MoeConfig

VOCABULARY = 32000
DEVIATION = 0.02


def qwen2_moe(layers: int) -> PreTrainedConfig:
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
        vocab_size=VOCABULARY,
    )


def qwen3_moe(layers: int) -> PreTrainedConfig:
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
        vocab_size=VOCABULARY,
    )


FAMILIES = {"qwen2_moe": qwen2_moe, "qwen3_moe": qwen3_moe}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("layers", type=int)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()

    config = FAMILIES[args.family](args.layers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1:
                weights.normal_(0, DEVIATION, generator=source)
            else:
                weights.fill_(1.0 if "norm" in name else 0.0)
    model.save_pretrained(args.folder, max_shard_size="2GB")


if __name__ == "__main__":
    main()
