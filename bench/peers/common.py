"""What the scripts of this folder share: shapes, routings, arguments, timing and rows."""

import argparse
import importlib
import json
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# The experts of each token, all different.
Routing = list[list[int]]
Row = dict[str, object]
# The index of a routing, and seconds.
Run = tuple[int, float]

# A prime number, so that implementations in turns all meet every routing.
ROUTINGS = 31
# As many are enough for calls of this many tokens: they hit all experts anyway.
MANY_TOKENS = 512
ROUTINGS_OF_MANY_TOKENS = 7
WARM_UP_RUNS = 5
MIN_RUNS = 5
MIN_SECONDS = 0.5

# This many runs are enough where they take this long together.
SLOW_RUNS = 3
SLOW_SECONDS = 2.5

# The most that weights may take of the available memory.
MAX_MEMORY_FRACTION = 0.75

# transformers' batched_mm copies the weights of every pair of token and expert.
MAX_COPIED_BYTES = 3_000_000_000
TOO_MANY_COPIES = f"would copy more than {MAX_COPIED_BYTES // 1_000_000_000} GB of weights"

# What the rows of an implementation say that is not compiled.
NOT_COMPILED = "none"

# The Python package of this project, and the prefix of its names in transformers.
PLUGIN = "moexperts"

NO_TIME_LEFT = "no time was left (--budget)"

# Since the script began.
STARTED = time.monotonic()

ELEMENT_BYTES = {"f32": 4, "bf16": 2, "f16": 2}


@dataclass(frozen=True)
class Shape:
    """An experts layer: hidden and intermediate size, experts, experts per token."""

    name: str
    hidden: int
    intermediate: int
    experts: int
    top_k: int

    def expert_bytes(self, dtype: str) -> int:
        """Bytes of one expert's gate, up and down projections."""
        return 3 * self.hidden * self.intermediate * ELEMENT_BYTES[dtype]

    def flop(self, tokens: int) -> int:
        return 6 * self.hidden * self.intermediate * self.top_k * tokens


SHAPES = [
    Shape("qwen1.5-moe", 2048, 1408, 60, 4),
    Shape("olmoe", 2048, 1024, 64, 8),
    Shape("qwen3-30b", 2048, 768, 128, 8),
    Shape("mixtral", 4096, 14336, 8, 2),
    Shape("gpt-oss-20b", 2880, 2880, 32, 4),
    Shape("deepseek-v3", 7168, 2048, 256, 8),
]


def shape(text: str) -> Shape:
    """A shape by name, or `H,I,E,K`."""
    for known in SHAPES:
        if known.name == text:
            return known
    try:
        hidden, intermediate, experts, top_k = (int(part) for part in text.split(","))
    except ValueError:
        known_names = ", ".join(known.name for known in SHAPES)
        message = f"expected H,I,E,K or one of {known_names}, got `{text}`"
        raise argparse.ArgumentTypeError(message) from None
    return Shape(text, hidden, intermediate, experts, top_k)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    return text.split(",")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that every script has."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--threads", type=int, default=os.cpu_count())
    result.add_argument("--json", type=Path, help="where the rows go; standard output by default")
    return result


def layer_parser(description: str | None) -> argparse.ArgumentParser:
    result = parser(description)
    result.add_argument("--shape", type=shape, required=True, help="a name, or H,I,E,K")
    result.add_argument("--dtype", choices=ELEMENT_BYTES, default="bf16")
    result.add_argument("--tokens", type=numbers, default="1,4,16,64,256,1024")
    return result


def model_parser(description: str | None) -> argparse.ArgumentParser:
    result = parser(description)
    result.add_argument("--prompt-tokens", type=numbers, default="16,128,512")
    result.add_argument("--new-tokens", type=int, default=32, help="at least 2")
    return result


def device_arguments(to: argparse.ArgumentParser) -> None:
    """The arguments of scripts that run on a GPU too."""
    to.add_argument("--device", metavar="DEVICE", default="cpu", help="cpu, cuda or cuda:N")
    to.add_argument(
        "--budget", type=float, metavar="SECONDS", help="after which nothing new is measured"
    )


def is_left(budget: float | None) -> bool:
    """Whether there is time to measure something more."""
    return budget is None or time.monotonic() - STARTED < budget


def register(implementations: Sequence[str]) -> None:
    """Makes this project's plug-in known to transformers, if it is among those to measure."""
    if any(name.startswith(PLUGIN) for name in implementations):
        importlib.import_module(PLUGIN)


def row_name(implementation: str) -> str:
    """What the rows call an implementation of transformers, or of this project inside it."""
    if implementation.startswith(PLUGIN):
        return f"{PLUGIN}/in transformers"
    return f"transformers/{implementation}"


def image_size(text: str) -> tuple[int, int]:
    """Width and height of `WxH`."""
    try:
        width, height = (int(part) for part in text.split("x"))
    except ValueError:
        message = f"expected WIDTHxHEIGHT, got `{text}`"
        raise argparse.ArgumentTypeError(message) from None
    return width, height


def image_sizes(text: str) -> list[tuple[int, int]]:
    return [image_size(part) for part in text.split(",")]


def vision_parser(description: str | None) -> argparse.ArgumentParser:
    result = parser(description)
    result.add_argument("--image-size", type=image_sizes, default="1024x1024", help="WxH,WxH")
    result.add_argument("--dtype", choices=ELEMENT_BYTES, default="bf16")
    return result


def compile_argument(to: argparse.ArgumentParser) -> None:
    to.add_argument("--compile", metavar="MODE", default=NOT_COMPILED, help="of torch.compile")


def compile_modes_argument(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--compile", metavar="MODES", type=names, default=NOT_COMPILED, help="of torch.compile"
    )


def require_memory(needed_bytes: int) -> None:
    """Stops where the weights would leave little memory; does nothing where that is not known."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return
    values = dict(line.split(":") for line in meminfo.read_text().splitlines())
    available_bytes = int(values["MemAvailable"].split()[0]) * 1024
    if needed_bytes > MAX_MEMORY_FRACTION * available_bytes:
        needed, available = needed_bytes / 1e9, available_bytes / 1e9
        sys.exit(f"needs {needed:.1f} GB for weights, {available:.1f} GB of memory are available")


def routings(of: Shape, tokens: int, count: int = ROUTINGS) -> list[Routing]:
    """Several random routings."""
    source = random.Random(0)
    experts = range(of.experts)
    return [[source.sample(experts, of.top_k) for _ in range(tokens)] for _ in range(count)]


def experts_hit(routing: Routing) -> int:
    return len({expert for token in routing for expert in token})


def time_in_turns(calls: Mapping[str, Callable[[int], object]]) -> dict[str, list[Run]]:
    """The runs of every call, after a warm-up.

    A call takes the index of a routing. The calls run in turns, and the routings too, so that
    neither a slow minute nor a warm cache favours one of them.
    """
    for call in calls.values():
        for index in range(WARM_UP_RUNS):
            call(index)
    runs: dict[str, list[Run]] = {name: [] for name in calls}
    turn = 0
    while unfinished := [name for name in calls if not enough(runs[name])]:
        for name in unfinished:
            index = turn % ROUTINGS
            start = time.perf_counter()
            calls[name](index)
            runs[name].append((index, time.perf_counter() - start))
            turn += 1
    return runs


def enough(runs: list[Run]) -> bool:
    return len(runs) >= MIN_RUNS and sum(seconds for _, seconds in runs) >= MIN_SECONDS


def time_alone(call: Callable[[], object]) -> list[float]:
    """Seconds of the runs of one call, after one that does not count."""
    call()
    seconds: list[float] = []
    while (spent := sum(seconds)) < MIN_SECONDS or len(seconds) < (
        SLOW_RUNS if spent >= SLOW_SECONDS else MIN_RUNS
    ):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def quantile(values: Sequence[float], fraction: float) -> float:
    """The value at a fraction of the sorted list, interpolated."""
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


@dataclass(frozen=True)
class Layer:
    """One measured layer: everything of a row but the implementation and its runs."""

    shape: Shape
    dtype: str
    threads: int | None
    tokens: int
    mode: str
    routings: list[Routing]
    device: str = "cpu"

    def row(self, implementation: str, runs: Sequence[Run]) -> Row:
        return self.row_of(implementation, [s for _, s in runs], [index for index, _ in runs])

    def row_of(self, implementation: str, seconds: Sequence[float], indices: Sequence[int]) -> Row:
        """A row of some runs, and the indices of the routings they met."""
        median = quantile(seconds, 0.5)
        hit = statistics.mean(experts_hit(self.routings[index]) for index in indices)
        row = self._head(implementation, float(hit)) | {
            "median_ms": median * 1e3,
            "p10_ms": quantile(seconds, 0.1) * 1e3,
            "p90_ms": quantile(seconds, 0.9) * 1e3,
            "gb_per_s": hit * self.shape.expert_bytes(self.dtype) / median / 1e9,
            "gflop_per_s": self.shape.flop(self.tokens) / median / 1e9,
        }
        note(f"{implementation:26} {self.mode:10} T={self.tokens:<5} {row['median_ms']:10.3f} ms")
        return row

    def skipped(self, implementation: str, reason: str) -> Row:
        """A row without figures, which says why."""
        note(f"{implementation:26} {self.mode:10} T={self.tokens:<5} skipped: {reason}")
        figures = ["median_ms", "p10_ms", "p90_ms", "gb_per_s", "gflop_per_s"]
        return self._head(implementation, None) | dict.fromkeys(figures) | {"skipped": reason}

    def _head(self, implementation: str, hit: float | None) -> Row:
        return {
            "shape": self.shape.name,
            "dtype": self.dtype,
            "device": self.device,
            "threads": self.threads,
            "tokens": self.tokens,
            "experts_hit": hit,
            "implementation": implementation,
            "compile": self.mode,
        }


@dataclass(frozen=True)
class Model:
    """One loaded model: everything of a row but the implementation and its speed."""

    name: str
    dtype: str
    threads: int | None
    batch: int
    new_tokens: int
    mode: str
    load_s: float | None
    device: str = "cpu"

    def row(
        self,
        prompt_tokens: int,
        implementation: str,
        prefill_s: Sequence[float],
        decode_s: Sequence[float],
        peak_memory_bytes: int,
    ) -> Row:
        prefill = self.batch * prompt_tokens / quantile(prefill_s, 0.5)
        # The first new token comes with the prompt.
        decode = self.batch * (self.new_tokens - 1) / quantile(decode_s, 0.5)
        note(
            f"{implementation:32} {self.mode:10} {prompt_tokens:5} {prefill:9.1f} {decode:8.2f} tok/s"
        )
        return self._head(prompt_tokens, implementation) | {
            "prefill_tok_per_s": prefill,
            "decode_tok_per_s": decode,
            "peak_memory_bytes": peak_memory_bytes,
        }

    def skipped(self, prompt_tokens: int, implementation: str, reason: str) -> Row:
        """A row without figures, which says why."""
        note(f"{implementation:32} {self.mode:10} {prompt_tokens:5} skipped: {reason}")
        figures = ["prefill_tok_per_s", "decode_tok_per_s", "peak_memory_bytes"]
        head = self._head(prompt_tokens, implementation)
        return head | dict.fromkeys(figures) | {"skipped": reason}

    def _head(self, prompt_tokens: int, implementation: str) -> Row:
        return {
            "model": self.name,
            "dtype": self.dtype,
            "device": self.device,
            "threads": self.threads,
            "batch": self.batch,
            "prompt_tokens": prompt_tokens,
            "new_tokens": self.new_tokens,
            "implementation": implementation,
            "compile": self.mode,
            "load_s": self.load_s,
        }


@dataclass(frozen=True)
class Vision:
    """One image through a vision tower: everything of a row but the implementation and its runs."""

    name: str
    dtype: str
    threads: int
    image: str
    patches: int
    mode: str
    flop: int

    def row(self, implementation: str, seconds: Sequence[float]) -> Row:
        median = quantile(seconds, 0.5)
        row = self._head(implementation) | {
            "median_ms": median * 1e3,
            "p10_ms": quantile(seconds, 0.1) * 1e3,
            "p90_ms": quantile(seconds, 0.9) * 1e3,
            "gflop_per_s": self.flop / median / 1e9,
        }
        note(f"{implementation:26} {self.image:11} {row['median_ms']:10.1f} ms")
        return row

    def skipped(self, implementation: str, reason: str) -> Row:
        """A row without figures, which says why."""
        note(f"{implementation:26} {self.image:11} skipped: {reason}")
        figures = ["median_ms", "p10_ms", "p90_ms", "gflop_per_s"]
        return self._head(implementation) | dict.fromkeys(figures) | {"skipped": reason}

    def _head(self, implementation: str) -> Row:
        return {
            "model": self.name,
            "dtype": self.dtype,
            "device": "cpu",
            "threads": self.threads,
            "image": self.image,
            "patches": self.patches,
            "implementation": implementation,
            "compile": self.mode,
        }


def peak_memory_bytes(who: int = resource.RUSAGE_SELF) -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit


def first_line(error: Exception) -> str:
    """The reason in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def keep_rows(rows: list[Row], path: Path | None) -> None:
    """Writes the rows so far, which stay if the script is stopped."""
    if path is not None:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(rows, indent=2) + "\n")
        part.replace(path)


def write_rows(rows: list[Row], path: Path | None) -> None:
    if path is None:
        print(json.dumps(rows, indent=2))
    else:
        keep_rows(rows, path)
