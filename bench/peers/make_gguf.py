#!/usr/bin/env python3
"""Converts a checkpoint of make_checkpoint.py to a GGUF file, without a tokenizer."""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np

QUANTIZATIONS = {
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
FILE_TYPES = {
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
ARCHITECTURES = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}

# Names in a layer: GGUF's, the checkpoint's. What a family does not have is left out.
LAYER_TENSORS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
    "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight",
    "ffn_gate_shexp.weight": "mlp.shared_expert.gate_proj.weight",
    "ffn_up_shexp.weight": "mlp.shared_expert.up_proj.weight",
    "ffn_down_shexp.weight": "mlp.shared_expert.down_proj.weight",
}
# llama.cpp wants routers as f32.
ROUTERS = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("quantization", choices=QUANTIZATIONS)
    args = parser.parse_args()

    config = json.loads((args.folder / "config.json").read_text())
    tensors = Tensors(args.folder)
    writer = gguf.GGUFWriter(args.file, ARCHITECTURES[config["model_type"]], use_temp_file=True)
    writer.add_file_type(FILE_TYPES[args.quantization])
    write_config(writer, config)

    def add(name: str, values: np.ndarray) -> None:
        if values.ndim == 1 or name.endswith(ROUTERS):
            writer.add_tensor(name, values)
        else:
            quantization = QUANTIZATIONS[args.quantization]
            writer.add_tensor(name, gguf.quantize(values, quantization), raw_dtype=quantization)

    add("token_embd.weight", tensors.read("model.embed_tokens.weight"))
    add("output_norm.weight", tensors.read("model.norm.weight"))
    add("output.weight", tensors.read("lm_head.weight"))
    for layer in range(config["num_hidden_layers"]):
        theirs, ours = f"blk.{layer}", f"model.layers.{layer}"
        for name, source in LAYER_TENSORS.items():
            if f"{ours}.{source}" in tensors:
                values = tensors.read(f"{ours}.{source}")
                # The gate of the shared expert is a vector here, a matrix of one row there.
                add(f"{theirs}.{name}", values.reshape(-1) if len(values) == 1 else values)
        for part in ["gate", "up", "down"]:
            names = [
                f"{ours}.mlp.experts.{expert}.{part}_proj.weight"
                for expert in range(expert_count(config))
            ]
            add(f"{theirs}.ffn_{part}_exps.weight", np.stack([tensors.read(n) for n in names]))

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_config(writer: gguf.GGUFWriter, config: dict) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_expert_count(expert_count(config))
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")


def expert_count(config: dict) -> int:
    """Of one family transformers writes it under this name, of another under that."""
    return config["num_local_experts" if "num_local_experts" in config else "num_experts"]


class Tensors:
    """The bf16 tensors of a checkpoint, as f32. NumPy has no bf16, so the files are read here."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, tuple[Path, int, dict]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(header_bytes))
            for name, entry in header.items():
                if name != "__metadata__":
                    self._places[name] = (path, 8 + header_bytes, entry)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def read(self, name: str) -> np.ndarray:
        path, data_start, entry = self._places[name]
        if entry["dtype"] != "BF16":
            raise SystemExit(f"{path}: `{name}` is {entry['dtype']}, expected BF16")
        start, end = entry["data_offsets"]
        bits = np.fromfile(path, np.uint16, (end - start) // 2, offset=data_start + start)
        return (bits.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])


if __name__ == "__main__":
    main()
