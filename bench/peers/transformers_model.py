#!/usr/bin/env python3
"""Measures transformers on a whole model: prefill, and decoding after it."""

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, StaticCache

import gpu
from common import (
    MAX_COPIED_BYTES,
    MIN_RUNS,
    NO_TIME_LEFT,
    NOT_COMPILED,
    TOO_MANY_COPIES,
    Model,
    Row,
    compile_modes_argument,
    device_arguments,
    first_line,
    is_left,
    keep_rows,
    model_parser,
    names,
    peak_memory_bytes,
    register,
    row_name,
    write_rows,
)
from gpu import REFUSALS
from torch_layer import CPU

DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}

# The mode of a step that is captured as it is: a CUDA graph without the compiler.
GRAPH = "cuda-graph"

READS_BACK = "reads back which experts were hit, which neither a graph nor a static plan can"

# Every compiled step of a variant has a separate entry in dynamo's cache.
RECOMPILE_LIMIT = 64


@dataclass(frozen=True)
class Generation:
    """A batch of prompts and what follows them."""

    batch: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Variant:
    """How the prompt is read, and how the model writes then."""

    prefill: str
    decode: str
    mode: str

    @property
    def name(self) -> str:
        both = self.prefill if self.prefill == self.decode else f"{self.prefill}+{self.decode}"
        return row_name(both)


def generations(text: str) -> list[Generation]:
    """Those of `1x16x64,4x128x16`: batch, prompt tokens, new tokens."""
    return [Generation(*(int(part) for part in one.split("x"))) for one in text.split(",")]


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a folder with a checkpoint")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--generations",
        type=generations,
        metavar="BxPxN",
        help="batch, prompt and new tokens of each, in place of the three options",
    )
    parser.add_argument(
        "--implementation",
        type=names,
        default="eager,grouped_mm",
        help="of the prompt and of what follows, `grouped_mm+batched_mm`, if they differ",
    )
    compile_modes_argument(parser)
    device_arguments(parser)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    register(args.implementation)
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    device = gpu.find(args.device)
    wanted = args.generations or [
        Generation(args.batch, prompt, args.new_tokens) for prompt in args.prompt_tokens
    ]

    start = time.perf_counter()
    model = load(args.model, device)
    load_s = time.perf_counter() - start
    of = Subject(model, args.model.name, None if device != CPU else args.threads, load_s)
    rows: list[Row] = []
    if args.generations is None and device == CPU:
        for mode in args.compile:
            for generation in wanted:
                rows += in_turns(of, generation, args.implementation, mode)
                keep_rows(rows, args.json)
    else:
        # Made for all of them, so that each is compiled for once in a batch.
        context = max(one.prompt_tokens + one.new_tokens for one in wanted)
        for variant in variants(args.implementation, args.compile):
            for row in measure(of, variant, wanted, context, args.budget):
                rows.append(row)
                keep_rows(rows, args.json)
    write_rows(rows, args.json)


@dataclass(frozen=True)
class Subject:
    """A loaded model."""

    model: PreTrainedModel
    name: str
    threads: int | None
    load_s: float

    def rows(self, generation: Generation, mode: str) -> Model:
        """What makes the rows of a generation."""
        return Model(
            self.name,
            DTYPES[self.model.dtype],
            self.threads,
            generation.batch,
            generation.new_tokens,
            mode,
            self.load_s,
            "cpu" if self.threads else "cuda",
        )

    def prompt(self, generation: Generation) -> torch.Tensor:
        source = torch.Generator().manual_seed(generation.prompt_tokens)
        shape = (generation.batch, generation.prompt_tokens)
        prompt = torch.randint(self.model.config.vocab_size, shape, generator=source)
        return prompt.to(self.model.device)


def load(folder: Path, device: torch.device) -> PreTrainedModel:
    # Without accelerate the weights go through the memory of the machine.
    straight = device != CPU and importlib.util.find_spec("accelerate") is not None
    device_map = {"device_map": device} if straight else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **device_map).eval()
    return model.to(device)


def in_turns(
    of: Subject, generation: Generation, implementations: list[str], mode: str
) -> list[Row]:
    """The rows of one length of prompt, the implementations in turns."""
    torch.compiler.reset()
    model, compiled = of.model, mode != NOT_COMPILED
    makes = of.rows(generation, mode)
    prompt, prompt_tokens = of.prompt(generation), generation.prompt_tokens
    context = prompt_tokens + generation.new_tokens if compiled else None
    rows: list[Row] = []
    steps: dict[str, Decoder] = {}
    for implementation in implementations:
        name = row_name(implementation)
        copied_bytes = generation.batch * prompt_tokens * bytes_per_token(model)
        if implementation == "batched_mm" and copied_bytes > MAX_COPIED_BYTES:
            rows.append(makes.skipped(prompt_tokens, name, TOO_MANY_COPIES))
            continue
        model.set_experts_implementation(implementation)
        step = torch.compile(model, mode=mode) if compiled else model
        decoder = Decoder(model, step, context)
        try:
            decoder.generate(prompt, generation.new_tokens)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            rows.append(makes.skipped(prompt_tokens, name, first_line(error)))
            continue
        steps[implementation] = decoder

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(MIN_RUNS):
        for implementation, decoder in steps.items():
            model.set_experts_implementation(implementation)
            times[implementation].append(decoder.generate(prompt, generation.new_tokens))
    for implementation, runs in times.items():
        prefill_s, decode_s = zip(*runs)
        name = row_name(implementation)
        peak = peak_memory_bytes()
        rows.append(makes.row(prompt_tokens, name, prefill_s, decode_s, peak))
    return rows


def variants(implementations: Iterable[str], modes: Iterable[str]) -> Iterator[Variant]:
    """Every implementation in every mode."""
    for mode in modes:
        for implementation in implementations:
            prefill, _, decode = implementation.partition("+")
            yield Variant(prefill, decode or prefill, mode)


def measure(
    of: Subject,
    variant: Variant,
    wanted: list[Generation],
    context: int,
    budget: float | None,
) -> Iterator[Row]:
    """The rows of one variant."""
    model = of.model
    on_gpu = model.device.type == "cuda"
    torch.compiler.reset()
    decoders: dict[int, Decoder] = {}
    for generation in wanted:
        makes, prompt_tokens = of.rows(generation, variant.mode), generation.prompt_tokens
        refusal = refused(model, variant, generation) if is_left(budget) else NO_TIME_LEFT
        if refusal is not None:
            yield makes.skipped(prompt_tokens, variant.name, refusal)
            continue
        try:
            # One for each batch: what is compiled or captured holds its cache.
            if generation.batch not in decoders:
                decoders.clear()
                if on_gpu:
                    gpu.free_bytes()
                decoders[generation.batch] = decoder_of(model, variant, context)
            decoder, prompt = decoders[generation.batch], of.prompt(generation)
            decoder.generate(prompt, generation.new_tokens)
            runs = [decoder.generate(prompt, generation.new_tokens) for _ in range(MIN_RUNS)]
        except REFUSALS as error:
            decoders.clear()
            yield makes.skipped(prompt_tokens, variant.name, first_line(error))
            continue
        prefill_s, decode_s = zip(*runs)
        peak = used_bytes() if on_gpu else peak_memory_bytes()
        yield makes.row(prompt_tokens, variant.name, prefill_s, decode_s, peak)


def refused(model: PreTrainedModel, variant: Variant, generation: Generation) -> str | None:
    """Why it is not tried."""
    if variant.mode != NOT_COMPILED and variant.decode == "eager":
        return READS_BACK
    if variant.prefill != "batched_mm":
        return None
    copied_bytes = generation.batch * generation.prompt_tokens * bytes_per_token(model)
    if model.device.type != "cuda":
        return TOO_MANY_COPIES if copied_bytes > MAX_COPIED_BYTES else None
    free_bytes = gpu.free_bytes()
    if copied_bytes > gpu.MAX_MEMORY_FRACTION * free_bytes:
        copied, free = copied_bytes / 1e9, free_bytes / 1e9
        return f"would copy {copied:.0f} GB of weights, {free:.0f} GB are free"
    return None


def used_bytes() -> int:
    """All memory of the GPU that is in use, that of its context too."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def decoder_of(model: PreTrainedModel, variant: Variant, context: int) -> "Decoder":
    if variant.mode == NOT_COMPILED:
        return Decoder(model, model, None, (variant.prefill, variant.decode))
    if variant.mode == GRAPH:
        return Replayer(model, context, (variant.prefill, variant.decode))
    step = torch.compile(model, mode=variant.mode, dynamic=False)
    return Decoder(model, step, context, (variant.prefill, variant.decode))


class Decoder:
    """Generates greedily, without the cost of transformers' `generate`."""

    def __init__(
        self,
        model: PreTrainedModel,
        step: Callable[..., torch.Tensor],
        context: int | None,
        implementations: tuple[str, str] | None = None,
    ) -> None:
        """- `context`: tokens of a static cache, which a compiled step needs; the same each time
        - `implementations`: of the prompt and of what follows; those of the model by default
        """
        self.model, self.step, self.implementations = model, step, implementations
        static = context is not None
        self.cache = StaticCache(config=model.config, max_cache_len=context) if static else None

    def generate(self, prompt: torch.Tensor, new_tokens: int) -> tuple[float, float]:
        """Seconds of the prefill and of the decoding."""
        if self.cache is not None:
            self.cache.reset()
        self.choose(0)
        self.synchronize()
        start = time.perf_counter()
        output = self.model(prompt, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(-1)
        self.synchronize()
        prefill_s = time.perf_counter() - start
        self.choose(1)
        start = time.perf_counter()
        self.decode(token, output.past_key_values, new_tokens - 1)
        self.synchronize()
        return prefill_s, time.perf_counter() - start

    def decode(self, token: torch.Tensor, cache: object, steps: int) -> torch.Tensor:
        for _ in range(steps):
            # A graph of the compiler's own overwrites what the one before it returned.
            torch.compiler.cudagraph_mark_step_begin()
            output = self.step(token, past_key_values=cache, use_cache=True)
            token = output.logits[:, -1:].argmax(-1)
        return token

    def choose(self, phase: int) -> None:
        if self.implementations is not None:
            self.model.set_experts_implementation(self.implementations[phase])

    def synchronize(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()


class Replayer(Decoder):
    """Decodes by replaying one step, captured as a CUDA graph."""

    def __init__(
        self, model: PreTrainedModel, context: int, implementations: tuple[str, str]
    ) -> None:
        super().__init__(model, model, context, implementations)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.token: torch.Tensor | None = None

    def decode(self, token: torch.Tensor, cache: object, steps: int) -> torch.Tensor:
        if self.graph is None:
            self.capture(token, cache)
        self.token.copy_(token)
        for _ in range(steps):
            self.graph.replay()
        return self.token

    def capture(self, token: torch.Tensor, cache: object) -> None:
        """What the cache holds afterwards is of no use: this is a run that does not count."""
        self.token = token.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.write(cache)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.write(cache)
        self.graph = graph

    def write(self, cache: object) -> None:
        output = self.model(self.token, past_key_values=cache, use_cache=True)
        self.token.copy_(output.logits[:, -1:].argmax(-1))


def bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of the weights of one token's experts in one layer."""
    config = model.config
    pair = 3 * config.hidden_size * config.moe_intermediate_size * model.dtype.itemsize
    return config.num_experts_per_tok * pair


if __name__ == "__main__":
    main()
