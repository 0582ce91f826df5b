#!/usr/bin/env python3
"""Measures a program of the llama.cpp kind through its own `llama-bench`.

`llama-bench` decodes after an empty prompt, so all rows have the same decoding speed. It does not
say how long it loads.
"""

import json
import resource
import subprocess
from pathlib import Path

from common import MIN_RUNS, NOT_COMPILED, Model, model_parser, peak_memory_bytes, write_rows


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--binary", type=Path, required=True, help="the program `llama-bench`")
    parser.add_argument("--name", default="llama.cpp", help="what the rows call the program")
    parser.add_argument("--repack", action="store_true", help="ik_llama.cpp: repacks the weights")
    args = parser.parse_args()

    command = [args.binary, "--model", args.model, "--threads", args.threads]
    command += ["--n-prompt", ",".join(map(str, args.prompt_tokens))]
    command += ["--n-gen", args.new_tokens - 1]
    command += ["--repetitions", MIN_RUNS, "--output", "json"]
    if args.repack:
        command += ["--run-time-repack", "1"]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{args.binary} ended with {done.returncode}")
    results = json.loads(done.stdout)
    dtype = results[0]["model_type"].split()[-1].lower()
    [decode_s] = [seconds(result) for result in results if result["n_gen"] > 0]
    model = Model(args.model.stem, dtype, args.threads, 1, args.new_tokens, NOT_COMPILED, None)
    rows = []
    for result in results:
        if result["n_prompt"] > 0:
            peak = peak_memory_bytes(resource.RUSAGE_CHILDREN)
            row = model.row(result["n_prompt"], args.name, seconds(result), decode_s, peak)
            rows.append(row | {"version": result["build_commit"]})
    write_rows(rows, args.json)


def seconds(result: dict) -> list[float]:
    return [nanoseconds / 1e9 for nanoseconds in result["samples_ns"]]


if __name__ == "__main__":
    main()
