"""Results of sweeps that were never measured: their numbers follow from simple formulas, so that tests can
say what a page has to show."""

from itertools import product
from statistics import median

BACKENDS = ("eager", "batched_mm", "grouped_mm")
MODES = ("none", "default", "max-autotune")
# Of a forward, in milliseconds: what it costs at least, and what each token adds.
COSTS = {"eager": (90.0, 0.30), "batched_mm": (20.0, 2.0), "grouped_mm": (45.0, 0.25)}
COMPILED = {"none": 1.0, "default": 0.9, "max-autotune": 0.8}
# Five runs of each combination, about their median.
SPREAD = (0.98, 0.99, 1.0, 1.01, 1.03)

BYTES_PER_SECOND = 2e10
FLOPS_PER_SECOND = 1e12


def cell(batch, sequence, new_tokens, compile="none", implementation="eager", **other):
    """A combination; `other` replaces what is said of it."""
    fixed, each = COSTS.get(implementation, (60.0, 0.5))

    def forward(tokens):
        return COMPILED.get(compile, 0.7) * (fixed + each * tokens)

    steps = new_tokens - 1
    prefill = [forward(batch * sequence) * spread for spread in SPREAD]
    decode = [forward(batch) * steps * spread for spread in SPREAD]
    return {
        "device": "cpu",
        "dtype": "bf16",
        "batch": batch,
        "sequence": sequence,
        "new_tokens": new_tokens,
        "compile": compile,
        "implementation": implementation,
        "decode_implementation": implementation,
        "generation_ms": [a + b for a, b in zip(prefill, decode)],
        "prefill_ms": prefill,
        "decode_ms": decode,
        "prefill": {"forwards": 1, "flops": 2e7 * batch * sequence, "bytes": 2e8},
        "decode": {"forwards": steps, "flops": 2e7 * batch * steps, "bytes": 1e8 * steps},
        "peak_memory_bytes": int(3e9 + 1e5 * batch * sequence * (4 if implementation == "batched_mm" else 1)),
    } | other


def target(**other):
    return {
        "device": "cpu",
        "dtype": "bf16",
        "hardware": "CPU that does not exist, 2 threads",
        "threads": 2,
        "load_s": 1.5,
        "bytes_per_second": [BYTES_PER_SECOND * spread for spread in SPREAD],
        "flops_per_second": [FLOPS_PER_SECOND * spread for spread in SPREAD],
        "operations": "bf16",
        "notes": ["made up"],
    } | other


def results(cells, **other):
    return {
        "format": "moexperts sweep",
        "version": 1,
        "program": {"version": "0.0.0", "commit": "0123456789ab"},
        "command": "moexperts bench sweep --out made-up",
        "date": "2026-01-02T03:04:05Z",
        "model": "a model (made up)",
        "seed": 0,
        "repetitions": len(SPREAD),
        "planned": len(cells),
        "machine": [["processor", "a processor that does not exist"], ["memory", "24 GB"]],
        "targets": [target()],
        "cells": cells,
        "skipped": [
            {
                "device": "cpu",
                "dtype": "bf16",
                "batch": None,
                "sequence": 4096,
                "new_tokens": 64,
                "compile": None,
                "implementation": None,
                "reason": "the prompt does not fit the context",
            }
        ],
    } | other


def tiny():
    """One workload, three backends."""
    return results([cell(1, 16, 16, "none", backend) for backend in BACKENDS])


def grid():
    """Two batches, three sequences, two numbers of new tokens, three modes, three backends: 108."""
    axes = product((1, 4), (16, 128, 512), (16, 64), MODES, BACKENDS)
    return results([cell(*values) for values in axes])


def slower(sweep, factor, **other):
    """The same sweep, every time of which is `factor` of a combination as long."""
    cells = []
    for one in sweep["cells"]:
        times = {
            name: [ms * factor(one) for ms in one[name]]
            for name in ("generation_ms", "prefill_ms", "decode_ms")
        }
        cells.append(one | times)
    return sweep | {"cells": cells, "program": {"version": "0.0.0", "commit": "fedcba987654"}} | other


def middle(one, measure="generation"):
    return median(one[f"{measure}_ms"])
