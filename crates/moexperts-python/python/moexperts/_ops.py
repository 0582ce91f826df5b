"""The operations on tensors: called directly, or as operators of torch where it traces a graph."""

import os
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch

from . import _native

# Classes of tensors whose `data_ptr` is the address of their values.
PLAIN = (torch.Tensor, torch.nn.Parameter)

# Limit of the descriptions of weights that are kept: enough for the layers of several models.
MOST_DESCRIPTIONS = 1024

# Whether layers are computed on the threads of torch.
HOSTED = _native.use_openmp_of(
    os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so")
)

_DTYPE_NAMES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


class Parameters(NamedTuple):
    """The weights and biases of an experts module, as transformers names them."""

    gate_up_proj: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down_proj: torch.Tensor
    down_bias: torch.Tensor | None


class Formula(NamedTuple):
    """How experts compute with their weights.

    Args:
        activation: as the kernels name it: `silu`, `gelu`, `clamped_swiglu`, ...
        alpha, limit: constants of clamped activations; 0 for others.
        gated: whether `gate_up_proj` holds a gate beside the up projection.
        interleaved: whether rows of gate and up alternate; else all gate rows come first.
        transposed: whether weights are stored as [E, in, out]; else as [E, out, in].
        unrounded: whether inputs of products stay in float32, where a faster kernel would round
            them to the dtype of the weights.
    """

    activation: str
    alpha: float = 0.0
    limit: float = 0.0
    gated: bool = True
    interleaved: bool = False
    transposed: bool = False
    unrounded: bool = False


def experts(
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    parameters: Parameters,
    backend: str,
    formula: Formula,
) -> torch.Tensor:
    """`out[t] = Σ_k w[t,k] · expert[ids[t,k]](x[t])`: [T, H] of the dtype of `hidden_states`."""
    op = torch.ops.moexperts.experts
    routing = (top_k_index, top_k_weights)
    return _dispatch(_experts, op, hidden_states, *routing, *parameters, backend, *formula)


def expert_linear(
    x: torch.Tensor,
    top_k_index: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    transposed: bool,
) -> torch.Tensor:
    """One projection for each (token, expert) pair: [T · K, out] in float32.

    `x` has a row for each token, or one for each pair. The rows of sentinels are 0.
    """
    op = torch.ops.moexperts.expert_linear
    return _dispatch(_expert_linear, op, x, top_k_index, weight, bias, transposed)


def _dispatch(function: Callable[..., torch.Tensor], op: Any, *args: Any) -> torch.Tensor:
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    # Torch dispatches an operator for tensors that are not plain memory (fake, meta, subclasses).
    plain = all(type(tensor) in PLAIN for tensor in tensors) and tensors[0].device.type != "meta"
    if torch.compiler.is_compiling() or not plain:
        return op(*args)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _WithoutGradient.apply(function, *args)
    return function(*args)


def _experts(
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    gate_up_proj: torch.Tensor,
    gate_up_bias: torch.Tensor | None,
    down_proj: torch.Tensor,
    down_bias: torch.Tensor | None,
    backend: str,
    *fields: Any,
) -> torch.Tensor:
    """The operator: the fields of `Parameters` and `Formula` are arguments of it."""
    formula = Formula(*fields)
    _on_cpu(hidden_states, top_k_index, top_k_weights, gate_up_proj, down_proj)
    gate_up, down = _address(gate_up_proj), _address(down_proj)
    dtype = gate_up_proj.dtype
    key = (gate_up, down, dtype, formula)
    layer = _descriptions.get(key)
    if layer is None:
        _same_dtype("down_proj", down_proj, dtype)
        layer = _native.Layer(gate_up, down, _name(dtype), **formula._asdict())
        _keep(key, layer)
    x = _rows("hidden_states", hidden_states)
    ids, weights = top_k_index.to(torch.int64).contiguous(), top_k_weights.contiguous()
    _same_shape("top_k_index and top_k_weights", ids, weights)
    out = _experts_out(x, ids, down_proj, formula.transposed)
    biases = None
    if (gate_up_bias is None) != (down_bias is None):
        missing = "down" if down_bias is None else "gate_up"
        raise ValueError(f"{missing}_bias is missing, expected both biases or none")
    if gate_up_bias is not None and down_bias is not None:
        _on_cpu(gate_up_bias, down_bias)
        biases = [_biases(gate_up_bias), _biases(down_bias)]
    threads, routes = torch.get_num_threads(), _routes(x.size(0), ids, weights)
    layer.forward(backend, threads, _activations(x), routes, biases, out.data_ptr())
    return out


def _expert_linear(
    x: torch.Tensor,
    top_k_index: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    transposed: bool,
) -> torch.Tensor:
    _on_cpu(x, top_k_index, weight, *([] if bias is None else [bias]))
    address = _address(weight)
    key = (address, weight.dtype, transposed)
    projection = _descriptions.get(key)
    if projection is None:
        projection = _native.Projection(address, _name(weight.dtype), transposed=transposed)
        _keep(key, projection)
    x = _rows("input of the projection", x)
    ids = top_k_index.to(torch.int64).contiguous()
    # The routing's weights are not used, but its shape is.
    weights = torch.empty(ids.shape, dtype=torch.float32)
    out = _expert_linear_out(x, ids, weight, transposed)
    threads, routes = torch.get_num_threads(), _routes(ids.size(0), ids, weights)
    bias = None if bias is None else _biases(bias)
    projection.forward(threads, _activations(x), ids.size(0), routes, bias, out.data_ptr())
    return out


def _experts_out(
    x: torch.Tensor, ids: torch.Tensor, down_proj: torch.Tensor, transposed: bool
) -> torch.Tensor:
    return x.new_empty((x.size(0), down_proj.size(2 if transposed else 1)))


def _expert_linear_out(
    x: torch.Tensor, ids: torch.Tensor, weight: torch.Tensor, transposed: bool
) -> torch.Tensor:
    shape = (ids.size(0) * ids.size(1), weight.size(2 if transposed else 1))
    return x.new_empty(shape, dtype=torch.float32)


# Descriptions of weights by address, shape and strides. They hold none of torch's memory, so one of
# freed weights does no harm: weights at the same address with the same shape have the same description.
_descriptions: dict[Hashable, Any] = {}


def _keep(key: Hashable, description: Any) -> None:
    if len(_descriptions) >= MOST_DESCRIPTIONS:
        _descriptions.clear()
    _descriptions[key] = description


def _on_cpu(*tensors: torch.Tensor) -> None:
    """Refuses tensors whose addresses are not in this process's memory."""
    if not all(tensor.is_cpu for tensor in tensors):
        devices = ", ".join(str(tensor.device) for tensor in tensors)
        raise ValueError(f"tensors of experts are on {devices}, expected all on the CPU")


def _address(weight: torch.Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return weight.data_ptr(), weight.shape, weight.stride()


def _activations(x: torch.Tensor) -> tuple[int, str, tuple[int, ...], int]:
    return x.data_ptr(), _name(x.dtype), x.shape, x.stride(0)


def _biases(bias: torch.Tensor) -> tuple[int, str, tuple[int, ...], tuple[int, ...]]:
    return bias.data_ptr(), _name(bias.dtype), bias.shape, bias.stride()


def _routes(tokens: int, ids: torch.Tensor, weights: torch.Tensor) -> tuple[int, int, str, int]:
    if ids.dim() != 2 or ids.size(0) != tokens:
        raise ValueError(f"top_k_index has shape {[*ids.shape]}, expected [{tokens}, K]")
    return ids.data_ptr(), weights.data_ptr(), _name(weights.dtype), ids.size(1)


def _rows(name: str, x: torch.Tensor) -> torch.Tensor:
    """Activations, copied if the values of a row are not adjacent."""
    if x.dim() != 2:
        raise ValueError(f"{name} has shape {[*x.shape]}, expected two dimensions")
    return x if x.stride(-1) == 1 or x.size(-1) <= 1 else x.contiguous()


def _name(dtype: torch.dtype) -> str:
    return _DTYPE_NAMES.get(dtype) or str(dtype).removeprefix("torch.")


def _same_dtype(what: str, tensor: torch.Tensor, expected: torch.dtype) -> None:
    if tensor.dtype != expected:
        raise TypeError(f"{what} has dtype {tensor.dtype}, expected {expected} as gate_up_proj")


def _same_shape(what: str, first: torch.Tensor, second: torch.Tensor) -> None:
    if first.shape != second.shape:
        shapes = f"{[*first.shape]} and {[*second.shape]}"
        raise ValueError(f"{what} have shapes {shapes}, expected the same [T, K]")


class _WithoutGradient(torch.autograd.Function):
    """A result whose gradient is refused."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        return function(*args)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> None:
        _refuse_gradient(ctx, *gradients)


def _refuse_gradient(_: Any, *__: torch.Tensor) -> None:
    raise NotImplementedError(
        "moexperts computes no gradients yet; to train, use "
        'model.set_experts_implementation("grouped_mm")'
    )


# Operators stand for the functions where torch traces a graph of a model. Their schema lists the fields
# of `Parameters` and `Formula` one by one.
_library = torch.library.Library("moexperts", "DEF")
_library.define(
    "experts(Tensor hidden_states, Tensor top_k_index, Tensor top_k_weights, "
    "Tensor gate_up_proj, Tensor? gate_up_bias, Tensor down_proj, Tensor? down_bias, "
    "str backend, str activation, float alpha, float limit, "
    "bool gated, bool interleaved, bool transposed, bool unrounded) -> Tensor"
)
_library.define(
    "expert_linear(Tensor x, Tensor top_k_index, Tensor weight, Tensor? bias, bool transposed) "
    "-> Tensor"
)
_library.impl("experts", _experts, "CPU")
_library.impl("expert_linear", _expert_linear, "CPU")


@torch.library.register_fake("moexperts::experts", lib=_library)
def _fake_experts(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, *fields: Any
) -> torch.Tensor:
    of_parameters = len(Parameters._fields)
    parameters, (_, *fields) = Parameters(*fields[:of_parameters]), fields[of_parameters:]
    return _experts_out(x, ids, parameters.down_proj, Formula(*fields).transposed)


@torch.library.register_fake("moexperts::expert_linear", lib=_library)
def _fake_expert_linear(
    x: torch.Tensor,
    ids: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    transposed: bool,
) -> torch.Tensor:
    return _expert_linear_out(x, ids, weight, transposed)


for _name_of_op in ("experts", "expert_linear"):
    torch.library.register_autograd(f"moexperts::{_name_of_op}", _refuse_gradient, lib=_library)
