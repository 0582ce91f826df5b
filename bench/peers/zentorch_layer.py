#!/usr/bin/env python3
"""Measures the fused experts layer of zentorch, AMD's extension of torch for EPYC processors."""

import torch
import zentorch  # noqa: F401, registers torch.ops.zentorch

from common import (
    NOT_COMPILED,
    Layer,
    Routing,
    Row,
    Shape,
    first_line,
    layer_parser,
    routings,
    time_in_turns,
    write_rows,
)
from torch_layer import Inputs, Weights, check, random_inputs, random_weights, reference

NAME = "zentorch/fused_moe"


def main() -> None:
    args = layer_parser(__doc__).parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(args.threads)

    weights = random_weights(args.shape, args.dtype)
    # The operator packs its weights in place on the first call: the formula has to come before.
    [first, *_] = inputs_for_zentorch(args.shape, args.dtype, routings(args.shape, 1))
    expected = reference(weights, first)
    refusal = None
    try:
        check(lambda of: fused_moe(weights, of), first, expected)
    except RuntimeError as error:
        refusal = first_line(error)

    rows: list[Row] = []
    for tokens in args.tokens:
        routed = routings(args.shape, tokens)
        layer = Layer(args.shape, args.dtype, args.threads, tokens, NOT_COMPILED, routed)
        if refusal is not None:
            rows.append(layer.skipped(NAME, refusal))
            continue
        inputs = inputs_for_zentorch(args.shape, args.dtype, routed)
        runs = time_in_turns({NAME: lambda index, of=inputs: fused_moe(weights, of[index])})
        rows.append(layer.row(NAME, runs[NAME]))
    write_rows(rows, args.json)


def inputs_for_zentorch(shape: Shape, dtype: str, of: list[Routing]) -> list[Inputs]:
    return [
        Inputs(inputs.hidden_states, inputs.top_k_index.int(), inputs.top_k_weights.float())
        for inputs in random_inputs(shape, dtype, of)
    ]


def fused_moe(weights: Weights, inputs: Inputs) -> torch.Tensor:
    output = torch.empty_like(inputs.hidden_states)
    torch.ops.zentorch.zentorch_fused_moe(
        output,
        inputs.hidden_states,
        *weights,
        None,
        None,
        inputs.top_k_weights,
        inputs.top_k_index,
        False,
        "silu",
    )
    return output


if __name__ == "__main__":
    main()
