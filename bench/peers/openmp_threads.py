#!/usr/bin/env python3
"""Measures what it is worth that the Python plug-in computes on torch's threads.

A layer alone, and right after an operation of torch, whose threads then still wait awake: on those
threads, and on threads of the plug-in's own.
"""

import argparse
import importlib.machinery
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from common import note, routings, shape, write_rows
from torch_layer import random_inputs, random_weights
from transformers_layer import call, experts_module

HOSTED, OWN = "threads of torch", "own threads"
RUNS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen1.5-moe", help="a name, or H,I,E,K")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", default="1,16")
    parser.add_argument("--json", type=Path, help="where the rows go; standard output by default")
    # A process computes on one kind of threads.
    parser.add_argument("--kind", choices=[HOSTED, OWN], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.kind is None:
        for kind in (HOSTED, OWN):
            subprocess.run([sys.executable, *sys.argv, "--kind", kind], check=True)
        return
    torch.set_grad_enabled(False)
    torch.set_num_threads(args.threads)
    import_plugin(args.kind)
    layer = shape(args.shape)
    module = experts_module(layer, random_weights(layer, "bf16"), "moexperts")
    rows: list[dict[str, object]] = []
    for tokens in (int(text) for text in args.tokens.split(",")):
        inputs = random_inputs(layer, "bf16", routings(layer, tokens))
        alone, after = (
            median_ms(lambda index: call(module, inputs[index % len(inputs)]), before)
            for before in (lambda: None, torch_operation(layer.hidden))
        )
        note(f"{args.kind}, T={tokens}: {alone:.3f} ms alone, {after:.3f} ms after torch")
        row = {"threads": args.kind, "shape": layer.name, "tokens": tokens}
        rows.append(row | {"alone_ms": alone, "after_torch_ms": after})
    write_rows(rows, args.json)


def import_plugin(kind: str) -> None:
    """Imports `moexperts`; for its own threads, without the way to those of torch."""
    if kind == OWN:
        package = importlib.util.find_spec("moexperts")
        [folder] = package.submodule_search_locations
        file = next(file for file in Path(folder).iterdir() if file.suffix in (".so", ".pyd"))
        loader = importlib.machinery.ExtensionFileLoader("moexperts._native", str(file))
        spec = importlib.util.spec_from_loader("moexperts._native", loader)
        native = importlib.util.module_from_spec(spec)
        loader.exec_module(native)
        native.use_openmp_of = lambda _: False
        sys.modules["moexperts._native"] = native
    importlib.import_module("moexperts")
    from moexperts import _ops

    assert _ops.HOSTED == (kind == HOSTED), f"expected {kind}"


def torch_operation(hidden: int) -> Callable[[], object]:
    row, weight = torch.randn(1, hidden).bfloat16(), torch.randn(2 * hidden, hidden).bfloat16()
    return lambda: torch.nn.functional.linear(row, weight)


def median_ms(run: Callable[[int], object], before: Callable[[], object]) -> float:
    """Of calls that each follow `before`, whose time does not count."""
    times = []
    for index in range(RUNS):
        before()
        start = time.perf_counter()
        run(index)
        times.append(time.perf_counter() - start)
    return statistics.median(times[RUNS // 10 :]) * 1e3


if __name__ == "__main__":
    main()
