#!/usr/bin/env python3
"""Measures llama.cpp on a whole model: prefill, and decoding after it."""

import random
import time
from pathlib import Path

import llama_cpp

from common import MIN_RUNS, NOT_COMPILED, Model, model_parser, peak_memory_bytes, write_rows

NAME = "llama.cpp"


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    args = parser.parse_args()

    start = time.perf_counter()
    session = Session(args.model, args.threads, max(args.prompt_tokens) + args.new_tokens)
    load_s = time.perf_counter() - start
    model = Model(
        args.model.stem, session.dtype(), args.threads, 1, args.new_tokens, NOT_COMPILED, load_s
    )
    rows = []
    for prompt_tokens in args.prompt_tokens:
        session.generate(prompt_tokens, args.new_tokens)
        runs = [session.generate(prompt_tokens, args.new_tokens) for _ in range(MIN_RUNS)]
        prefill_s, decode_s = zip(*runs)
        rows.append(model.row(prompt_tokens, NAME, prefill_s, decode_s, peak_memory_bytes()))
    write_rows(rows, args.json)


class Session:
    """A model and a context of llama.cpp."""

    def __init__(self, path: Path, threads: int, context_tokens: int) -> None:
        llama_cpp.llama_log_set(quiet, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = context_tokens
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp cannot make a context for {path}")
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.source = random.Random(0)

    def dtype(self) -> str:
        """The last word of a description such as `qwen2moe ?B BF16`."""
        buffer = llama_cpp.ctypes.create_string_buffer(128)
        llama_cpp.llama_model_desc(self.model, buffer, len(buffer))
        return buffer.value.decode().split()[-1].lower()

    def generate(self, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
        """Seconds of the prefill and of the decoding, both of random tokens."""
        memory = llama_cpp.llama_get_memory(self.context)
        llama_cpp.llama_memory_clear(memory, True)
        start = time.perf_counter()
        self._decode(prompt_tokens)
        prefilled = time.perf_counter()
        for _ in range(new_tokens - 1):
            self._decode(1)
        return prefilled - start, time.perf_counter() - prefilled

    def _decode(self, tokens: int) -> None:
        ids = [self.source.randrange(self.vocabulary_size) for _ in range(tokens)]
        array = (llama_cpp.llama_token * tokens)(*ids)
        batch = llama_cpp.llama_batch_get_one(array, tokens)
        code = llama_cpp.llama_decode(self.context, batch)
        if code != 0:
            raise SystemExit(f"llama_decode returned {code}")
        llama_cpp.llama_synchronize(self.context)


@llama_cpp.llama_log_callback
def quiet(_level: int, _text: bytes, _data: object) -> None:
    """Drops the log."""


if __name__ == "__main__":
    main()
