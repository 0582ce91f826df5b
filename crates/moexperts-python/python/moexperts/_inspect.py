"""What this machine has and what the kernels run."""

from typing import Any, TypedDict

import torch

from . import _native
from ._transformers import BACKENDS

# What the package describes to the kernels in another way, or computes around them.
ALSO_RUN = ("stored [in, out]", "norm after")


class Machine(TypedDict):
    """The processor. Sizes are in bytes; `None` is what the system does not tell."""

    processor: str | None
    instruction_set: str
    instruction_sets: list[str]
    threads: int
    memory_bytes: int | None
    available_memory_bytes: int | None
    read_bandwidth_bytes_per_s: float


class Kernel(TypedDict):
    """A kernel for weights of one dtype; `inputs` is the dtype that inputs are rounded to."""

    instruction_set: str
    inputs: str
    in_use: bool


class Variable(TypedDict):
    """An environment variable; `value` is `None` if it is not set."""

    value: str | None
    meaning: str


class Inspection(TypedDict):
    """What `moexperts.inspect()` returns."""

    version: str
    machine: Machine
    # `cpu`, the device that this package computes on: its `description` and `backends`.
    devices: dict[str, dict[str, Any]]
    # By name in transformers: what experts it runs.
    backends: dict[str, dict[str, bool]]
    # By dtype of the weights, the best first.
    kernels: dict[str, list[Kernel]]
    environment: dict[str, Variable]


def inspect() -> Inspection:
    """What the program `moexperts inspect` shows of the machine, as a dict.

    Measures how fast memory is read, which takes about a second.

    Raises:
        ValueError: if `MOEXPERTS_ISA` names an instruction set that is not there.
    """
    facts: Any = _native.inspect(torch.get_num_threads())
    of_backend = facts["backends"]
    also = dict.fromkeys(ALSO_RUN, True)
    facts["backends"] = {name: of_backend[backend] | also for name, backend in BACKENDS.items()}
    return facts
