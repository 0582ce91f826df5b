"""Tiny models under test: built, saved, loaded again and run with an experts implementation."""

import contextlib
import dataclasses
import inspect
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from families import experts_layers
from tiny_configs import FIRST_TEXT_ID, HIDDEN, INITIALIZER_RANGE, VOCAB, tiny_config

SEED = 42
BATCH, TOKENS = 2, 13

# By the path of the layer in its model.
Calls = Counter[str]
Inputs = dict[str, torch.Tensor]
Outputs = dict[str, torch.Tensor]


class CannotRun(Exception):
    """Why a model class is not under test, in one line."""


@dataclass(frozen=True)
class Run:
    """The outputs of a forward pass, and how often it called what in each experts layer."""

    outputs: Outputs
    layer_calls: Calls
    implementation_calls: dict[str, Calls]


class Subject:
    """A model class under test, with the weights of one seed."""

    def __init__(self, model_class: type[PreTrainedModel], folder: Path) -> None:
        self.model_class = model_class
        self._folder = folder
        self._models: dict[torch.dtype, PreTrainedModel] = {}
        _build(model_class).save_pretrained(folder)
        self.model = self.of_type(torch.float32)
        self.kind_of_inputs = _working_kind(self.model)
        self.inputs = self.inputs_of(BATCH)

    def inputs_of(self, batch: int) -> Inputs:
        return make_inputs(self.model, self.kind_of_inputs, batch)

    def of_type(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model as a user loads it."""
        if dtype not in self._models:
            model = self.model_class.from_pretrained(self._folder, dtype=dtype).eval()
            model.set_experts_implementation("eager")
            _misalign_first(model)
            self._models[dtype] = model
        return self._models[dtype]


@contextlib.contextmanager
def subject(model_class: type[PreTrainedModel]) -> Iterator[Subject]:
    """The model class with weights, or CannotRun."""
    with tempfile.TemporaryDirectory() as folder:
        yield Subject(model_class, Path(folder))


def run(model: PreTrainedModel, implementation: str, inputs: Mapping[str, Any]) -> Run:
    model.set_experts_implementation(implementation)
    with counted_calls(model) as (layers, implementations):
        outputs = forward(model, inputs)
    model.set_experts_implementation("eager")
    return Run(outputs, layers, implementations)


def forward(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Outputs:
    """The floating-point outputs by name, without caches."""
    # Some models draw random numbers in their forward pass.
    torch.manual_seed(SEED)
    dtype = model.dtype
    given = {
        name: value.to(dtype) if torch.is_floating_point(value) else value
        for name, value in inputs.items()
    }
    with torch.no_grad():
        outputs = model(**given)
    return {
        name: value
        for name, value in outputs.items()
        if isinstance(value, torch.Tensor) and torch.is_floating_point(value)
    }


@contextlib.contextmanager
def counted_calls(model: PreTrainedModel) -> Iterator[tuple[Calls, dict[str, Calls]]]:
    """Counts the calls of the experts layers, and of each implementation by them."""
    layers = experts_layers(model)
    paths = {id(layer): path for path, layer in layers.items()}
    of_layers: Calls = Counter()
    of_implementations: dict[str, Calls] = {}

    def count_layer(layer: torch.nn.Module, *_: object) -> None:
        of_layers[paths[id(layer)]] += 1

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            of_implementations.setdefault(name, Counter())[paths[id(layer)]] += 1
            return function(layer, *args, **kwargs)

        return wrapper

    with contextlib.ExitStack() as hooks:
        for layer in layers.values():
            hooks.callback(layer.register_forward_pre_hook(count_layer).remove)
        hooks.enter_context(replaced_implementations(counted))
        yield of_layers, of_implementations


@contextlib.contextmanager
def replaced_implementations(
    by: Callable[[str, Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    """Every registered implementation replaced by what `by` makes of its name and function."""
    registered = dict(ALL_EXPERTS_FUNCTIONS)
    local = dict(ALL_EXPERTS_FUNCTIONS._local_mapping)
    for name, function in registered.items():
        ALL_EXPERTS_FUNCTIONS[name] = by(name, function)
    try:
        yield
    finally:
        ALL_EXPERTS_FUNCTIONS._local_mapping.clear()
        ALL_EXPERTS_FUNCTIONS._local_mapping.update(local)


def _build(model_class: type[PreTrainedModel]) -> PreTrainedModel:
    if model_class.forward is torch.nn.Module.forward:
        raise CannotRun("no own forward")
    if not dataclasses.is_dataclass(model_class.config_class):
        raise CannotRun("no own config class")
    with reason_of("config"):
        config = tiny_config(model_class.config_class)
    torch.manual_seed(SEED)
    with reason_of("build"):
        model = model_class(config)
    if not experts_layers(model):
        raise CannotRun("holds no experts layer")
    _fill(model)
    return model


@contextlib.contextmanager
def reason_of(stage: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error
        first_line = next(iter(str(cause).strip().splitlines()), "")
        raise CannotRun(f"{stage}: {type(cause).__name__}: {first_line}") from error


def _fill(model: PreTrainedModel) -> None:
    """Random numbers for what a class leaves without any, or constant, which would test nothing."""
    for layer in experts_layers(model).values():
        for parameter in layer.parameters():
            parameter.data = torch.randn(parameter.shape) * INITIALIZER_RANGE
            if parameter.dim() == 1:
                # Of a norm.
                parameter.data += 1.0
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            parameter.data = torch.randn(parameter.shape) * INITIALIZER_RANGE


def _misalign_first(model: PreTrainedModel) -> None:
    """The first experts layer's weights at addresses that only their own size divides.

    A mapped checkpoint may have them there.
    """
    first = next(iter(experts_layers(model).values()))
    for parameter in first.parameters():
        storage = torch.empty(parameter.numel() + 1, dtype=parameter.dtype)
        parameter.data = storage[1:].view(parameter.shape).copy_(parameter.data)


def _working_kind(model: PreTrainedModel) -> str:
    """The first kind of inputs that the model takes."""
    parameters = inspect.signature(model.forward).parameters
    reasons = []
    for kind in KINDS_OF_INPUTS:
        if kind not in parameters:
            continue
        try:
            with reason_of("forward"):
                forward(model, make_inputs(model, kind, BATCH))
        except CannotRun as reason:
            reasons.append(reason)
        else:
            return kind
    raise reasons[0] if reasons else CannotRun(f"takes none of {', '.join(KINDS_OF_INPUTS)}")


def make_inputs(model: PreTrainedModel, kind: str, batch: int) -> Inputs:
    """Random inputs of a kind, those of them that the model takes."""
    parameters = inspect.signature(model.forward).parameters
    inputs = KINDS_OF_INPUTS[kind](batch, torch.Generator().manual_seed(SEED))
    return {name: value for name, value in inputs.items() if name in parameters}


def _text(batch: int, source: torch.Generator) -> Inputs:
    shape = (batch, TOKENS)
    return {
        "input_ids": torch.randint(FIRST_TEXT_ID, VOCAB, shape, generator=source),
        "attention_mask": torch.ones(shape, dtype=torch.int64),
        # Which tokens go to the experts of images, where those have their own.
        "moe_mm_token_type_ids": torch.randint(0, 2, shape, generator=source, dtype=torch.int32),
    }


def _embeddings(batch: int, source: torch.Generator) -> Inputs:
    return {
        "inputs_embeds": torch.randn(batch, TOKENS, HIDDEN, generator=source),
        "attention_mask": torch.ones(batch, TOKENS, dtype=torch.int64),
    }


def _patches(batch: int, source: torch.Generator) -> Inputs:
    """Images of 4 x 4 patches of 14 x 14 pixels."""
    return {
        "pixel_values": torch.randn(batch * 16, 3 * 14 * 14, generator=source),
        "grid_thw": torch.tensor([[1, 4, 4]] * batch),
    }


# By the name of the input that is there in each kind.
KINDS_OF_INPUTS: Mapping[str, Callable[[int, torch.Generator], Inputs]] = {
    "input_ids": _text,
    "inputs_embeds": _embeddings,
    "grid_thw": _patches,
}
