"""The committed table of model classes: which run, which cannot and why."""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from families import experts_layers, families, family_name, model_classes
from subjects import CannotRun, Subject, forward, reason_of, run, subject

PATH = Path(__file__).with_name("families.md")
WRITE_VARIABLE = "MOEXPERTS_WRITE_FAMILIES"

HALF_TYPES = {"f16": torch.float16, "bf16": torch.bfloat16}

# What the row of a class says that runs begins so.
RUNS = "runs"


@dataclass(frozen=True)
class Row:
    """A model class, and `runs ...` or why it cannot run."""

    family: str
    model_class: str
    state: str

    @property
    def runs(self) -> bool:
        return self.state.startswith(RUNS)

    @property
    def needs_a_package(self) -> bool:
        """Whether it cannot run only where some package is missing."""
        return "ModuleNotFoundError" in self.state


def runnable() -> list[str]:
    """The classes to test, by the table; all there are if it is of another transformers."""
    if not is_of_installed_version():
        return list(model_classes())
    return [row.model_class for row in committed() if row.runs or row.needs_a_package]


def says_it_runs(name: str) -> bool:
    return is_of_installed_version() and any(
        row.model_class == name and row.runs for row in committed()
    )


def is_of_installed_version() -> bool:
    return PATH.exists() and _header(transformers.__version__) in PATH.read_text()


def committed() -> list[Row]:
    lines = [line for line in PATH.read_text().splitlines() if line.startswith("| ")]
    # Below the names of the columns.
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[1:]]
    return [Row(family, name.strip("`"), state) for family, name, state in cells]


def row_of(name: str) -> Row:
    """The row of a class as it is here and now."""
    model_class = model_classes()[name]
    try:
        with subject(model_class) as found:
            return row_of_subject(found)
    except CannotRun as reason:
        return Row(family_name(model_class), name, str(reason))


def row_of_subject(found: Subject) -> Row:
    model_class = found.model_class
    return Row(family_name(model_class), model_class.__name__, _running_state(found))


def _running_state(found: Subject) -> str:
    called = run(found.model, "eager", found.inputs).layer_calls
    held = experts_layers(found.model)
    kinds = sorted({type(held[path]).__name__ for path in called})
    layers = f"{len(called)} of {len(held)} layers ({', '.join(kinds)})"
    state = f"{RUNS} {layers} on {found.kind_of_inputs}"
    for name, dtype in HALF_TYPES.items():
        try:
            with reason_of(f"eager in {name}"):
                forward(found.of_type(dtype), found.inputs)
        except CannotRun as reason:
            state += f"; {reason}"
    return state


def text_of(rows: list[Row]) -> str:
    running = {row.family for row in rows if row.runs}
    count = sum(row.runs for row in rows)
    return "\n".join(
        [
            "# Model classes under test",
            "",
            _header(transformers.__version__)
            + f" {len(running & set(families()))} of {len(families())} families run, and {count} of"
            + f" {len(rows)} classes. Written by `{WRITE_VARIABLE}=1 pytest test_families.py`.",
            "",
            "| family | class | state |",
            "|---|---|---|",
            *(f"| {row.family} | `{row.model_class}` | {row.state} |" for row in rows),
            "",
        ]
    )


def differences(expected: list[Row], found: list[Row]) -> list[str]:
    """What to say about each class that is not as the table has it."""
    before = {row.model_class: row for row in expected}
    after = {row.model_class: row for row in found}
    return [
        f"{name}: expected `{_state(before.get(name))}`, got `{_state(after.get(name))}`"
        for name in sorted(before.keys() | after.keys())
        if not _agree(before.get(name), after.get(name))
    ]


def _agree(expected: Row | None, found: Row | None) -> bool:
    if expected is None or found is None:
        return False
    # A package that is there now may show that it runs, or another reason why not.
    return expected == found or expected.needs_a_package


def _state(row: Row | None) -> str:
    return "no such class" if row is None else row.state


def _header(version: str) -> str:
    return f"transformers {version}:"
