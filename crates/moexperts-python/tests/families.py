"""The model classes of transformers whose experts can be switched, by family."""

import functools
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

DECORATOR = "@use_experts_implementation"


@dataclass(frozen=True)
class Family:
    """A modeling file with switchable experts: `name` is its folder."""

    name: str
    experts_classes: tuple[type[torch.nn.Module], ...]
    model_classes: tuple[type[PreTrainedModel], ...]


@functools.cache
def families() -> dict[str, Family]:
    files = sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py"))
    names = [(file.parent.name, file.stem) for file in files if DECORATOR in file.read_text()]
    found = [_family(folder, stem) for folder, stem in names]
    return {family.name: family for family in found}


@functools.cache
def model_classes() -> dict[str, type[PreTrainedModel]]:
    """Every switchable model class by its name, those of the families first."""
    loaded = [model for family in families().values() for model in family.model_classes]
    others = [model for model in _subclasses(PreTrainedModel) if is_switchable(model)]
    return {model.__name__: model for model in [*loaded, *others]}


def is_switchable(model_class: type[PreTrainedModel]) -> bool:
    is_of_library = model_class.__module__.startswith("transformers.")
    return is_of_library and model_class._can_set_experts_implementation()


def family_name(model_class: type[PreTrainedModel]) -> str:
    """The folder of a model class; the file of one that belongs to no family."""
    *_, folder, file = model_class.__module__.split(".")
    return folder if folder in families() else file


@functools.cache
def experts_classes() -> tuple[type[torch.nn.Module], ...]:
    return tuple(experts for family in families().values() for experts in family.experts_classes)


def experts_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The experts layers of a model by their path in it."""
    modules = model.named_modules()
    return {path: module for path, module in modules if isinstance(module, experts_classes())}


def _family(folder: str, stem: str) -> Family:
    module = importlib.import_module(f"transformers.models.{folder}.{stem}")
    # Whole lines, as comments may name the decorator too.
    lines = inspect.getsource(module).splitlines()
    decorated = [
        line.removeprefix("class ").split("(")[0]
        for above, line in zip(lines, lines[1:], strict=False)
        if above.startswith(DECORATOR)
    ]
    models = [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, PreTrainedModel)
        and member.__module__ == module.__name__
        and is_switchable(member)
    ]
    return Family(folder, tuple(getattr(module, name) for name in decorated), tuple(models))


def _subclasses(of: type) -> Iterator[type]:
    for subclass in of.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
