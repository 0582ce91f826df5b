#!/usr/bin/env python3
"""Measures the experts implementations of transformers on one layer."""

import torch
from transformers.models.qwen2_moe.configuration_qwen2_moe import Qwen2MoeConfig
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts

from common import (
    MAX_COPIED_BYTES,
    NOT_COMPILED,
    TOO_MANY_COPIES,
    Layer,
    Row,
    Shape,
    compile_argument,
    first_line,
    layer_parser,
    names,
    routings,
    time_in_turns,
    write_rows,
)
from torch_layer import Inputs, Weights, check, random_inputs, random_weights, reference

# What torch and its compiler raise where they cannot do something.
REFUSALS = (RuntimeError, NotImplementedError, ValueError)


def main() -> None:
    parser = layer_parser(__doc__)
    parser.add_argument("--implementation", type=names, default="eager,grouped_mm,batched_mm")
    compile_argument(parser)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(args.threads)

    weights = random_weights(args.shape, args.dtype)
    [first, *_] = random_inputs(args.shape, args.dtype, routings(args.shape, 1))
    expected = reference(weights, first)
    refusals: dict[str, str] = {}
    modules: dict[str, torch.nn.Module] = {}
    for implementation in args.implementation:
        module = experts_module(args.shape, weights, implementation)
        modules[f"transformers/{implementation}"] = module
        try:
            check(lambda of, to=module: call(to, of), first, expected)
        except REFUSALS as error:
            refusals[f"transformers/{implementation}"] = first_line(error)

    rows: list[Row] = []
    for tokens in args.tokens:
        routed = routings(args.shape, tokens)
        layer = Layer(args.shape, args.dtype, args.threads, tokens, args.compile, routed)
        rows += measure(layer, modules, refusals)
    write_rows(rows, args.json)


def measure(
    layer: Layer, modules: dict[str, torch.nn.Module], refusals: dict[str, str]
) -> list[Row]:
    """The rows of one number of tokens."""
    # Compiled anew for every number of tokens, for static shapes are the fastest.
    torch.compiler.reset()
    inputs = random_inputs(layer.shape, layer.dtype, layer.routings)
    copied_bytes = layer.tokens * layer.shape.top_k * layer.shape.expert_bytes(layer.dtype)
    rows, calls = [], {}
    for name, module in modules.items():
        refusal = refusals.get(name)
        if name.endswith("batched_mm") and copied_bytes > MAX_COPIED_BYTES:
            refusal = TOO_MANY_COPIES
        if refusal is None and layer.mode != NOT_COMPILED:
            module = torch.compile(module, mode=layer.mode)
            try:
                call(module, inputs[0])
            except REFUSALS as error:
                refusal = first_line(error)
        if refusal is None:
            calls[name] = lambda index, to=module: call(to, inputs[index])
        else:
            rows.append(layer.skipped(name, refusal))
    return rows + [layer.row(name, runs) for name, runs in time_in_turns(calls).items()]


def experts_module(shape: Shape, weights: Weights, implementation: str) -> torch.nn.Module:
    config = Qwen2MoeConfig(
        hidden_size=shape.hidden,
        moe_intermediate_size=shape.intermediate,
        num_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
        hidden_act="silu",
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        module = Qwen2MoeExperts(config)
    module.gate_up_proj, module.down_proj = (torch.nn.Parameter(w) for w in weights)
    return module


def call(module: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
    return module(inputs.hidden_states, inputs.top_k_index, inputs.top_k_weights)


if __name__ == "__main__":
    main()
