#!/usr/bin/env python3
"""Measures the experts implementations of transformers on one layer.

On a GPU also `torch`, a layer of torch's own grouped product, and whatever can be captured as a CUDA
graph.
"""

import torch
from transformers.models.qwen2_moe.configuration_qwen2_moe import Qwen2MoeConfig
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts

import gpu
from common import (
    MANY_TOKENS,
    MAX_COPIED_BYTES,
    NO_TIME_LEFT,
    NOT_COMPILED,
    ROUTINGS,
    ROUTINGS_OF_MANY_TOKENS,
    TOO_MANY_COPIES,
    Layer,
    Row,
    Shape,
    compile_modes_argument,
    device_arguments,
    first_line,
    is_left,
    keep_rows,
    layer_parser,
    names,
    numbers,
    register,
    routings,
    row_name,
    time_in_turns,
    write_rows,
)
from gpu import REFUSALS
from torch_layer import (
    CPU,
    GroupedExperts,
    Inputs,
    Weights,
    check,
    random_inputs,
    random_weights,
    reference,
)

TORCH = "torch"

# Together they are more than a second-level cache holds, and no two calls in a row share weights.
WEIGHTS_BYTES = 2 << 30
MAX_SETS = 16

READS_BACK = "reads back which experts were hit, which a graph cannot"
BREAKS = "reads back which experts were hit, which breaks the compiled graph"

# By name, one for each set of weights.
Modules = dict[str, list[torch.nn.Module]]


def main() -> None:
    parser = layer_parser(__doc__)
    parser.add_argument("--implementation", type=names, default="eager,grouped_mm,batched_mm")
    compile_modes_argument(parser)
    device_arguments(parser)
    parser.add_argument("--compile-tokens", type=numbers, help="GPU: fewer --tokens to compile for")
    parser.add_argument("--time", type=float, default=0.2, help="GPU: seconds of a measurement")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    register(args.implementation)
    torch.set_num_threads(args.threads)
    device = gpu.find(args.device)

    sets = 1 if device == CPU else number_of_sets(args.shape, args.dtype)
    weights = [random_weights(args.shape, args.dtype, device, seed) for seed in range(sets)]
    [first, *_] = random_inputs(args.shape, args.dtype, routings(args.shape, 1, 1), device)
    expected = reference(weights[0], first)
    refusals: dict[str, str] = {}
    modules: Modules = {}
    for implementation in args.implementation:
        name = "torch/grouped_mm" if implementation == TORCH else row_name(implementation)
        modules[name] = [experts_module(args.shape, of, implementation) for of in weights]
        try:
            check(lambda of, to=modules[name][0]: call(to, of), first, expected)
        except REFUSALS as error:
            refusals[name] = first_line(error)

    limits = None if device == CPU else gpu.Limits(device, weights[0][0].dtype)
    rows: list[Row] = []
    for mode in args.compile:
        of_mode = args.tokens if mode == NOT_COMPILED else args.compile_tokens or args.tokens
        for tokens in of_mode:
            threads = args.threads if device == CPU else None
            many = device != CPU and tokens >= MANY_TOKENS
            routed = routings(args.shape, tokens, ROUTINGS_OF_MANY_TOKENS if many else ROUTINGS)
            layer = Layer(
                args.shape, args.dtype, threads, tokens, mode, routed, args.device.split(":")[0]
            )
            if not is_left(args.budget):
                rows += [layer.skipped(name, NO_TIME_LEFT) for name in modules]
            elif limits is None:
                rows += measure(layer, modules, refusals)
            else:
                limits.refresh()
                rows += measure_on_gpu(layer, modules, refusals, device, limits, args.time)
            keep_rows(rows, args.json)
    write_rows(rows, args.json)


def measure(layer: Layer, modules: Modules, refusals: dict[str, str]) -> list[Row]:
    """The rows of one number of tokens."""
    # Compiled anew for every number of tokens, for static shapes are the fastest.
    torch.compiler.reset()
    inputs = random_inputs(layer.shape, layer.dtype, layer.routings)
    copied_bytes = layer.tokens * layer.shape.top_k * layer.shape.expert_bytes(layer.dtype)
    rows, calls = [], {}
    for name, [module] in modules.items():
        refusal = refusals.get(name)
        if name.endswith("batched_mm") and copied_bytes > MAX_COPIED_BYTES:
            refusal = TOO_MANY_COPIES
        if refusal is None and layer.mode != NOT_COMPILED:
            module = torch.compile(module, mode=layer.mode)
            try:
                call(module, inputs[0])
            except REFUSALS as error:
                refusal = first_line(error)
        if refusal is None:
            calls[name] = lambda index, to=module: call(to, inputs[index])
        else:
            rows.append(layer.skipped(name, refusal))
    return rows + [layer.row(name, runs) for name, runs in time_in_turns(calls).items()]


def measure_on_gpu(
    layer: Layer,
    modules: Modules,
    refusals: dict[str, str],
    device: torch.device,
    limits: gpu.Limits,
    seconds: float,
) -> list[Row]:
    """The rows of one number of tokens, each implementation as calls and as a CUDA graph."""
    torch.compiler.reset()
    inputs = random_inputs(layer.shape, layer.dtype, layer.routings, device)
    rows: list[Row] = []
    runs: dict[tuple[str, bool], gpu.Run] = {}
    for name, of_sets in modules.items():
        refusal = refusals.get(name) or refusal_on_gpu(layer, name)
        if refusal is None:
            try:
                plain = gpu.Plain(next_call(layer, of_sets, inputs))
                runs[name, False] = plain
            except REFUSALS as error:
                refusal = first_line(error)
        if refusal is not None:
            rows.append(layer.skipped(name, refusal) | {"cuda_graph": False})
        elif name.endswith("eager"):
            rows.append(layer.skipped(name, READS_BACK) | {"cuda_graph": True})
        else:
            try:
                runs[name, True] = gpu.Captured(plain, len(inputs))
            except REFUSALS as error:
                rows.append(layer.skipped(name, first_line(error)) | {"cuda_graph": True})
    for (name, graph), times in gpu.time_in_turns(runs, seconds).items():
        indices = [index % len(inputs) for index in runs[name, graph].indices()]
        row = layer.row_of(f"{name}{', graph' if graph else ''}", times, indices)
        rows.append(limits.add_to(row) | {"implementation": name, "cuda_graph": graph})
    return rows


def next_call(layer: Layer, of_sets: list[torch.nn.Module], inputs: list[Inputs]) -> gpu.Call:
    """The call of an index: its routing and its set of weights."""
    if layer.mode != NOT_COMPILED:
        compiled = [torch.compile(to, mode=layer.mode, dynamic=False) for to in of_sets]
        for to in compiled:
            call(to, inputs[0])
        of_sets = compiled
    return lambda index: call(of_sets[index % len(of_sets)], inputs[index % len(inputs)])


def refusal_on_gpu(layer: Layer, name: str) -> str | None:
    """Why it is not tried."""
    if name.endswith("eager") and layer.mode != NOT_COMPILED:
        return BREAKS
    copied_bytes = layer.tokens * layer.shape.top_k * layer.shape.expert_bytes(layer.dtype)
    free_bytes = gpu.free_bytes()
    if name.endswith("batched_mm") and copied_bytes > gpu.MAX_MEMORY_FRACTION * free_bytes:
        copied, free = copied_bytes / 1e9, free_bytes / 1e9
        return f"would copy {copied:.0f} GB of weights, {free:.0f} GB are free"
    return None


def number_of_sets(shape: Shape, dtype: str) -> int:
    """Of weights; one if the memory is too small for more."""
    set_bytes = shape.experts * shape.expert_bytes(dtype)
    wanted = min(MAX_SETS, max(1, -(-WEIGHTS_BYTES // set_bytes)))
    return max(1, min(wanted, gpu.free_bytes() // 4 // set_bytes))


def experts_module(shape: Shape, weights: Weights, implementation: str) -> torch.nn.Module:
    if implementation == TORCH:
        return GroupedExperts(weights)
    config = Qwen2MoeConfig(
        hidden_size=shape.hidden,
        moe_intermediate_size=shape.intermediate,
        num_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
        hidden_act="silu",
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        module = Qwen2MoeExperts(config)
    module.gate_up_proj, module.down_proj = (torch.nn.Parameter(w) for w in weights)
    return module


def call(module: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
    return module(inputs.hidden_states, inputs.top_k_index, inputs.top_k_weights)


if __name__ == "__main__":
    main()
