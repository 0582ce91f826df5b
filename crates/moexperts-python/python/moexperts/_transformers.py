"""The backends as transformers calls them: functions of an experts module and a routing."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from transformers.integrations.finegrained_fp8 import FP8ExpertsInterface
from transformers.integrations.moe import ExpertsInterface

from . import _ops
from ._gates import activation_name, gate_formula
from ._ops import Formula, Parameters

# The names in transformers, and the backend behind each.
BACKENDS = {
    "moexperts": "grouped_mm",
    "moexperts_eager": "eager",
    "moexperts_batched_mm": "batched_mm",
    "moexperts_grouped_mm": "grouped_mm",
}

# What transformers calls: module, hidden_states [T, H], top_k_index and top_k_weights [T, K].
ExpertsForward = Callable[
    [torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
]

# Their own forward stays in float32 from end to end, whatever the dtype of the weights.
UNROUNDED = ("OpenAIPrivacyFilterExperts",)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def register() -> None:
    """Registers the backends in transformers; calling it again changes nothing."""
    for name, backend in BACKENDS.items():
        ExpertsInterface.register(name, partial(experts_forward, backend))
        # Models with quantised experts accept every name and look it up here.
        FP8ExpertsInterface.register(name, partial(_quantised_forward, name))


def experts_forward(
    backend: str,
    module: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """The experts of `module` for each token, weighted and added up.

    Args:
        backend: `grouped_mm`, `batched_mm` or `eager`.
        module: an experts module of transformers, with its weights and flags.
        hidden_states: [T, H], float32, float16 or bfloat16.
        top_k_index: [T, K]; an id beyond the last expert is a sentinel and contributes nothing.
        top_k_weights: [T, K].

    Returns:
        [T, H] of the dtype of `hidden_states`.

    Raises:
        NotImplementedError: for tensors that are not on the CPU, and quantised experts.
        ValueError: if shapes disagree.
    """
    gate_up, gate_up_bias = _projection(module, "gate_up_proj" if module.has_gate else "up_proj")
    down, down_bias = _projection(module, "down_proj")
    _check_device("hidden_states", hidden_states)
    formula = _formula(module)
    if formula is None or getattr(module, "has_post_expert_norm", False):
        return _by_parts(module, hidden_states, top_k_index, top_k_weights)
    parameters = Parameters(gate_up, gate_up_bias, down, down_bias)
    return _ops.experts(
        hidden_states, top_k_index, top_k_weights, parameters, backend, formula
    )


def _formula(module: Any) -> Formula | None:
    """How the module computes between its products; `None` if the kernels have no such formula."""
    activation = activation_name(getattr(module, "act_fn", None))
    stored = {
        "transposed": module.is_transposed,
        "unrounded": type(module).__name__ in UNROUNDED,
    }
    if not module.has_gate:
        return None if activation is None else Formula(activation, gated=False, **stored)
    found = gate_formula(type(module))
    if found is None:
        return None
    kind, interleaved, alpha_name, limit_name = found
    alpha, limit = (float(getattr(module, name)) if name else 0.0 for name in (alpha_name, limit_name))
    stored["interleaved"] = interleaved
    if kind == "gated":
        return None if activation is None else Formula(activation, **stored)
    if kind == "clamped_gated":
        return Formula("clamped_silu", limit=limit, **stored) if activation == "silu" else None
    return Formula(kind, alpha, limit, **stored)


def _by_parts(
    module: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
) -> torch.Tensor:
    """The same, with what the module computes between and after the products called back."""
    gate_up, gate_up_bias = _projection(module, "gate_up_proj" if module.has_gate else "up_proj")
    down, down_bias = _projection(module, "down_proj")
    transposed = module.is_transposed
    inner = _ops.expert_linear(hidden_states, top_k_index, gate_up, gate_up_bias, transposed)
    inner = _as_called(getattr(module, "act_fn", None), inner, gate_up.dtype)
    inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
    out = _ops.expert_linear(inner, top_k_index, down, down_bias, transposed)
    if getattr(module, "has_post_expert_norm", False):
        out = module.post_expert_norm(_as_called(module.post_expert_norm, out, down.dtype))
    # The rows of sentinels are 0, but a norm need not leave them so.
    weights = top_k_weights.masked_fill(top_k_index >= down.size(0), 0.0)
    weighted = out * weights.reshape(-1, 1)
    summed = weighted.view(*top_k_index.shape, out.size(-1)).sum(dim=1)
    return summed.to(hidden_states.dtype)


def _as_called(function: Any, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values in float32 as a function takes them: one with parameters, in their dtype."""
    has_parameters = isinstance(function, torch.nn.Module) and any(True for _ in function.parameters())
    return x.to(dtype) if has_parameters else x


def _projection(module: Any, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A parameter of the experts and its bias."""
    weight = getattr(module, name, None)
    bias = getattr(module, f"{name}_bias") if getattr(module, "has_bias", False) else None
    found = _unusual(weight)
    if found is not None:
        raise NotImplementedError(_quantised(f"{type(module).__name__}.{name}", found))
    return weight, bias


def _unusual(weight: Any) -> str | None:
    """Why the kernels cannot read a weight; `None` if they can."""
    if not isinstance(weight, torch.Tensor):
        return "no such tensor"
    if weight.dtype not in DTYPES:
        return f"dtype {weight.dtype}"
    # A tensor that packs others under a dtype it only stands for.
    if not torch.compiler.is_compiling() and type(weight) not in (*_ops.PLAIN, FakeTensor):
        return f"a {type(weight).__name__}"
    return None


def _quantised(what: str, found: str) -> str:
    return (
        f"{what}: expected float32, float16 or bfloat16 weights, got {found}; moexperts has no "
        'kernels for quantised experts yet: load the model dequantised, or use '
        'model.set_experts_implementation("grouped_mm")'
    )


def _quantised_forward(name: str, module: torch.nn.Module, *_: Any, **__: Any) -> torch.Tensor:
    found = "FP8 or FP4 experts"
    raise NotImplementedError(_quantised(f"{name} on {type(module).__name__}", found))


def _check_device(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type not in ("cpu", "meta"):
        raise NotImplementedError(
            f"{name} is on {tensor.device}, expected the CPU; moexperts for Python has no CUDA "
            'kernels yet: use model.to("cpu"), or model.set_experts_implementation("grouped_mm")'
        )
