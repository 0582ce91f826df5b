"""Gates of a model's own: computed by the kernels where they have the formula, else called back."""

import importlib
import inspect as python_inspect
import pkgutil
from typing import Any

import pytest
import torch
import transformers.models
from layers import Layout, assert_near, formula, random_call, run
from torch import nn

import moexperts  # noqa: F401 - registers the backends
from moexperts._gates import activation_name, gate_formula


class Counted:
    """A gate that counts its calls."""

    def __init__(self, gate: Any) -> None:
        self.gate, self.calls = gate, 0

    def __call__(self, module: nn.Module, gate_up: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.gate(module, gate_up)


def swiglu(module: nn.Module, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    gate, up = gate.clamp(max=module.limit), up.clamp(-module.limit, module.limit)
    return (up + 1) * gate * torch.sigmoid(gate * module.alpha)


def of_its_own(module: nn.Module, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.cos(gate) + up * up


def module_with(gate: Any, dtype: torch.dtype) -> tuple[nn.Module, Counted]:
    module, counted = Layout().build(dtype), Counted(gate)
    type(module)._apply_gate = lambda self, gate_up: counted(self, gate_up)
    module.alpha, module.limit = 1.3, 0.6
    return module, counted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", moexperts.BACKENDS)
def test_a_gate_of_its_own_is_called_back(implementation: str, dtype: torch.dtype) -> None:
    module, counted = module_with(of_its_own, dtype)
    call = random_call(9, dtype)
    assert gate_formula(type(module)) is None
    counted.calls = 0
    got = run(module, implementation, call)
    assert counted.calls == 1
    assert_near(got, formula(module, call), dtype)


def clamped(module: nn.Module, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return module.act_fn(gate.clamp(max=module.limit)) * up.clamp(-module.limit, module.limit)


@pytest.mark.parametrize("gate", [swiglu, clamped], ids=lambda gate: gate.__name__)
def test_a_clamped_gate_is_computed_by_the_kernels_with_the_modules_numbers(gate: Any) -> None:
    module, counted = module_with(gate, torch.float32)
    call = random_call(9, torch.float32)
    run(module, "moexperts", call)
    counted.calls = 0
    for alpha, limit in ((1.3, 0.6), (1.702, 7.0)):
        module.alpha, module.limit = alpha, limit
        got = run(module, "moexperts", call)
        assert counted.calls == 0
        assert_near(got, formula(module, call), torch.float32)
        counted.calls = 0


def test_a_gate_that_almost_is_one_of_the_kernels_is_not_taken_for_it() -> None:
    for almost in (
        lambda module, x: swiglu(module, x) + 1e-3,
        lambda module, x: swiglu(module, -x),
        lambda module, x: module.act_fn(x.chunk(2, -1)[1]) * x.chunk(2, -1)[0],
        lambda module, x: (module.act_fn(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1]).clamp(max=2.0),
    ):
        module, _ = module_with(almost, torch.float32)
        assert gate_formula(type(module)) is None
        call = random_call(9, torch.float32)
        assert_near(run(module, "moexperts", call), formula(module, call), torch.float32)


def experts_classes() -> list[type[nn.Module]]:
    """The experts of the installed transformers that have their own gate."""
    classes = []
    for family in pkgutil.iter_modules(transformers.models.__path__):
        name = f"transformers.models.{family.name}.modeling_{family.name}"
        try:
            source = python_inspect.getsource(importlib.import_module(name))
        except (ImportError, OSError):
            continue
        if "@use_experts_implementation" not in source or "def _apply_gate" not in source:
            continue
        module = importlib.import_module(name)
        members = python_inspect.getmembers(module, python_inspect.isclass)
        classes += [kind for _, kind in members if "_apply_gate" in vars(kind)]
    return [kind for kind in classes if vars(kind)["_apply_gate"].__module__ == kind.__module__]


def test_the_gates_of_transformers_are_known_or_called_back() -> None:
    formulas = {kind.__name__: gate_formula(kind) for kind in experts_classes()}
    assert formulas["GptOssExperts"] == ("clamped_swiglu", True, "alpha", "limit")
    assert formulas["DeepseekV4Experts"] == ("clamped_gated", False, "", "limit")
    assert formulas["HYV4Experts"] == ("clamped_silu", False, "", "swiglu_limit")
    assert formulas["BeamExperts"] == ("gated", False, "", "")
    # Its activation takes gate and up together.
    assert formulas["Inkling2Experts"] is None


def test_an_activation_has_the_name_of_what_it_computes() -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-4.0, 4.0, 101)
    same = {"silu": nn.SiLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh")}
    same["relu2"] = lambda x: x.relu() ** 2
    for name in ACT2FN:
        try:
            activation = ACT2FN[name]
        except ImportError:
            continue
        known = activation_name(activation)
        if known is not None:
            torch.testing.assert_close(activation(x), same[known](x), rtol=1e-5, atol=1e-6)
    names = ["silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu2"]
    known = [activation_name(ACT2FN[name]) for name in names]
    assert known == ["silu", "silu", "gelu", "gelu_tanh", "gelu_tanh", "relu2"]
