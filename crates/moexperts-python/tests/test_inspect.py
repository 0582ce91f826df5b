"""What the package says of the machine."""

import os
import subprocess
import sys

import torch

import moexperts


def test_inspect_tells_the_machine_and_what_runs() -> None:
    facts = moexperts.inspect()
    machine = facts["machine"]
    assert machine["threads"] == torch.get_num_threads()
    assert machine["instruction_set"] in machine["instruction_sets"]
    assert machine["read_bandwidth_bytes_per_s"] > 1e8
    assert list(facts["backends"]) == list(moexperts.BACKENDS)
    for properties in facts["backends"].values():
        assert all(properties[name] for name in ("bf16", "silu", "biases", "stored [in, out]"))
    assert list(facts["kernels"]) == ["f32", "f16", "bf16"]
    for kernels in facts["kernels"].values():
        assert [kernel["in_use"] for kernel in kernels].count(True) == 1
        assert kernels[-1]["instruction_set"] == "portable"
    cpu = facts["devices"]["cpu"]
    assert cpu["backends"] == ["eager", "batched_mm", "grouped_mm"]
    assert f"{machine['threads']} thread" in cpu["description"]
    assert "MOEXPERTS_ISA" in facts["environment"]


def in_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def test_a_lower_instruction_set_computes_the_same_but_for_rounding() -> None:
    code = """
import torch, moexperts
from moexperts import _ops
torch.manual_seed(0)
x, w = torch.randn(20, 32), torch.softmax(torch.randn(20, 2), -1)
ids = torch.randint(0, 4, (20, 2))
up, down = torch.randn(4, 32, 32), torch.randn(4, 32, 16)
parameters = _ops.Parameters(up, None, down, None)
out = _ops.experts(x, ids, w, parameters, "grouped_mm", _ops.Formula("silu"))
print(moexperts.inspect()["machine"]["instruction_set"], out.double().norm().item())
"""
    isas = moexperts.inspect()["machine"]["instruction_sets"]
    norms = []
    for isa in isas:
        ran = in_python(code, MOEXPERTS_ISA=isa)
        assert ran.returncode == 0, ran.stderr
        name, norm = ran.stdout.split()
        assert name == isa
        norms.append(float(norm))
    assert max(norms) - min(norms) < 1e-4 * max(norms)


def test_an_unknown_instruction_set_is_said_by_the_first_call() -> None:
    ran = in_python("import moexperts; moexperts.inspect()", MOEXPERTS_ISA="sse9")
    assert ran.returncode == 1
    assert "instruction set `sse9` (MOEXPERTS_ISA) is not known" in ran.stderr


def test_layers_compute_on_the_threads_of_torch() -> None:
    """A call makes no thread: those of torch are there before."""
    code = """
import os, torch, moexperts
from moexperts import _ops
torch.set_num_threads(3)
torch.randn(512, 512) @ torch.randn(512, 512)
torch.zeros(1 << 20).add_(1)
before = len(os.listdir("/proc/self/task"))
x, w = torch.randn(64, 512), torch.ones(64, 2)
ids = torch.randint(0, 4, (64, 2))
up, down = torch.randn(4, 512, 512), torch.randn(4, 512, 256)
parameters = _ops.Parameters(up, None, down, None)
_ops.experts(x, ids, w, parameters, "grouped_mm", _ops.Formula("silu"))
print(_ops.HOSTED, before, len(os.listdir("/proc/self/task")))
"""
    ran = in_python(code)
    assert ran.returncode == 0, ran.stderr
    hosted, before, after = ran.stdout.split()
    assert hosted == "True"
    assert int(before) >= 3
    assert before == after
