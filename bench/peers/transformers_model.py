#!/usr/bin/env python3
"""Measures transformers on a whole model: prefill, and decoding after it."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, StaticCache

from common import (
    MAX_COPIED_BYTES,
    MIN_RUNS,
    NOT_COMPILED,
    TOO_MANY_COPIES,
    Model,
    Row,
    compile_argument,
    first_line,
    model_parser,
    names,
    peak_memory_bytes,
    write_rows,
)

DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a folder with a checkpoint")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--implementation", type=names, default="eager,grouped_mm")
    compile_argument(parser)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(args.threads)

    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto").eval()
    load_s = time.perf_counter() - start
    dtype = DTYPES[model.dtype]
    of = Model(
        args.model.name, dtype, args.threads, args.batch, args.new_tokens, args.compile, load_s
    )
    rows: list[Row] = []
    for prompt_tokens in args.prompt_tokens:
        rows += measure(of, model, prompt_tokens, args.implementation)
    write_rows(rows, args.json)


def measure(
    of: Model, model: PreTrainedModel, prompt_tokens: int, implementations: list[str]
) -> list[Row]:
    """The rows of one length of prompt, the implementations in turns."""
    torch.compiler.reset()
    compiled = of.mode != NOT_COMPILED
    source = torch.Generator().manual_seed(prompt_tokens)
    prompt = torch.randint(model.config.vocab_size, (of.batch, prompt_tokens), generator=source)
    rows: list[Row] = []
    steps: dict[str, Callable[..., torch.Tensor]] = {}
    for implementation in implementations:
        name = f"transformers/{implementation}"
        copied_bytes = of.batch * prompt_tokens * bytes_per_token(model)
        if implementation == "batched_mm" and copied_bytes > MAX_COPIED_BYTES:
            rows.append(of.skipped(prompt_tokens, name, TOO_MANY_COPIES))
            continue
        model.set_experts_implementation(implementation)
        step = torch.compile(model, mode=of.mode) if compiled else model
        try:
            generate(model, step, prompt, of.new_tokens, static=compiled)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            rows.append(of.skipped(prompt_tokens, name, first_line(error)))
            continue
        steps[implementation] = step

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(MIN_RUNS):
        for implementation, step in steps.items():
            model.set_experts_implementation(implementation)
            seconds = generate(model, step, prompt, of.new_tokens, static=compiled)
            times[implementation].append(seconds)
    for implementation, runs in times.items():
        prefill_s, decode_s = zip(*runs)
        name = f"transformers/{implementation}"
        peak = peak_memory_bytes()
        rows.append(of.row(prompt_tokens, name, prefill_s, decode_s, peak))
    return rows


def generate(
    model: PreTrainedModel,
    step: Callable[..., torch.Tensor],
    prompt: torch.Tensor,
    new_tokens: int,
    static: bool,
) -> tuple[float, float]:
    """Seconds of the prefill and of the decoding, greedy and without the cost of `generate`.

    A compiled step needs a cache whose shapes do not change.
    """
    batch, prompt_tokens = prompt.shape
    cache = None
    if static:
        cache = StaticCache(config=model.config, max_cache_len=prompt_tokens + new_tokens)
    start = time.perf_counter()
    output = model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1:].argmax(-1)
    prefilled = time.perf_counter()
    for _ in range(new_tokens - 1):
        output = step(token, past_key_values=output.past_key_values, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
    return prefilled - start, time.perf_counter() - prefilled


def bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of the weights of one token's experts in one layer."""
    config = model.config
    pair = 3 * config.hidden_size * config.moe_intermediate_size * model.dtype.itemsize
    return config.num_experts_per_tok * pair


if __name__ == "__main__":
    main()
