"""One experts layer of random numbers in torch, and the formula to check a program against."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import silu

from common import Routing, Shape, require_memory

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
WEIGHT_RANGE = 0.025

# More than the roundings of bf16 add up to, less than any wrong use of the weights.
MAX_RELATIVE_ERROR = 0.03

Weights = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Inputs:
    """What a layer is called with: hidden states and one routing."""

    hidden_states: torch.Tensor
    top_k_index: torch.Tensor
    top_k_weights: torch.Tensor


def random_weights(shape: Shape, dtype: str) -> Weights:
    """`gate_up_proj` [E, 2I, H] and `down_proj` [E, H, I]."""
    require_memory(shape.experts * shape.expert_bytes(dtype))
    source = torch.Generator().manual_seed(0)
    gate_up_proj = torch.empty(
        shape.experts, 2 * shape.intermediate, shape.hidden, dtype=DTYPES[dtype]
    )
    down_proj = torch.empty(shape.experts, shape.hidden, shape.intermediate, dtype=DTYPES[dtype])
    for weights in [gate_up_proj, down_proj]:
        weights.uniform_(-WEIGHT_RANGE, WEIGHT_RANGE, generator=source)
    return gate_up_proj, down_proj


def random_inputs(shape: Shape, dtype: str, routings: list[Routing]) -> list[Inputs]:
    """The same tokens for every routing."""
    tokens = len(routings[0])
    source = torch.Generator().manual_seed(tokens)
    hidden_states = torch.randn(tokens, shape.hidden, generator=source).to(DTYPES[dtype])
    logits = torch.randn(tokens, shape.top_k, generator=source)
    weights = logits.softmax(-1).to(DTYPES[dtype])
    return [Inputs(hidden_states, torch.tensor(routing), weights) for routing in routings]


def reference(weights: Weights, inputs: Inputs) -> torch.Tensor:
    """The formula, token by token in f32."""
    gate_up_proj, down_proj = weights
    output = torch.zeros(inputs.hidden_states.shape)
    for token, hidden in enumerate(inputs.hidden_states.float()):
        for expert, weight in zip(inputs.top_k_index[token], inputs.top_k_weights[token]):
            gate, up = (gate_up_proj[expert].float() @ hidden).chunk(2)
            output[token] += weight.float() * (down_proj[expert].float() @ (silu(gate) * up))
    return output


def check(layer: Callable[[Inputs], torch.Tensor], inputs: Inputs, expected: torch.Tensor) -> None:
    """Calls the layer and compares, for a program that is called wrongly may well be fast."""
    error = (layer(inputs).float() - expected).norm() / expected.norm()
    if not error < MAX_RELATIVE_ERROR:
        raise RuntimeError(f"relative error {error:.3g}, at most {MAX_RELATIVE_ERROR} expected")
