#!/usr/bin/env python3
"""Writes the tiny random checkpoints and the golden outputs of this folder.

    pip install -r requirements.txt
    python make_goldens.py                 # everything, into this folder
    python make_goldens.py mixtral rope    # some parts only
    python make_goldens.py --check         # reload what is there and print a table
    python make_goldens.py --check mixtral # the same for some cases

What each file holds is described in README.md. Every seed is fixed: for a case
the first seed is used, counting from 0, whose model is well conditioned (see
`rejected`), so the output depends on nothing but the versions pinned in
requirements.txt and, in the last bits, on the machine.
"""

import argparse
import contextlib
import json
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

VOCAB = 128
SPECIAL = 3  # ids 0..2 are special tokens: never in a prompt, never generated
PROMPT = 12
NEW = 20
BATCH_LENGTHS = [12, 7, 3]
BATCH_NEW = 10

# A router decision counts as clear when the logits of the last chosen and the
# first dropped expert differ by at least this much (see `choice_margin` for
# routers that choose on something else); a greedy token is clear when it beats
# the second by at least TOKEN_MARGIN, in bf16 and f16 by TOKEN_MARGIN_HALF.
ROUTER_MARGIN = 0.05
ROUTER_MARGIN_GENERATED = 0.01
TOKEN_MARGIN = 0.03
TOKEN_MARGIN_HALF = 0.02
# Largest error of the bf16 and f16 logits, in units of the logits' deviation.
HALF_ERROR = 0.08

# --------------------------------------------------------------------------
# Cases. "hub": the config.json as older checkpoints on the hub have it, kept
# word for word. "v5": keyword arguments; config.json is what transformers 5
# writes.

CASES = {
    # Dense layer 1 through mlp_only_layers, shared expert, q/k/v biases, an
    # intermediate size that is no multiple of 8, a sliding_window that is
    # switched off.
    "qwen2_moe": dict(
        dialect="hub",
        dtype="float32",
        batch=True,
        config={
            "architectures": ["Qwen2MoeForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "decoder_sparse_step": 1,
            "eos_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": 32,
            "initializer_range": 0.02,
            "intermediate_size": 44,
            "max_position_embeddings": 256,
            "max_window_layers": 2,
            "mlp_only_layers": [1],
            "model_type": "qwen2_moe",
            "moe_intermediate_size": 20,
            "norm_topk_prob": False,
            "num_attention_heads": 4,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "output_router_logits": False,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.001,
            "shared_expert_intermediate_size": 36,
            "sliding_window": 4,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "transformers_version": "4.40.0",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": VOCAB,
        },
    ),
    # Sliding window on layers 0 and 2 only, MoE on layers 1 and 3 only, tied
    # embeddings, fused expert tensors.
    "qwen2_moe_window": dict(
        dialect="v5",
        dtype="bfloat16",
        save=dict(save_original_format=False),
        config=dict(
            model_type="qwen2_moe",
            architectures=["Qwen2MoeForCausalLM"],
            decoder_sparse_step=2,
            eos_token_id=[0, 2],
            hidden_size=32,
            intermediate_size=40,
            max_position_embeddings=128,
            max_window_layers=3,
            moe_intermediate_size=24,
            norm_topk_prob=False,
            num_attention_heads=4,
            num_experts=8,
            num_experts_per_tok=2,
            num_hidden_layers=5,
            num_key_value_heads=2,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0),
            shared_expert_intermediate_size=48,
            sliding_window=5,
            tie_word_embeddings=True,
            use_sliding_window=True,
            vocab_size=VOCAB,
        ),
    ),
    # head_dim that is not hidden_size / heads, q/k norms, yarn, shards.
    "qwen3_moe": dict(
        dialect="v5",
        dtype="float32",
        save=dict(max_shard_size="100KB"),
        config=dict(
            model_type="qwen3_moe",
            architectures=["Qwen3MoeForCausalLM"],
            eos_token_id=0,
            head_dim=16,
            hidden_size=32,
            intermediate_size=64,
            max_position_embeddings=256,
            moe_intermediate_size=24,
            norm_topk_prob=True,
            num_attention_heads=4,
            num_experts=8,
            num_experts_per_tok=3,
            num_hidden_layers=2,
            num_key_value_heads=2,
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=1000.0,
                factor=4.0,
                original_max_position_embeddings=64,
            ),
            vocab_size=VOCAB,
        ),
    ),
    # clip_qkv, q/k norms over all heads at once, f16 storage.
    "olmoe": dict(
        dialect="hub",
        dtype="float16",
        config={
            "architectures": ["OlmoeForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "clip_qkv": 1.0,
            "eos_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": 32,
            "initializer_range": 0.02,
            "intermediate_size": 16,
            "max_position_embeddings": 256,
            "model_type": "olmoe",
            "norm_topk_prob": False,
            "num_attention_heads": 4,
            "num_experts": 8,
            "num_experts_per_tok": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "output_router_logits": False,
            "pad_token_id": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "router_aux_loss_coef": 0.01,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "transformers_version": "4.43.0",
            "use_cache": True,
            "vocab_size": VOCAB,
        },
    ),
    # block_sparse_moe names, one sliding window for every layer.
    "mixtral": dict(
        dialect="hub",
        dtype="bfloat16",
        batch=True,
        config={
            "architectures": ["MixtralForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": 32,
            "initializer_range": 0.02,
            "intermediate_size": 40,
            "max_position_embeddings": 256,
            "model_type": "mixtral",
            "num_attention_heads": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "num_local_experts": 4,
            "output_router_logits": False,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.02,
            "sliding_window": 6,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.36.0",
            "use_cache": True,
            "vocab_size": VOCAB,
        },
    ),
    # Fused expert tensors, llama3 rope, biases on q, k, v and o.
    "qwen3_moe_fused": dict(
        dialect="v5",
        dtype="float32",
        save=dict(save_original_format=False),
        config=dict(
            model_type="qwen3_moe",
            architectures=["Qwen3MoeForCausalLM"],
            attention_bias=True,
            decoder_sparse_step=1,
            eos_token_id=None,
            head_dim=16,
            hidden_size=32,
            intermediate_size=40,
            max_position_embeddings=512,
            mlp_only_layers=[0],
            moe_intermediate_size=16,
            norm_topk_prob=False,
            num_attention_heads=4,
            num_experts=6,
            num_experts_per_tok=2,
            num_hidden_layers=2,
            num_key_value_heads=1,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=10000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
            vocab_size=VOCAB,
        ),
    ),
    # Attention sinks, window on layers 0 and 2, biases everywhere, clamped
    # gate with a limit that is reached, yarn without truncation.
    "gpt_oss": dict(
        dialect="v5",
        dtype="bfloat16",
        batch=True,
        config=dict(
            model_type="gpt_oss",
            architectures=["GptOssForCausalLM"],
            eos_token_id=[0, 2],
            head_dim=16,
            hidden_size=32,
            intermediate_size=24,
            max_position_embeddings=4096,
            num_attention_heads=4,
            num_experts_per_tok=3,
            num_hidden_layers=4,
            num_key_value_heads=2,
            num_local_experts=8,
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=150000.0,
                factor=32.0,
                beta_fast=32.0,
                beta_slow=1.0,
                original_max_position_embeddings=128,
                truncate=False,
            ),
            sliding_window=5,
            swiglu_alpha=1.25,
            swiglu_limit=1.5,
            vocab_size=VOCAB,
        ),
    ),
    # The same family with the config.json of the hub, without swiglu_alpha.
    "gpt_oss_hub": dict(
        dialect="hub",
        dtype="bfloat16",
        config={
            "architectures": ["GptOssForCausalLM"],
            "attention_bias": True,
            "attention_dropout": 0.0,
            "eos_token_id": 2,
            "experts_per_token": 2,
            "head_dim": 16,
            "hidden_act": "silu",
            "hidden_size": 32,
            "initial_context_length": 64,
            "initializer_range": 0.02,
            "intermediate_size": 20,
            "layer_types": ["sliding_attention", "full_attention"],
            "max_position_embeddings": 2048,
            "model_type": "gpt_oss",
            "num_attention_heads": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "num_local_experts": 6,
            "output_router_logits": False,
            "pad_token_id": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "original_max_position_embeddings": 64,
                "rope_type": "yarn",
                "truncate": False,
            },
            "rope_theta": 150000,
            "router_aux_loss_coef": 0.9,
            "sliding_window": 4,
            "swiglu_limit": 2.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.55.0.dev0",
            "use_cache": True,
            "vocab_size": VOCAB,
        },
    ),
    # Four multipliers, tied embeddings, fused experts under the hub's names.
    "granitemoe": dict(
        dialect="hub",
        dtype="float16",
        config={
            "architectures": ["GraniteMoeForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attention_multiplier": 0.2,
            "bos_token_id": 0,
            "embedding_multiplier": 0.6,
            "eos_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": 32,
            "initializer_range": 0.02,
            "intermediate_size": 20,
            "logits_scaling": 1.25,
            "max_position_embeddings": 256,
            "model_type": "granitemoe",
            "num_attention_heads": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "num_local_experts": 6,
            "output_router_logits": False,
            "pad_token_id": 0,
            "residual_multiplier": 0.7,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "router_aux_loss_coef": 0.0,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            "transformers_version": "4.47.0.dev0",
            "use_cache": True,
            "vocab_size": VOCAB,
        },
    ),
    # Sigmoid router with a correction bias, rope on half of each head, q/k
    # norms over all heads at once. As on the hub, no end token is named.
    "minimax_m2": dict(
        dialect="hub",
        dtype="float32",
        batch=True,
        config={
            "architectures": ["MiniMaxM2ForCausalLM"],
            "attn_type_list": [1, 1, 1],
            "head_dim": 16,
            "hidden_act": "silu",
            "hidden_size": 32,
            "intermediate_size": 16,
            "max_position_embeddings": 256,
            "model_type": "minimax_m2",
            "mtp_transformer_layers": 1,
            "num_attention_heads": 4,
            "num_experts_per_tok": 3,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "num_local_experts": 8,
            "num_mtp_modules": 3,
            "qk_norm_type": "per_layer",
            "rms_norm_eps": 1e-06,
            "rope_theta": 5000000,
            "rotary_dim": 8,
            "scoring_func": "sigmoid",
            "shared_intermediate_size": 0,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "transformers_version": "4.46.1",
            "use_cache": True,
            "use_mtp": True,
            "use_qk_norm": True,
            "use_routing_bias": True,
            "vocab_size": VOCAB,
        },
    ),
}

# --------------------------------------------------------------------------
# Numbers


def exact(t):
    """Rounds to numbers that f32, bf16 and f16 all hold exactly."""
    t = t.to(torch.bfloat16).float()
    t = torch.where(t.abs() < 2.0**-14, torch.zeros_like(t), t)
    assert torch.equal(t.half().float(), t)
    return t


def rand(gen, *shape, std=1.0, mean=0.0):
    return exact(torch.randn(*shape, generator=gen) * std + mean)


class NoFloat32(TorchDispatchMode):
    """Fails when an operation yields anything narrower than f64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                assert leaf.dtype == torch.float64, f"{func}: {leaf.dtype}"
        return out


@contextlib.contextmanager
def all_f64():
    """Within this block `torch.float32`, `torch.float` and `Tensor.float()`
    mean f64, so that the casts to f32 inside the models (norms, softmax, rope)
    become casts to f64."""
    f32, f32_alias, to_f32 = torch.float32, torch.float, torch.Tensor.float
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        torch.float32 = torch.float = torch.float64
        torch.Tensor.float = torch.Tensor.double
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = f32, f32_alias, to_f32
        torch.set_default_dtype(default)


# --------------------------------------------------------------------------
# Models

EAGER = dict(attn_implementation="eager", experts_implementation="eager")


def make_config(case, out):
    """Writes config.json for a "hub" case; returns the config either way."""
    if case["dialect"] == "hub":
        (out / "config.json").write_text(json.dumps(case["config"], indent=2) + "\n")
        return AutoConfig.from_pretrained(out)
    return AutoConfig.for_model(**case["config"])


def tensors(model):
    """What a checkpoint holds, by name: parameters, then the buffers among it."""
    saved = model.state_dict().keys()
    return [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if n in saved)]


def moe_block(layer):
    """The MoE block (or dense MLP) of a decoder layer."""
    return layer.block_sparse_moe if hasattr(layer, "block_sparse_moe") else layer.mlp


def router_of(block):
    return block.gate if hasattr(block, "gate") else block.router


def choice_scores(block, router_logits):
    """What the experts of each token are chosen on, highest first: the router's
    logits, or sigmoid(logit) + bias in blocks with a correction bias."""
    if not hasattr(block, "e_score_correction_bias"):
        return router_logits
    return router_logits.float().sigmoid() + block.e_score_correction_bias


def new_model(config, seed=None):
    """A model in f32; with a seed, filled with random numbers."""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **EAGER).eval()
    if seed is None:
        return model
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in tensors(model):
            if "norm" in name:
                p.copy_(rand(gen, *p.shape, std=0.2, mean=1.0))
            elif name.endswith("bias"):
                p.copy_(rand(gen, *p.shape, std=0.3))
            elif "embed_tokens" in name:
                p.copy_(rand(gen, *p.shape, std=0.5))
            elif name.endswith("sinks"):
                p.copy_(rand(gen, *p.shape, std=1.0))
            elif name.endswith(("mlp.gate.weight", ".router.weight")):
                p.copy_(rand(gen, *p.shape, std=0.4))
            else:
                p.copy_(rand(gen, *p.shape, std=0.22))
    return model


def make_prompt(seed):
    gen = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(SPECIAL, VOCAB, (PROMPT,), generator=gen)


def with_dtype(model, dtype):
    """The same model with parameters in another dtype, rope tables as loading
    in that dtype gives them."""
    other = AutoModelForCausalLM.from_config(model.config, dtype=dtype, **EAGER).eval()
    other.load_state_dict(model.state_dict())
    return other


@torch.no_grad()
def stages(model, ids):
    """One forward over the whole sequence: the logits and every stage."""
    got, hooks = {}, []

    def keep(name, pick):
        def hook(_module, _args, output):
            value = pick(output)
            got[name] = value.reshape(-1, value.shape[-1]).clone()

        return hook

    for i, layer in enumerate(model.model.layers):
        at = f"layers.{i}."

        def add(module, name, pick=lambda o: o):
            hooks.append(module.register_forward_hook(keep(at + name, pick)))

        add(layer.self_attn, "attention_output", lambda o: o[0])
        add(layer, "block_output")
        block = moe_block(layer)
        add(block, "mlp_output", lambda o: o[0] if isinstance(o, tuple) else o)
        if hasattr(block, "experts"):
            router = router_of(block)
            add(router, "router_logits", lambda o: o[0])
            add(router, "top_k_weights", lambda o: o[1])
            add(router, "top_k_index", lambda o: o[2])
            add(block.experts, "experts_output")
    got["logits"] = model(ids[None], use_cache=False).logits[0]
    for h in hooks:
        h.remove()
    # Not every router sorts its choice: highest score first, ties lower id first.
    for i, layer in enumerate(model.model.layers):
        at = f"layers.{i}."
        if at + "top_k_index" in got:
            index, by_id = got[at + "top_k_index"].sort(dim=-1)
            scores = choice_scores(moe_block(layer), got[at + "router_logits"])
            order = scores.gather(-1, index).argsort(dim=-1, descending=True, stable=True)
            got[at + "top_k_index"] = index.gather(-1, order)
            got[at + "top_k_weights"] = got[at + "top_k_weights"].gather(-1, by_id.gather(-1, order))
    return got


def stages_f64(model, ids):
    with all_f64():
        other = AutoModelForCausalLM.from_config(model.config, dtype=torch.float64, **EAGER).eval()
        other.load_state_dict(model.state_dict())
        with NoFloat32():
            return stages(other, ids)


@torch.no_grad()
def greedy(model, ids, new):
    """Greedy continuation with the key/value cache; end tokens do not stop it.
    Returns the tokens and the smallest margin of a first over a second."""
    out, margin, cache, step = [], float("inf"), None, ids
    for _ in range(new):
        r = model(step[None], past_key_values=cache, use_cache=True)
        cache = r.past_key_values
        top = r.logits[0, -1].topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        step = top.indices[:1]
        out.append(step.item())
    return torch.tensor(out), margin


def router_margin(got, k):
    """Smallest gap between the last chosen and the first dropped expert."""
    gap = float("inf")
    for name, t in got.items():
        if name.endswith("router_logits"):
            s = t.sort(dim=-1, descending=True).values
            gap = min(gap, (s[:, k - 1] - s[:, k]).min().item())
    return gap


def choice_margin(model, got):
    """`router_margin` of what the experts are chosen on, in units of logits: a
    gap between sigmoids counts four times, since a sigmoid is at most a quarter
    as steep as its logit."""
    scores = {}
    for i, layer in enumerate(model.model.layers):
        name, block = f"layers.{i}.router_logits", moe_block(layer)
        if name in got:
            unit = 0.25 if hasattr(block, "e_score_correction_bias") else 1.0
            scores[name] = choice_scores(block, got[name]) / unit
    return router_margin(scores, model.config.num_experts_per_tok)


def same_choice(a, b):
    return all(
        torch.equal(a[n].sort(dim=-1).values, b[n].sort(dim=-1).values) for n in a if n.endswith("top_k_index")
    )


def batch_greedy(model, ids):
    rows, margin = [], float("inf")
    for n in BATCH_LENGTHS:
        row, m = greedy(model, ids[:n], BATCH_NEW)
        rows.append(row)
        margin = min(margin, m)
    return torch.stack(rows), margin


def rejected(case, model, ids):
    """Why this seed is no good, or None: every routing decision and every
    greedy token must be clear enough to be the same in f64, f32, bf16, f16."""
    got = stages(model, ids)
    if choice_margin(model, got) < ROUTER_MARGIN:
        return "router margin"
    tokens, margin = greedy(model, ids, NEW)
    if margin < TOKEN_MARGIN:
        return "token margin"
    if len(set(tokens.tolist())) < 8:
        return "dull text"
    if tokens.min() < SPECIAL:
        return "special token"
    full = stages(model, torch.cat([ids, tokens]))
    if choice_margin(model, full) < ROUTER_MARGIN_GENERATED:
        return "router margin (generated)"
    if not torch.equal(full["logits"][PROMPT - 1 : -1].argmax(-1), tokens):
        return "cache and full forward differ"
    if case.get("batch"):
        batch, margin = batch_greedy(model, ids)
        if margin < TOKEN_MARGIN or batch.min() < SPECIAL:
            return "batch"
    f64 = stages_f64(model, ids)
    if not same_choice(got, f64):
        return "f64 routing"
    ref = f64["logits"]
    for dtype in (torch.bfloat16, torch.float16):
        half = with_dtype(model, dtype)
        low = stages(half, ids)
        if not same_choice(got, low):
            return f"{dtype} routing"
        if (low["logits"].double() - ref).abs().max() > HALF_ERROR * ref.std():
            return f"{dtype} error"
        again, margin = greedy(half, ids, NEW)
        if margin < TOKEN_MARGIN_HALF or not torch.equal(again, tokens):
            return f"{dtype} tokens"
        if case.get("batch") and not torch.equal(batch_greedy(half, ids)[0], batch):
            return f"{dtype} batch"
    return None


def load(out, dtype):
    model, info = AutoModelForCausalLM.from_pretrained(out, dtype=dtype, output_loading_info=True, **EAGER)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[what], (out, what, info[what])
    return model.eval()


def goldens(case, out, ids):
    """Golden tensors from the checkpoint as it lies on disk."""
    model = load(out, torch.float32)
    gold = stages(model, ids)
    gold["input_ids"] = ids
    gold["greedy_ids"], _ = greedy(model, ids, NEW)
    if case.get("batch"):
        gold["batch_greedy_ids"], _ = batch_greedy(model, ids)
        gold["batch_prompt_lengths"] = torch.tensor(BATCH_LENGTHS)
    f64 = stages_f64(model, ids)
    gold["logits_f64"] = f64["logits"]
    for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
        got = stages(load(out, dtype), ids)
        assert same_choice(gold, got)
        gold[f"logits_{name}"] = got["logits"].float()
        assert torch.equal(greedy(load(out, dtype), ids, NEW)[0], gold["greedy_ids"])
    assert same_choice(gold, f64)
    return {n: t.contiguous() for n, t in gold.items()}


def make_case(name, root):
    case, out = CASES[name], root / name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    config = make_config(case, out)
    for seed in range(100_000):
        model, ids = new_model(config, seed), make_prompt(seed)
        if (why := rejected(case, model, ids)) is None:
            break
    searched = {n: p.detach().clone() for n, p in tensors(model)}
    model.to(getattr(torch, case["dtype"])).save_pretrained(out, **case.get("save", {}))
    (out / "generation_config.json").unlink(missing_ok=True)
    if case["dialect"] == "hub":
        make_config(case, out)
    # What is on disk must hold exactly the numbers the search ended with.
    for n, p in tensors(load(out, torch.float32)):
        assert torch.equal(p.data, searched[n]), (name, n)
    gold = goldens(case, out, ids)
    save_file(gold, out / "golden.safetensors", metadata={"seed": str(seed)})
    if name == "qwen2_moe":
        make_tokenizer(out)
    print(f"{name}: seed {seed}")


# --------------------------------------------------------------------------
# Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOKENIZER_TEXTS = [
    "Hello, world!",
    "the other thing is in there",
    "a caf\u00e9 costs 3 \u20ac \U0001f600 \u8bed",
    "  two  spaces\nand a line\n",
    "<|im_start|>user\nhi<|im_end|>\n",
    "end</s>",
]


def make_tokenizer(out):
    """A byte-level BPE of 128 tokens: 3 special ones, the bytes of printable
    ASCII, the newline and those of four longer characters, some merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    def symbols(data):
        """Bytes in the printable alphabet of byte-level BPE."""
        keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [b for b in range(256) if b not in keep]
        table = {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}
        return [table[b] for b in data]

    tokens = ["</s>", "<|im_start|>", "<|im_end|>"]
    tokens += symbols(range(32, 127)) + symbols(b"\n")
    tokens += symbols("\u00e9\u20ac\U0001f600\u8bed".encode())
    space = symbols(b" ")[0]
    merges = [
        (space, "t"), ("h", "e"), (space + "t", "he"), ("i", "n"), ("e", "r"), ("o", "n"),
        (space, "a"), ("a", "n"), ("o", "r"), (space, "s"), ("in", "g"), ("l", "l"),
        ("e", "n"), (space, "w"), (space, "in"), ("r", "e"), ("he", "r"),
    ]  # fmt: skip
    merges = merges[: VOCAB - len(tokens)]
    tokens += [a + b for a, b in merges if a + b not in tokens]
    assert len(tokens) == len(set(tokens)) == VOCAB, len(tokens)

    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tokens[:SPECIAL]])
    assert tok.get_vocab_size() == VOCAB
    tok.save(str(out / "tokenizer.json"))

    def write(name, value):
        (out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    write(
        "tokenizer_config.json",
        {
            "add_bos_token": False,
            "added_tokens_decoder": {
                str(i): {
                    "content": t, "lstrip": False, "normalized": False,
                    "rstrip": False, "single_word": False, "special": True,
                }
                for i, t in enumerate(tokens[:SPECIAL])
            },
            "bos_token": None,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "model_max_length": 256,
            "pad_token": "</s>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": None,
        },
    )  # fmt: skip
    write(
        "generation_config.json",
        {
            "do_sample": True,
            "eos_token_id": [0, 2],
            "pad_token_id": 0,
            "repetition_penalty": 1.05,
            "temperature": 0.7,
            "top_k": 5,
            "top_p": 0.8,
            "transformers_version": "4.40.0",
        },
    )

    hf = transformers.AutoTokenizer.from_pretrained(out)
    cases = []
    for text in TOKENIZER_TEXTS:
        ids = hf(text, add_special_tokens=True)["input_ids"]
        assert hf.decode(ids) == text
        cases.append({"text": text, "ids": ids, "decoded_skip_special": hf.decode(ids, skip_special_tokens=True)})
    messages = [{"role": "system", "content": "be terse"}, {"role": "user", "content": "where is the inn?"}]
    write(
        "tokenizer_golden.json",
        {
            "texts": cases,
            "tokens": [hf.decode([i]) for i in range(VOCAB)],
            "chat": {
                "messages": messages,
                "text": hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
                "ids": hf.apply_chat_template(messages, add_generation_prompt=True, return_dict=False),
            },
        },
    )


# --------------------------------------------------------------------------
# Rope tables

ROPE = [
    # name, (head_dim, rope_theta, max_position_embeddings), rope_scaling, seq_len
    ("default", (16, 10000.0, 2048), None, None),
    ("default_wide", (128, 1000000.0, 32768), None, None),
    ("linear", (16, 10000.0, 2048), {"type": "linear", "factor": 4.0}, None),
    ("dynamic_at_init", (16, 10000.0, 64), {"type": "dynamic", "factor": 2.0}, None),
    ("dynamic_short", (16, 10000.0, 64), {"type": "dynamic", "factor": 2.0}, 40),
    ("dynamic_equal", (16, 10000.0, 64), {"type": "dynamic", "factor": 2.0}, 64),
    ("dynamic_long", (16, 10000.0, 64), {"type": "dynamic", "factor": 2.0}, 65),
    ("dynamic_longer", (32, 500000.0, 64), {"rope_type": "dynamic", "factor": 4.0}, 300),
    ("yarn_old_key", (128, 1000000.0, 32768),
     {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, None),
    ("yarn", (16, 1000.0, 256), {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, None),
    ("yarn_no_original", (32, 10000.0, 4096), {"rope_type": "yarn", "factor": 2.0}, None),
    ("yarn_betas", (32, 10000.0, 4096),
     {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "beta_fast": 16.0,
      "beta_slow": 2.0}, None),
    ("yarn_no_truncate", (64, 150000.0, 131072),
     {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0,
      "beta_slow": 1.0, "truncate": False}, None),
    ("yarn_attention_factor", (32, 10000.0, 4096),
     {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "attention_factor": 0.75}, None),
    ("yarn_mscale", (64, 10000.0, 163840),
     {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
      "mscale": 1.0, "mscale_all_dim": 0.7}, None),
    ("yarn_mscale_alone", (64, 10000.0, 163840),
     {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.7}, None),
    ("yarn_null_factor", (32, 10000.0, 4096),
     {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 1024}, None),
    ("llama3", (128, 500000.0, 131072),
     {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192}, None),
    ("llama3_small", (16, 10000.0, 512),
     {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 64}, None),
]  # fmt: skip


def make_rope(root):
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralRotaryEmbedding

    def table(fields, seq_len):
        config = MixtralConfig.from_dict(json.loads(json.dumps(fields)))
        kind = config.rope_parameters["rope_type"]
        if kind == "default":
            inv, scaling = MixtralRotaryEmbedding.compute_default_rope_parameters(config)
        else:
            inv, scaling = ROPE_INIT_FUNCTIONS[kind](config, seq_len=seq_len)
        return inv.tolist(), float(scaling)

    entries = []
    for name, (head_dim, theta, positions), scaling, seq_len in ROPE:
        fields = {
            "head_dim": head_dim,
            "rope_theta": theta,
            "max_position_embeddings": positions,
            "rope_scaling": scaling,
        }
        single, factor = table(fields, seq_len)
        with all_f64():
            double, factor64 = table(fields, seq_len)
        assert factor == factor64
        # The table in f64 must agree with the one that transformers uses.
        torch.testing.assert_close(torch.tensor(single), torch.tensor(double).float(), rtol=2e-5, atol=1e-9)
        entries.append(
            {
                "name": name,
                "config": fields,
                "seq_len": seq_len,
                "inv_freq": double,
                "inv_freq_f32": single,
                "attention_scaling": factor,
            }
        )
    rows = ",\n".join(json.dumps(e) for e in entries)
    (root / "rope.json").write_text(f"[\n{rows}\n]\n")


# --------------------------------------------------------------------------
# Experts layers of other families

EX = dict(T=6, H=12, I=10, E=4, K=2)


def make_experts(root):
    T, H, I, E, K = (EX[k] for k in "THIEK")
    tensors, notes = {}, {}

    def inputs(gen):
        x = rand(gen, T, H)
        # Expert 3 stays without tokens; ids are not sorted within a row.
        index = torch.stack([torch.randperm(E - 1, generator=gen)[:K] for _ in range(T)])
        weights = exact(torch.rand(T, K, generator=gen) * 0.8 + 0.1)
        return x, index, weights

    def keep(name, x, index, weights, params, run, note):
        tensors.update({f"{name}.x": x, f"{name}.top_k_index": index, f"{name}.top_k_weights": weights})
        tensors.update({f"{name}.{n}": p for n, p in params.items()})
        with torch.no_grad():
            tensors[f"{name}.out"] = run(x, index, weights, params)
            double = {n: p.double() for n, p in params.items()}
            tensors[f"{name}.out_f64"] = run(x.double(), index, weights.double(), double)
        notes[name] = {**EX, **note}

    def module_run(cls, config):
        def run(x, index, weights, params):
            module = cls(config).to(x.dtype)
            module.load_state_dict(params)
            return module(x, index, weights)

        return run

    from transformers import GptOssConfig, NemotronHConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
    from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

    gen = torch.Generator().manual_seed(1)
    config = GptOssConfig(hidden_size=H, intermediate_size=I, num_local_experts=E, experts_implementation="eager")
    assert (config.swiglu_alpha, config.swiglu_limit) == (1.702, 7.0)
    params = {
        # Large enough that gate and up both reach the limit, on either side.
        "gate_up_proj": rand(gen, E, H, 2 * I, std=1.5),
        "gate_up_proj_bias": rand(gen, E, 2 * I, std=0.5),
        "down_proj": rand(gen, E, I, H, std=0.3),
        "down_proj_bias": rand(gen, E, H, std=0.5),
    }
    x, index, weights = inputs(gen)
    gate_up = torch.einsum("th,ehi->tei", x, params["gate_up_proj"]) + params["gate_up_proj_bias"]
    assert gate_up[..., ::2].max() > 7 and gate_up[..., 1::2].max() > 7 and gate_up[..., 1::2].min() < -7
    keep(
        "gpt_oss", x, index, weights, params, module_run(GptOssExperts, config),
        {
            "is_concatenated": False, "is_transposed": True, "has_bias": True, "has_gate": True,
            "activation": "gpt_oss_swiglu", "alpha": 1.702, "limit": 7.0,
            "gate": "g = min(gate, limit), u = clamp(up, -limit, limit), (u + 1) * g * sigmoid(alpha * g)",
            "source": "transformers GptOssExperts",
        },
    )  # fmt: skip

    gen = torch.Generator().manual_seed(2)
    config = NemotronHConfig(
        hidden_size=H, moe_intermediate_size=I, n_routed_experts=E, mlp_hidden_act="relu2", moe_latent_size=None,
        experts_implementation="eager",
    )  # fmt: skip
    params = {"up_proj": rand(gen, E, I, H, std=0.3), "down_proj": rand(gen, E, H, I, std=0.3)}
    keep(
        "nemotron_h", *inputs(gen), params, module_run(NemotronHExperts, config),
        {
            "is_concatenated": None, "is_transposed": False, "has_bias": False, "has_gate": False,
            "activation": "relu2", "gate": "relu(up)^2", "source": "transformers NemotronHExperts",
        },
    )  # fmt: skip

    def loop(x, index, weights, p):
        out = torch.zeros_like(x)
        for t in range(T):
            for k in range(K):
                e = index[t, k]
                gate, up = (p["gate_up_proj"][e] @ x[t] + p["gate_up_proj_bias"][e]).chunk(2)
                y = p["down_proj"][e] @ (F.gelu(gate, approximate="tanh") * up) + p["down_proj_bias"][e]
                out[t] += weights[t, k] * y
        return out

    gen = torch.Generator().manual_seed(3)
    params = {
        "gate_up_proj": rand(gen, E, 2 * I, H, std=0.4),
        "gate_up_proj_bias": rand(gen, E, 2 * I, std=0.5),
        "down_proj": rand(gen, E, H, I, std=0.3),
        "down_proj_bias": rand(gen, E, H, std=0.5),
    }
    keep(
        "gelu_tanh_bias", *inputs(gen), params, loop,
        {
            "is_concatenated": True, "is_transposed": False, "has_bias": True, "has_gate": True,
            "activation": "gelu_pytorch_tanh", "gate": "gelu_tanh(gate) * up", "source": "double loop",
        },
    )  # fmt: skip

    save_file({n: t.contiguous() for n, t in tensors.items()}, root / "experts.safetensors")
    (root / "experts.json").write_text(json.dumps(notes, indent=2) + "\n")


# --------------------------------------------------------------------------
# Check


def ablations(model, ids):
    """How much the logits move when one feature is switched off."""
    config, base = model.config, stages(model, ids)["logits"]

    def moved(config=config, change=None):
        other = new_model(config)
        other.load_state_dict(model.state_dict())
        if change:
            change(other)
        return (stages(other, ids)["logits"] - base).abs().max().item()

    def edited(**fields):
        c = type(config).from_dict({**config.to_dict(), **fields})
        return moved(c)

    def no_scaling(m):
        inv, m.model.rotary_emb.attention_scaling = m.model.rotary_emb.compute_default_rope_parameters(config)
        m.model.rotary_emb.inv_freq.copy_(inv)

    def edited_rope(**fields):
        return edited(rope_parameters={**config.rope_parameters, **fields})

    result = {}
    if getattr(config, "sliding_window", None):
        result["window off"] = edited(sliding_window=10_000)
        result["window +1"] = edited(sliding_window=config.sliding_window + 1)
    if getattr(config, "clip_qkv", None):
        result["clip off"] = edited(clip_qkv=None)
    if config.rope_parameters["rope_type"] != "default":
        result["rope scaling off"] = moved(change=no_scaling)
    if config.rope_parameters.get("truncate") is False:
        result["rope truncated"] = edited_rope(truncate=True)
    if "partial_rotary_factor" in config.rope_parameters:
        result["rope on whole heads"] = edited_rope(partial_rotary_factor=1.0)
    if hasattr(config, "swiglu_limit"):
        result["clamp off"] = edited(swiglu_limit=1e6)
        result["alpha off"] = edited(swiglu_alpha=1.0)
    if hasattr(config, "attention_multiplier"):
        head_dim = config.hidden_size // config.num_attention_heads
        result["attention_multiplier off"] = edited(attention_multiplier=head_dim**-0.5)
    for key in ("embedding_multiplier", "residual_multiplier", "logits_scaling"):
        if hasattr(config, key):
            result[f"{key} off"] = edited(**{key: 1.0})
    # A sink of -1e4 takes no part in the softmax.
    off = {
        "q_proj.bias": 0.0, "o_proj.bias": 0.0, "router.bias": 0.0, "gate_up_proj_bias": 0.0, "down_proj_bias": 0.0,
        "e_score_correction_bias": 0.0, "sinks": -1e4,
    }  # fmt: skip
    for key, value in off.items():
        if any(n.endswith(key) for n, _ in tensors(model)):
            def drop(m, key=key, value=value):
                for n, p in tensors(m):
                    if n.endswith(key):
                        p.data.fill_(value)
            result[f"{key} off"] = moved(change=drop)
    return result


@torch.no_grad()
def clamped(model, ids):
    """How many values of the chosen experts the limits of the gate cut off:
    gate above, up above, up below, and all of one kind."""
    counts = torch.zeros(4, dtype=torch.int64)

    def watch(experts):
        apply = experts._apply_gate

        def gate(gate_up):
            g, u, limit = gate_up[..., ::2], gate_up[..., 1::2], experts.limit
            for i, cut in enumerate((g > limit, u > limit, u < -limit, g == g)):
                counts[i] += cut.sum()
            return apply(gate_up)

        experts._apply_gate = gate

    other = new_model(model.config)
    other.load_state_dict(model.state_dict())
    for layer in other.model.layers:
        watch(moe_block(layer).experts)
    other(ids[None], use_cache=False)
    return counts.tolist()


def check(root, names):
    for name in names:
        case, out = CASES[name], root / name
        gold = load_file(out / "golden.safetensors")
        again = goldens(case, out, gold["input_ids"])
        assert again.keys() == gold.keys()
        for n in gold:
            tol = 2e-2 if n in ("logits_bf16", "logits_f16") else 1e-5
            torch.testing.assert_close(again[n], gold[n], rtol=tol, atol=tol, msg=lambda m, n=n: f"{name} {n}: {m}")
        model = load(out, torch.float32)
        for n, p in tensors(model):
            assert torch.equal(exact(p.data), p.data), (name, n)
            assert p.abs().sum() > 0, (name, n)
        ids = gold["input_ids"]
        text, margin = greedy(model, ids, NEW)
        full = stages(model, torch.cat([ids, text]))
        # transformers' own generate must agree with the loop above.
        made = model.generate(
            ids[None], max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0,
            temperature=None, top_k=None, top_p=None, repetition_penalty=None, use_mtp=False,
        )  # fmt: skip
        assert torch.equal(made[0, PROMPT:], gold["greedy_ids"]), name
        ref = gold["logits_f64"]
        err = {d: (gold[f"logits{d}"].double() - ref).abs().max().item() for d in ("", "_bf16", "_f16")}
        used = {n.split(".")[1]: len(t.unique()) for n, t in gold.items() if n.endswith("top_k_index")}
        size = sum(f.stat().st_size for f in out.iterdir())
        print(f"{name}: {size} bytes, {len(gold)} golden tensors, logits std {ref.std():.3f}")
        print(f"  max |error| to f64: f32 {err['']:.2e}  bf16 {err['_bf16']:.2e}  f16 {err['_f16']:.2e}")
        gaps = [choice_margin(model, got) for got in (gold, full)]
        print(f"  router gap: prompt {gaps[0]:.3f}, with generated {gaps[1]:.3f};", end="")
        print(f" greedy margin {margin:.3f}; experts hit per MoE layer {used}")
        for what, delta in ablations(model, ids).items():
            print(f"  {what}: logits move by {delta:.3f}")
            assert delta > 1e-2, (name, what)
        if hasattr(model.config, "swiglu_limit"):
            *cut, values = clamped(model, ids)
            print("  clamped: gate above {}, up above {}, up below {} of {} each".format(*cut, values))
            assert min(cut) > 0, name
    rope = json.loads((root / "rope.json").read_text())
    experts = load_file(root / "experts.safetensors")
    for n in json.loads((root / "experts.json").read_text()):
        a, b = experts[f"{n}.out"], experts[f"{n}.out_f64"]
        print(f"experts {n}: out std {b.std():.3f}, max |f32 - f64| {(a.double() - b).abs().max():.2e}")
    everything = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
    print(f"rope: {len(rope)} tables; all files: {everything} bytes")


def main():
    parts = [*CASES, "rope", "experts"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all of {', '.join(parts)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="target folder")
    parser.add_argument("--check", action="store_true", help="write nothing; verify the folder and print a table")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if args.check:
        return check(args.out, [p for p in args.parts if p in CASES] or CASES)
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.parts or parts:
        if part in CASES:
            make_case(part, args.out)
        elif part == "rope":
            make_rope(args.out)
        else:
            make_experts(args.out)
    for f in args.out.rglob("*.safetensors"):
        f.chmod(0o644)


if __name__ == "__main__":
    main()
