"""Writes tokenizers/goldens.json: the files of small tokenizers, and what transformers makes of them.

    python make_tokenizer_goldens.py            # writes it again
    python make_tokenizer_goldens.py --check    # compares
"""

import copy
import json
import pathlib
import sys
import tempfile

import transformers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
OUT = HERE / "tokenizers" / "goldens.json"
TEXTS = [
    "hi <|im_start|> hello<|im_end|>",
    "a <img> b<img>c hello",
    "</s><s>hello hello's 123\n\n x",
    "<|endoftext|><pad><tool>  <tool>",
]


def bytes_to_unicode():
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, n = {b: chr(b) for b in kept}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + n)
            n += 1
    return table


def vocabulary():
    table = bytes_to_unicode()
    vocab = {table[b]: b for b in range(256)}
    merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["Ġ", "hello"], ["1", "2"]]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    vocab["</s>"] = len(vocab)
    return vocab, merges


def tokenizer_json(added=(), prefix=False, post=None):
    vocab, merges = vocabulary()
    byte_level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added),
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": post, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": False, "vocab": vocab, "merges": merges},
    }


def token(content, id=None, **flags):
    entry = {"content": content, "lstrip": False, "normalized": False, "rstrip": False,
             "single_word": False, "special": True} | flags
    return entry if id is None else {"id": id} | entry


def begins_with(content, id):
    piece = {"SpecialToken": {"id": content, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [piece, text],
            "pair": [piece, text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {content: {"id": content, "ids": [id], "tokens": [content]}}}


FAST = "PreTrainedTokenizerFast"
START, END = token("<|im_start|>", 263), token("<|im_end|>", 264)


def cases():
    def config(**keys):
        return {"tokenizer_class": FAST} | keys

    def decoder(*tokens):
        return {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in map(dict, tokens)}

    def case(name, model_type="qwen3_moe", tokenizer=None, **files):
        files = {key.replace("__", "."): value for key, value in files.items()}
        files["tokenizer.json"] = tokenizer_json() if tokenizer is None else tokenizer
        return {"name": name, "model_type": model_type,
                "files": {k: v for k, v in files.items() if v is not None}}

    def tc(**keys):
        return {"tokenizer_config__json": config(**keys)}

    listed = decoder(START, END)
    yield case("nothing but tokenizer.json", "mixtral")
    yield case("tokens in added_tokens_decoder only", **tc(added_tokens_decoder=listed))
    yield case("tokens in both", tokenizer=tokenizer_json([START, END]), **tc(added_tokens_decoder=listed))
    yield case("ids that differ", **tc(added_tokens_decoder=decoder(END | {"id": 300}, START | {"id": 400})))
    yield case("ids the other way round", tokenizer=tokenizer_json([START, END]),
               **tc(added_tokens_decoder=decoder(END | {"id": 263}, START | {"id": 264})))
    for flag in ("lstrip", "rstrip", "single_word"):
        yield case(f"flag {flag}", **tc(added_tokens_decoder=decoder(token("<img>", 263, **{flag: True}))))
        yield case(f"flag {flag} for Qwen2", **{"tokenizer_config__json": {
            "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<img>", "pad_token": None, "unk_token": None,
            "added_tokens_decoder": decoder(token("<img>", 263, **{flag: True}))}})
    yield case("not special", **tc(added_tokens_decoder=decoder(token("<tool>", 263, special=False, normalized=True))))
    yield case("a role makes it special", **tc(eos_token="<tool>", added_tokens_decoder=decoder(
        token("<tool>", 263, special=False, normalized=True))))
    yield case("a role makes it special in tokenizer.json", tokenizer=tokenizer_json(
        [token("<tool>", 263, special=False)]), **tc(eos_token="<tool>"))
    yield case("text in special_tokens_map", special_tokens_map__json={"bos_token": "<s>", "eos_token": "</s>"}, **tc())
    yield case("objects in special_tokens_map", special_tokens_map__json={
        "bos_token": token("<s>", lstrip=True), "eos_token": {"content": "</s>"}}, **tc())
    yield case("special_tokens_map goes first", special_tokens_map__json={"bos_token": "<s>", "eos_token": None},
               **tc(bos_token="</s>", eos_token="</s>"))
    yield case("special_tokens_map does not count", special_tokens_map__json={"bos_token": "<s>"},
               **tc(eos_token="</s>", added_tokens_decoder=listed))
    yield case("added_tokens.json", added_tokens__json={"<tool>": 263, "<s>": 264},
               special_tokens_map__json={"bos_token": "<s>"}, **tc())
    yield case("added_tokens.json with other ids", added_tokens__json={"<tool>": 300, "<s>": 290}, **tc())
    yield case("added_tokens.json does not count", added_tokens__json={"<tool>": 263},
               **tc(added_tokens_decoder=listed))
    yield case("extra_special_tokens as a list", **tc(extra_special_tokens=["<img>", "<tool>"]))
    yield case("extra_special_tokens as an object", **tc(extra_special_tokens={
        "image_token": "<img>", "tool": "<tool>"}))
    yield case("additional_special_tokens", **tc(additional_special_tokens=[
        "<img>", {"__type": "AddedToken"} | token("<tool>", rstrip=True)]))
    yield case("both lists", **tc(extra_special_tokens=["<img>"], additional_special_tokens=["<tool>"]))
    yield case("lists in both files", special_tokens_map__json={"additional_special_tokens": ["<tool>"]},
               **tc(additional_special_tokens=["<img>"]))
    yield case("extra in both files", special_tokens_map__json={"extra_special_tokens": ["<tool>", "<img>"]},
               **tc(extra_special_tokens=["<img>"]))
    yield case("a list in special_tokens_map", special_tokens_map__json={
        "additional_special_tokens": ["<img>", "<tool>"], "bos_token": "<s>"}, **tc())
    yield case("named roles", **tc(image_token="<img>", eos_token={"__type": "AddedToken"} | token("</s>")))
    yield case("named roles in both", special_tokens_map__json={"image_token": "<tool>", "tool_token": "<tool>"},
               **tc(image_token="<img>"))
    yield case("named roles as objects", **tc(image_token={"__type": "AddedToken"} | token("<img>", lstrip=True)))
    yield case("all roles", **tc(**{f"{role}_token": f"<{role}>" for role in (
        "mask", "cls", "pad", "sep", "unk", "eos", "bos")}))
    yield case("roles that are null", **tc(bos_token=None, eos_token="</s>", pad_token=None))
    yield case("add_bos_token beside tokenizer.json", **tc(add_bos_token=True, bos_token="</s>"))
    yield case("add_bos_token against the post-processor",
               tokenizer=tokenizer_json([token("<s>", 263)], post=begins_with("<s>", 263)),
               **tc(add_bos_token=False, add_eos_token=True, bos_token="<s>", eos_token="</s>"))
    yield case("split_special_tokens", **tc(split_special_tokens=True, added_tokens_decoder=listed))
    yield case("add_prefix_space of the config", **tc(add_prefix_space=True))
    yield case("add_prefix_space of tokenizer.json", tokenizer=tokenizer_json(prefix=True), **tc(add_prefix_space=False))
    yield case("clean_up_tokenization_spaces", **tc(clean_up_tokenization_spaces=True))
    for model_type in ("qwen3_moe", "olmoe", "granitemoe", "minimax_m2", "mixtral", "gpt_oss"):
        for name in (None, "Qwen2Tokenizer", "Qwen2TokenizerFast", "GPT2Tokenizer", "GPTNeoXTokenizerFast",
                     "LlamaTokenizer", "TokenizersBackend"):
            if (model_type, name) == ("gpt_oss", None):
                continue
            keys = {} if name is None else {"tokenizer_class": name}
            yield case(f"{name} in {model_type}", model_type, tokenizer=tokenizer_json([START, END], prefix=True),
                       tokenizer_config__json=keys)
    for prefix in (True, False):
        for name in ("Qwen2Tokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer"):
            yield case(f"{name} with add_prefix_space {prefix}", tokenizer_config__json={
                "tokenizer_class": name, "add_prefix_space": prefix})
    vocab, merges = vocabulary()
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges)
    for name in ("Qwen2Tokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer"):
        for keys in ({}, {"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>"},
                     {"added_tokens_decoder": listed, "eos_token": "<|im_end|>"}):
            entry = case(f"{name} of vocab.json {sorted(keys)}", tokenizer_config__json={
                "tokenizer_class": name} | keys, vocab__json=vocab, merges__txt=merges)
            del entry["files"]["tokenizer.json"]
            yield entry


def golden(entry):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": entry["model_type"]}))
        for name, content in entry["files"].items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text, encoding="utf-8")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except Exception as error:
            return {"error": type(error).__name__}
        texts = []
        for text in TEXTS:
            ids = tokenizer.encode(text)
            plain = tokenizer.encode(text, add_special_tokens=False)
            texts.append({
                "ids": ids, "plain": plain if plain != ids else None,
                "skipped": tokenizer.decode(ids, skip_special_tokens=True),
            })
        return {"class": type(tokenizer).__name__, "size": len(tokenizer),
                "roles": tokenizer.special_tokens_map, "texts": texts,
                "tokens": tokenizer.convert_ids_to_tokens(tokenizer.encode(TEXTS[0]))}


def shortened(entry, base):
    """Refers to the common parts by name, so that the file stays small."""
    entry = copy.deepcopy(entry)
    tokenizer = entry["files"].get("tokenizer.json")
    if tokenizer is not None:
        entry["files"]["tokenizer.json"] = {k: v for k, v in tokenizer.items() if v != base[k]}
    if "vocab.json" in entry["files"]:
        entry["files"]["vocab.json"] = "model.vocab of base"
    return entry


def main():
    base = tokenizer_json()
    out = {"transformers": transformers.__version__, "texts": TEXTS, "base": base,
           "cases": [shortened(entry, base) | golden(entry) for entry in cases()]}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in out.pop("cases"))
    head = json.dumps(out, ensure_ascii=False)[:-1]
    text = f'{head}, "cases": [\n{lines}\n]}}\n'
    if "--check" in sys.argv:
        assert OUT.read_text(encoding="utf-8") == text, "goldens differ"
    else:
        OUT.write_text(text, encoding="utf-8")


main()
