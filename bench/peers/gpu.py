"""Timing on a GPU: events around calls, CUDA graphs of them, and what the card can do at most."""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Protocol, TypeVar

import torch

from common import MIN_RUNS, quantile

# Calls between two events take so long together, at least: else the host would be measured, which
# starts them.
RUN_SECONDS = 1e-3

# A graph holds so much, unless its calls have met every routing.
GRAPH_SECONDS = 5e-3
MAX_CALLS = 1000
WARM_UP_CALLS = 3

# Of the memory that is free, the most that an implementation may need.
MAX_MEMORY_FRACTION = 0.9

# A replayed graph does what its calls do; sums of bf16 may come in another order.
MAX_GRAPH_ERROR = 0.03

COPY_BYTES = 2 << 30
MATRIX_SIZE = 8192
LIMIT_RUNS = 15
LIMITS_ARE_GOOD_FOR_SECONDS = 15

# What torch and its compiler raise where they cannot do something.
REFUSALS = (RuntimeError, NotImplementedError, ValueError, AssertionError)

Name = TypeVar("Name", bound=Hashable)
Call = Callable[[int], torch.Tensor]


def find(name: str) -> torch.device:
    """The device of a name; ends the program where it is missing."""
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        sys.exit(f"error: torch {torch.__version__} finds no GPU")
    device = torch.device(name if ":" in name else f"{name}:0")
    torch.cuda.set_device(device)
    return device


def free_bytes() -> int:
    """What is free once nothing unused is kept."""
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def elapsed(run: Callable[[], object]) -> float:
    """Seconds from before the first kernel of a run until after its last."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


class Run(Protocol):
    """Some calls that are timed together."""

    calls: int

    def __call__(self) -> object: ...

    def indices(self) -> list[int]:
        """Of all calls so far."""


class Plain:
    """Calls one by one; each has the next index."""

    def __init__(self, call: Call) -> None:
        """Warms up, and finds out how many calls are long enough."""
        self.call, self.done, self.calls = call, 0, WARM_UP_CALLS
        self()
        self.calls = 2
        self.seconds_per_call = elapsed(self) / 2
        self.calls = between(1, RUN_SECONDS / self.seconds_per_call, MAX_CALLS)
        self.done = 0

    def __call__(self) -> None:
        for _ in range(self.calls):
            self.call(self.done)
            self.done += 1

    def indices(self) -> list[int]:
        return list(range(self.done))


class Captured:
    """The same calls each time, as one CUDA graph."""

    def __init__(self, plain: Plain, routings: int) -> None:
        self.calls = between(1, GRAPH_SECONDS / plain.seconds_per_call, routings)
        self.graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for index in range(self.calls):
                expected = plain.call(index)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph):
            for index in range(self.calls):
                output = plain.call(index)
        self()
        error = (output.float() - expected.float()).norm() / expected.float().norm()
        if not error < MAX_GRAPH_ERROR:
            raise RuntimeError(f"relative error {error:.3g} as a graph")

    def __call__(self) -> None:
        self.graph.replay()

    def indices(self) -> list[int]:
        return list(range(self.calls))


def between(least: int, value: float, most: int) -> int:
    return max(least, min(most, int(value) + 1))


def time_in_turns(runs: Mapping[Name, Run], seconds: float) -> dict[Name, list[float]]:
    """Seconds of a call, in each of as many runs as take so long."""
    times: dict[Name, list[float]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    while unfinished := [
        name for name in runs if len(times[name]) < MIN_RUNS or spent[name] < seconds
    ]:
        for name in unfinished:
            taken = elapsed(runs[name])
            spent[name] += taken
            times[name].append(taken / runs[name].calls)
    return times


class Limits:
    """What the card can do at most, measured again from time to time."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.bandwidths: list[float] = []
        self.peaks: list[float] = []
        self.refresh_at = 0.0

    def refresh(self) -> None:
        if time.monotonic() < self.refresh_at:
            return
        self.bandwidths.append(copy_bandwidth(self.device))
        self.peaks.append(matrix_peak(self.device, self.dtype))
        free_bytes()
        self.refresh_at = time.monotonic() + LIMITS_ARE_GOOD_FOR_SECONDS

    def add_to(self, row: dict[str, object]) -> dict[str, object]:
        """A row with the limits, and the part of them that it reaches."""
        bandwidth, peak = (statistics.median(of) for of in [self.bandwidths, self.peaks])
        limits = {"limit_gb_per_s": bandwidth / 1e9, "limit_gflop_per_s": peak / 1e9}
        parts = [row["gb_per_s"], row["gflop_per_s"]]
        reached = [part / limit for part, limit in zip(parts, limits.values())]
        return row | limits | {"fraction_of_limit": max(reached)}


def copy_bandwidth(device: torch.device) -> float:
    """Bytes that a copy on the device reads and writes a second."""
    size = min(COPY_BYTES, free_bytes() // 8)
    source = torch.empty(size, dtype=torch.uint8, device=device).random_(0, 255)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source))


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Multiplications and additions of a large product of random matrices a second."""
    size = (MATRIX_SIZE, MATRIX_SIZE)
    a, b = (torch.randn(size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * MATRIX_SIZE**3 / median_seconds(lambda: torch.mm(a, b, out=out))


def median_seconds(run: Callable[[], object]) -> float:
    for _ in range(WARM_UP_CALLS):
        run()
    return quantile([elapsed(run) for _ in range(LIMIT_RUNS)], 0.5)
