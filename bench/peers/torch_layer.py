"""One experts layer of random numbers in torch, and the formula to check a program against."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import silu

from common import Routing, Shape, require_memory

# Its name is new.
grouped_mm = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
WEIGHT_RANGE = 0.025
CPU = torch.device("cpu")

# More than the roundings of bf16 add up to, less than any wrong use of the weights.
MAX_RELATIVE_ERROR = 0.03

Weights = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Inputs:
    """What a layer is called with: hidden states and one routing."""

    hidden_states: torch.Tensor
    top_k_index: torch.Tensor
    top_k_weights: torch.Tensor


def random_weights(shape: Shape, dtype: str, device: torch.device = CPU, seed: int = 0) -> Weights:
    """`gate_up_proj` [E, 2I, H] and `down_proj` [E, H, I]."""
    if device == CPU:
        require_memory(shape.experts * shape.expert_bytes(dtype))
    source = torch.Generator(device).manual_seed(seed)
    sizes = [(2 * shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)]
    gate_up_proj, down_proj = (
        torch.empty(shape.experts, *size, dtype=DTYPES[dtype], device=device) for size in sizes
    )
    for weights in [gate_up_proj, down_proj]:
        weights.uniform_(-WEIGHT_RANGE, WEIGHT_RANGE, generator=source)
    return gate_up_proj, down_proj


def random_inputs(
    shape: Shape, dtype: str, routings: list[Routing], device: torch.device = CPU
) -> list[Inputs]:
    """The same tokens for every routing."""
    tokens = len(routings[0])
    source = torch.Generator().manual_seed(tokens)
    hidden_states = torch.randn(tokens, shape.hidden, generator=source).to(device, DTYPES[dtype])
    logits = torch.randn(tokens, shape.top_k, generator=source)
    weights = logits.softmax(-1).to(device, DTYPES[dtype])
    indices = [torch.tensor(routing, device=device) for routing in routings]
    return [Inputs(hidden_states, index, weights) for index in indices]


class GroupedExperts(torch.nn.Module):
    """A layer of torch's own grouped product, with no more around it than the product needs."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = (torch.nn.Parameter(w) for w in weights)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        tokens, top_k = top_k_index.shape
        experts = torch.arange(self.gate_up_proj.shape[0], device=top_k_index.device)
        sorted_index, order = top_k_index.flatten().sort()
        ends = torch.searchsorted(sorted_index, experts, right=True).int()
        rows = hidden_states[order // top_k]
        gate_up = grouped_mm(rows, self.gate_up_proj.transpose(-2, -1), offs=ends)
        gate, up = gate_up.chunk(2, dim=-1)
        rows = grouped_mm(silu(gate) * up, self.down_proj.transpose(-2, -1), offs=ends)
        rows = rows * top_k_weights.flatten()[order].unsqueeze(-1)
        output = torch.empty_like(rows).index_copy_(0, order, rows)
        return output.view(tokens, top_k, -1).sum(dim=1)


def reference(weights: Weights, inputs: Inputs) -> torch.Tensor:
    """The formula, token by token in f32."""
    gate_up_proj, down_proj = weights
    output = torch.zeros_like(inputs.hidden_states, dtype=torch.float32)
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
