"""Experts layers of every layout transformers knows, and their formula in plain float64."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import use_experts_implementation

HIDDEN, INTERMEDIATE, EXPERTS, TOP_K = 48, 40, 6, 3


@dataclass(frozen=True)
class Layout:
    """The flags of `use_experts_implementation`, and the rest of a layer."""

    is_concatenated: bool = True
    is_transposed: bool = False
    has_bias: bool = False
    has_gate: bool = True
    has_post_expert_norm: bool = False
    activation: str = "silu"

    def __str__(self) -> str:
        words = [
            "concatenated" if self.is_concatenated else "interleaved",
            *(["transposed"] if self.is_transposed else []),
            *(["bias"] if self.has_bias else []),
            *([] if self.has_gate else ["no gate"]),
            *(["norm"] if self.has_post_expert_norm else []),
            self.activation,
        ]
        return " ".join(words)

    def build(self, dtype: torch.dtype, seed: int = 0) -> nn.Module:
        """A module of random weights, decorated as transformers decorates its own."""
        flags = {name: value for name, value in vars(self).items() if name != "activation"}
        layout = self

        @use_experts_implementation(**flags)
        class Experts(nn.Module):
            def __init__(self, config: SimpleNamespace) -> None:
                super().__init__()
                self.num_experts = EXPERTS
                self.act_fn = ACT2FN[layout.activation]
                up = "gate_up_proj" if layout.has_gate else "up_proj"
                outputs = (2 if layout.has_gate else 1) * INTERMEDIATE
                for name, out, inputs in ((up, outputs, HIDDEN), ("down_proj", HIDDEN, INTERMEDIATE)):
                    shape = (inputs, out) if layout.is_transposed else (out, inputs)
                    self.register_parameter(name, nn.Parameter(torch.empty(EXPERTS, *shape)))
                    if layout.has_bias:
                        bias = nn.Parameter(torch.empty(EXPERTS, out))
                        self.register_parameter(f"{name}_bias", bias)
                if layout.has_post_expert_norm:
                    self.post_expert_norm = nn.LayerNorm(HIDDEN)

            def forward(self, *_: torch.Tensor) -> torch.Tensor:
                raise AssertionError("the eager implementation of this layer is `formula`")

        if not self.is_concatenated:
            Experts._apply_gate = interleaved_gate
        module = Experts(SimpleNamespace(_experts_implementation="eager"))
        source = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0.0, 0.2, generator=source)
        return module.to(dtype).requires_grad_(False)


def interleaved_gate(self: nn.Module, gate_up: torch.Tensor) -> torch.Tensor:
    return self.act_fn(gate_up[..., ::2]) * gate_up[..., 1::2]


@dataclass(frozen=True)
class Call:
    """What a layer is called with."""

    hidden_states: torch.Tensor
    top_k_index: torch.Tensor
    top_k_weights: torch.Tensor


def random_call(
    tokens: int, dtype: torch.dtype, weights_dtype: torch.dtype | None = None, seed: int = 1
) -> Call:
    source = torch.Generator().manual_seed(seed)
    hidden_states = torch.randn(tokens, HIDDEN, generator=source).to(dtype)
    scores = torch.rand(tokens, EXPERTS, generator=source)
    weights, index = scores.topk(TOP_K)
    return Call(hidden_states, index, weights.to(weights_dtype or dtype))


def run(module: nn.Module, implementation: str, call: Call) -> torch.Tensor:
    """The layer by the name of an implementation."""
    module.config._experts_implementation = implementation
    return module(call.hidden_states, call.top_k_index, call.top_k_weights)


def formula(module: nn.Module, call: Call) -> torch.Tensor:
    """`out[t] = Σ_k w[t,k] · expert[ids[t,k]](x[t])` in float64, pair by pair."""
    out = torch.zeros(len(call.hidden_states), HIDDEN, dtype=torch.float64)
    up = "gate_up_proj" if module.has_gate else "up_proj"
    norm = module.post_expert_norm.double() if module.has_post_expert_norm else None
    for token, (ids, weights) in enumerate(zip(call.top_k_index, call.top_k_weights)):
        for expert, weight in zip(ids.tolist(), weights.double()):
            if expert >= module.num_experts:
                continue
            x = call.hidden_states[token].double()
            inner = project(module, up, expert, x)
            inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
            y = project(module, "down_proj", expert, inner)
            out[token] += weight * (y if norm is None else norm(y))
    if norm is not None:
        module.post_expert_norm.to(getattr(module, up).dtype)
    return out


def project(module: nn.Module, name: str, expert: int, x: torch.Tensor) -> torch.Tensor:
    weight = getattr(module, name)[expert].double()
    y = (weight.T if module.is_transposed else weight) @ x
    return y + getattr(module, f"{name}_bias")[expert].double() if module.has_bias else y


# The most roundings, in units of the dtype's epsilon, between a result and the formula, relative
# to the largest value: two products' inputs, what leaves the activation, and the result.
ROUNDINGS = 4


def assert_near(got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Whether a result is the formula's but for the roundings of its dtype."""
    eps = max(torch.finfo(dtype).eps, 8 * torch.finfo(torch.float32).eps)
    allowed = ROUNDINGS * eps * expected.abs().max().item()
    error = (got.double() - expected).abs().max().item()
    assert error <= allowed, f"off by {error:.3g}, at most {allowed:.3g} expected"
