#!/usr/bin/env python3
"""Measures transformers on the vision tower of a model: one image, without the image processor."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from common import (
    NOT_COMPILED,
    Row,
    Vision,
    compile_argument,
    first_line,
    time_alone,
    vision_parser,
    write_rows,
)
from torch_layer import DTYPES


def main() -> None:
    parser = vision_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a folder with a checkpoint")
    compile_argument(parser)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(args.threads)

    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=DTYPES[args.dtype])
    tower = model.eval().model.visual
    config = tower.config
    rows: list[Row] = []
    for width, height in args.image_size:
        grid = grid_of(config, width, height)
        of = Vision(
            args.model.name,
            args.dtype,
            args.threads,
            f"{width}x{height}",
            grid[1] * grid[2],
            args.compile,
            flop(config, grid),
        )
        rows.append(measure(of, tower, grid))
    write_rows(rows, args.json)


def measure(of: Vision, tower: PreTrainedModel, grid: list[int]) -> Row:
    """The row of one size of image."""
    # Compiled anew for every size, for static shapes are the fastest.
    torch.compiler.reset()
    name = f"transformers/{tower.config._attn_implementation}"
    source = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(of.patches, patch_len(tower.config), generator=source)
    pixel_values = pixel_values.to(tower.dtype)
    grid_thw = torch.tensor([grid])
    forward: Callable[..., object] = tower
    if of.mode != NOT_COMPILED:
        forward = torch.compile(tower, mode=of.mode)
    try:
        return of.row(name, time_alone(lambda: forward(pixel_values, grid_thw=grid_thw)))
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return of.skipped(name, first_line(error))


def grid_of(config: PreTrainedConfig, width: int, height: int) -> list[int]:
    """Patches over time, height and width."""
    block = config.patch_size * config.spatial_merge_size
    if width % block or height % block:
        sys.exit(f"an image of {width}x{height} is not made of whole blocks of {block} pixels")
    return [1, height // config.patch_size, width // config.patch_size]


def patch_len(config: PreTrainedConfig) -> int:
    return config.in_channels * config.temporal_patch_size * config.patch_size**2


def flop(config: PreTrainedConfig, grid: list[int]) -> int:
    """Multiplications and additions, as `VisionSpec::flops` counts them."""
    frames, rows, columns = grid
    frame = rows * columns
    width, merged = config.hidden_size, config.hidden_size * config.spatial_merge_size**2
    block = 4 * width**2 + 2 * width * config.intermediate_size
    per_patch = width * patch_len(config) + config.depth * block
    mergers = 1 + len(config.deepstack_visual_indexes)
    per_row = mergers * merged * (merged + config.out_hidden_size)
    merged_rows = frames * frame // config.spatial_merge_size**2
    attention = 4 * config.depth * frames * frame**2 * width
    return 2 * (frames * frame * per_patch + merged_rows * per_row) + attention


if __name__ == "__main__":
    main()
