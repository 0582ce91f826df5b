"""Finds the formula between the two products of an experts module.

A class of transformers may have its own `_apply_gate`. We evaluate it on made-up values with made-up
attributes and compare the result with the formulas of the kernels. So a new family needs no entry
here, and a family that changes its formula is noticed.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import activations

# The made-up values of attributes that a gate may read.
ALPHA, LIMIT = 0.75, 1.25

# A key of `_KINDS`, whether gate and up are interleaved, and the names of the attributes that hold alpha
# and limit (empty: not read).
GateFormula = tuple[str, bool, str, str]


def activation_name(activation: Any) -> str | None:
    """The kernels' name of an activation; `None` if they lack it."""
    kind = type(activation)
    if kind is nn.GELU:
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(activation.approximate)
    if activation is torch.nn.functional.silu:
        return "silu"
    return _ACTIVATIONS.get(kind)


_ACTIVATIONS: dict[type, str] = {
    nn.SiLU: "silu",
    activations.SiLUActivation: "silu",
    activations.GELUActivation: "gelu",
    activations.GELUTanh: "gelu_tanh",
    activations.NewGELUActivation: "gelu_tanh",
    activations.ReLUSquaredActivation: "relu2",
}


@torch._dynamo.assume_constant_result
def gate_formula(module_class: type[nn.Module]) -> GateFormula | None:
    """The formula of `module_class._apply_gate`; `None` if the kernels lack it."""
    return _formula_of(module_class._apply_gate)


@cache
def _formula_of(gate: Callable[[Any, torch.Tensor], torch.Tensor]) -> GateFormula | None:
    stub, gate_up = _Stub(), _probe()
    try:
        with torch.no_grad():
            computed = gate(stub, gate_up)
    except Exception:  # noqa: BLE001 - a gate may need anything of its module
        return None
    for interleaved, halves in _halves(gate_up).items():
        for kind, function in _KINDS.items():
            expected = function(*halves)
            if computed.shape == expected.shape and torch.allclose(computed, expected, 0.0, 1e-5):
                return kind, interleaved, stub.read(ALPHA), stub.read(LIMIT)
    return None


def _probe() -> torch.Tensor:
    """Distinct values in random order, some beyond the limit on both sides: [6, 2 · 7]."""
    order = torch.randperm(6 * 14, generator=torch.Generator().manual_seed(0))
    return torch.linspace(-3.0, 3.0, 6 * 14)[order].reshape(6, 14)


def _halves(gate_up: torch.Tensor) -> dict[bool, tuple[torch.Tensor, torch.Tensor]]:
    gate, up = gate_up.chunk(2, dim=-1)
    return {False: (gate, up), True: (gate_up[..., ::2], gate_up[..., 1::2])}


def _act(gate: torch.Tensor) -> torch.Tensor:
    """An activation unlike any real one."""
    return torch.sin(gate) + 0.5 * gate


def _gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return _act(gate) * up


def _clamped_swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    gate, up = gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT)
    return (up + 1) * (gate * torch.sigmoid(ALPHA * gate))


def _clamped_gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return _act(gate.clamp(max=LIMIT)) * up.clamp(-LIMIT, LIMIT)


def _clamped_silu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return nn.functional.silu(gate.clamp(max=LIMIT)) * up.clamp(-LIMIT, LIMIT)


_KINDS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "gated": _gated,
    "clamped_swiglu": _clamped_swiglu,
    "clamped_gated": _clamped_gated,
    "clamped_silu": _clamped_silu,
}


class _Stub:
    """Stands for a module: an activation, and a number for every attribute named like one."""

    def __init__(self) -> None:
        self.act_fn = _act
        self._read: dict[float, str] = {}

    def __getattr__(self, name: str) -> float:
        for word, value in (("alpha", ALPHA), ("limit", LIMIT)):
            if word in name and not name.startswith("__"):
                self._read[value] = name
                return value
        raise AttributeError(name)

    def read(self, value: float) -> str:
        """The name of the attribute that had this value; empty if none was read."""
        return self._read.get(value, "")
