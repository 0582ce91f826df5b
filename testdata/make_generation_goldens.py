#!/usr/bin/env python3
"""Writes `generation/logits.json`: small random logits, and what the logits
processors of transformers make of them.

    pip install -r requirements.txt
    python make_generation_goldens.py

Each case is a generation_config.json, a prompt's length, the tokens so far and
the logits; transformers itself chooses the processors and their order. `null`
is minus infinity; "nan" and "inf" are the others that JSON does not have.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import GenerationConfig
from transformers.generation.utils import GenerationMixin

VOCAB = 24
EOS = {"eos_token_id": [2, 5]}
SAMPLE = {"do_sample": True, "top_k": 0}

# name, settings, tokens of the prompt, tokens so far
CASES = [
    ("sequence_bias", {"sequence_bias": [[[3], 2.5], [[7, 4], -3.0], [[1, 7, 9], 4.0], [[8, 4], 9.0], [[3], 1.5]]}, 2, [6, 1, 7]),
    ("sequence_bias, prefix longer than the text", {"sequence_bias": [[[1, 2, 3, 4], 5.0]]}, 1, [3]),
    ("encoder_repetition_penalty", {"encoder_repetition_penalty": 1.5}, 3, [6, 1, 6, 9]),
    ("encoder_repetition_penalty below 1", {"encoder_repetition_penalty": 0.5}, 3, [6, 1, 6, 9]),
    ("repetition_penalty", {"repetition_penalty": 1.3}, 2, [6, 1, 6, 9]),
    ("repetition_penalty below 1", {"repetition_penalty": 0.7}, 2, [6, 1, 6, 9]),
    ("no_repeat_ngram_size 1", {"no_repeat_ngram_size": 1}, 2, [6, 1, 6, 9]),
    ("no_repeat_ngram_size 2", {"no_repeat_ngram_size": 2}, 2, [6, 1, 6, 9, 6]),
    ("no_repeat_ngram_size 3", {"no_repeat_ngram_size": 3}, 4, [6, 1, 9, 6, 1, 4, 6, 1]),
    ("no_repeat_ngram_size longer than the text", {"no_repeat_ngram_size": 5}, 2, [6, 6]),
    ("no_repeat_ngram_size off", {"no_repeat_ngram_size": 0}, 2, [6, 6]),
    ("encoder_no_repeat_ngram_size 1", {"encoder_no_repeat_ngram_size": 1}, 2, [6, 1, 9]),
    ("encoder_no_repeat_ngram_size 2", {"encoder_no_repeat_ngram_size": 2}, 4, [6, 1, 6, 9, 3, 6]),
    ("encoder_no_repeat_ngram_size, other end", {"encoder_no_repeat_ngram_size": 2}, 2, [6, 1, 9, 3, 9]),
    ("bad_words_ids", {"bad_words_ids": [[3], [7, 4], [1, 7, 9], [8, 4]]}, 2, [6, 1, 7]),
    ("bad_words_ids with end tokens", {"bad_words_ids": [[2], [7, 2], [3, 5], [8]], **EOS}, 2, [6, 1, 3]),
    ("min_length", {"min_length": 5, **EOS}, 2, [6, 1, 7, 8]),
    ("min_length reached", {"min_length": 5, **EOS}, 2, [6, 1, 7, 8, 9]),
    ("min_length without end tokens", {"min_length": 5}, 2, [6, 1]),
    ("min_new_tokens", {"min_new_tokens": 3, **EOS}, 2, [6, 1, 7, 8]),
    ("min_new_tokens reached", {"min_new_tokens": 3, **EOS}, 2, [6, 1, 7, 8, 9]),
    ("forced_bos_token_id", {"forced_bos_token_id": 4}, 1, [6]),
    ("forced_bos_token_id later", {"forced_bos_token_id": 4}, 1, [6, 4]),
    ("forced_eos_token_id", {"forced_eos_token_id": 4, "max_length": 5}, 2, [6, 4, 3, 3]),
    ("forced_eos_token_id, several", {"forced_eos_token_id": [4, 9], "max_new_tokens": 2}, 2, [6, 4, 3]),
    ("forced_eos_token_id before", {"forced_eos_token_id": 4, "max_new_tokens": 3}, 2, [6, 4, 3]),
    ("remove_invalid_values", {"remove_invalid_values": True}, 1, [6]),
    ("remove_invalid_values after bad words", {"remove_invalid_values": True, "bad_words_ids": [[3]]}, 1, [6]),
    ("exponential_decay_length_penalty", {"exponential_decay_length_penalty": [1, 1.5], **EOS}, 2, [6, 1, 7, 8, 9]),
    ("exponential_decay_length_penalty before", {"exponential_decay_length_penalty": [3, 1.5], **EOS}, 2, [6, 1, 7, 8, 9]),
    ("exponential_decay_length_penalty after min_length", {"exponential_decay_length_penalty": [0, 1.5], "min_length": 9, **EOS}, 2, [6, 1, 7]),
    ("suppress_tokens", {"suppress_tokens": [3, 9, 999]}, 2, [6, 1, 7]),
    ("begin_suppress_tokens", {"begin_suppress_tokens": [3, 9]}, 2, [6, 1]),
    ("begin_suppress_tokens later", {"begin_suppress_tokens": [3, 9]}, 2, [6, 1, 7]),
    ("begin_suppress_tokens after a forced first", {"begin_suppress_tokens": [3, 9], "forced_bos_token_id": 1}, 1, [6, 1]),
    ("begin_suppress_tokens and a forced first", {"begin_suppress_tokens": [3, 9], "forced_bos_token_id": 1}, 1, [6]),
    ("values for draws without draws", {"top_k": -1, "top_p": 0.1, "temperature": 0.0, "typical_p": 7.0}, 2, [6, 1]),
    ("all processors", {
        "sequence_bias": [[[3], 2.5], [[7, 4], 3.0]], "encoder_repetition_penalty": 1.2, "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 3, "bad_words_ids": [[10], [7, 11]],
        "min_length": 3, "min_new_tokens": 1, "exponential_decay_length_penalty": [1, 1.2],
        "suppress_tokens": [13], "begin_suppress_tokens": [14], **EOS,
    }, 3, [6, 1, 7, 8, 9, 7, 6, 7]),
    ("all processors at the beginning", {
        "sequence_bias": [[[3], 2.5], [[7, 4], 3.0]], "encoder_repetition_penalty": 1.2, "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2, "bad_words_ids": [[10], [7, 11]], "min_new_tokens": 1, "remove_invalid_values": True,
        "suppress_tokens": [13], "begin_suppress_tokens": [14], **EOS,
    }, 3, [6, 1, 7]),
    ("temperature", {**SAMPLE, "temperature": 0.6}, 1, [6]),
    ("top_k", {"do_sample": True, "top_k": 4}, 1, [6]),
    ("top_k above the vocabulary", {"do_sample": True, "top_k": 999}, 1, [6]),
    ("top_p", {**SAMPLE, "top_p": 0.8}, 1, [6]),
    ("top_p 0", {**SAMPLE, "top_p": 0.0}, 1, [6]),
    ("top_p above 1", {**SAMPLE, "top_p": 1.5}, 1, [6]),
    ("min_p", {**SAMPLE, "min_p": 0.1}, 1, [6]),
    ("min_p 0", {**SAMPLE, "min_p": 0.0}, 1, [6]),
    ("top_h 0.3", {**SAMPLE, "top_h": 0.3}, 1, [6]),
    ("top_h 0.8", {**SAMPLE, "top_h": 0.8}, 1, [6]),
    ("top_h 0.01", {**SAMPLE, "top_h": 0.01}, 1, [6]),
    ("typical_p 0.2", {**SAMPLE, "typical_p": 0.2}, 1, [6]),
    ("typical_p 0.9", {**SAMPLE, "typical_p": 0.9}, 1, [6]),
    ("typical_p above 1", {**SAMPLE, "typical_p": 1.5}, 1, [6]),
    ("epsilon_cutoff", {**SAMPLE, "epsilon_cutoff": 0.04}, 1, [6]),
    ("epsilon_cutoff above all", {**SAMPLE, "epsilon_cutoff": 0.99}, 1, [6]),
    ("epsilon_cutoff out of range", {**SAMPLE, "epsilon_cutoff": 1.5}, 1, [6]),
    ("eta_cutoff", {**SAMPLE, "eta_cutoff": 0.03}, 1, [6]),
    ("eta_cutoff, large", {**SAMPLE, "eta_cutoff": 0.6}, 1, [6]),
    ("eta_cutoff, negative", {**SAMPLE, "eta_cutoff": -0.5}, 1, [6]),
    ("renormalize_logits", {**SAMPLE, "top_p": 0.8, "renormalize_logits": True}, 1, [6]),
    ("temperature, top_k, top_p, min_p", {"do_sample": True, "temperature": 0.8, "top_k": 9, "top_p": 0.9, "min_p": 0.08}, 1, [6]),
    ("all warpers", {
        "do_sample": True, "temperature": 1.4, "top_h": 0.97, "top_k": 12, "top_p": 0.95, "min_p": 0.03,
        "typical_p": 0.9, "epsilon_cutoff": 0.02, "eta_cutoff": 0.2, "renormalize_logits": True,
    }, 1, [6]),
    ("processors and warpers", {
        "do_sample": True, "temperature": 0.9, "top_k": 10, "top_p": 0.9, "repetition_penalty": 1.4,
        "suppress_tokens": [13, 17], "no_repeat_ngram_size": 2, "typical_p": 0.8,
    }, 2, [6, 1, 7, 6]),
]


def processed(settings, prompt, history, logits):
    config = GenerationConfig(**settings)
    eos = config.eos_token_id
    config._eos_token_tensor = None if eos is None else torch.tensor(eos)
    new = config.max_new_tokens or (None if config.max_length else 128)
    if new is not None:
        config.max_length = prompt + new
    input_ids = torch.tensor([history])
    model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=False))
    model._merge_criteria_processor_list = lambda processors, _: processors
    processors = GenerationMixin._get_logits_processor(
        model, config, input_ids_seq_length=prompt, encoder_input_ids=input_ids[:, :prompt], device="cpu"
    )
    return processors(input_ids, torch.tensor([logits]))[0].tolist()


def written(value):
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else None
    return value


def main():
    cases = []
    for seed, (name, settings, prompt, history) in enumerate(CASES):
        generator = torch.Generator().manual_seed(seed)
        logits = [round(value, 3) for value in (torch.randn(VOCAB, generator=generator) * 2).tolist()]
        if settings.get("remove_invalid_values"):
            logits[0], logits[1], logits[4] = math.nan, math.inf, -math.inf
        scores = processed(settings, prompt, history, logits)
        cases.append({
            "name": name,
            "settings": settings,
            "prompt": prompt,
            "history": history,
            "logits": [written(value) for value in logits],
            "scores": [written(round(value, 6) if abs(value) < 1e9 else value) for value in scores],
        })
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path(__file__).with_name("generation").joinpath("logits.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
