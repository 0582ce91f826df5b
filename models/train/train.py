#!/usr/bin/env python3
"""Train the small Mixture-of-Experts language model `rust-book-moe`.

The model is a Hugging Face `qwen2_moe` (routed experts plus one shared expert)
with about 3.7 million parameters.  Its text is the documentation that ships
with the Rust toolchain: the Rust book and its sibling books.

Stages, each a subcommand; the default order is

    python train.py corpus      # HTML pages          -> work/corpus.json
    python train.py tokenizer   # training text       -> work/tokenizer.json
    python train.py train       # tokens              -> work/last.pt, work/best.pt
    python train.py export      # best checkpoint     -> the model folder (bf16)
    python train.py evaluate    # the exported folder -> heldout.json
    python train.py sample      # the exported folder -> greedy text
    python train.py bench       # step time for each way of computing the experts

Everything intermediate lives in the folder given by `--work`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Threads that wait should sleep soon rather than spin: on a machine that is
# shared with other work this makes a step several times faster, and on an idle
# one it costs little.  Must be set before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

SEED = 20240607
EOS = "<|endoftext|>"
VOCAB_SIZE = 4096
HERE = Path(__file__).resolve().parent
DEFAULT_OUT = HERE.parent / "rust-book-moe"

# --------------------------------------------------------------------------
# Stage 1: corpus
# --------------------------------------------------------------------------

# The books that are read, in this order.  All are MIT OR Apache-2.0.  The
# embedded book is left out on purpose: its prose is CC-BY-SA.
BOOKS = [
    "book",
    "rust-by-example",
    "reference",
    "nomicon",
    "cargo",
    "edition-guide",
    "rustc",
    "rustdoc",
    "clippy",
    "style-guide",
    "error_codes",
    "unstable-book",
]

# Pages that repeat others, are navigation only, or are lists of links.
SKIP_NAMES = {
    "print.html",
    "404.html",
    "toc.html",
    "SUMMARY.html",
    "CHANGELOG.html",
    "test-summary.html",
}
# Translations of Rust by Example; lists of names without prose.
SKIP_DIRS = {
    "rust-by-example/es",
    "rust-by-example/ja",
    "rust-by-example/ko",
    "rust-by-example/zh",
    "unstable-book/library-features",
}

# Pages that are never trained on.  HELDOUT makes heldout.txt (the number that
# is reported); VALID is what training watches in order to keep the best
# checkpoint, so that the reported number takes no part in that choice.
HELDOUT = [
    "book/ch15-06-reference-cycles.html",
    "nomicon/leaking.html",
    "rust-by-example/flow_control/while_let.html",
    "reference/destructors.html",
    "cargo/guide/cargo-toml-vs-cargo-lock.html",
    "error_codes/E0505.html",
]
HELDOUT_CHARS_PER_PAGE = 3200
VALID = [
    "book/ch16-04-extensible-concurrency-sync-and-send.html",
    "book/ch13-04-performance.html",
    "book/ch08-03-hash-maps.html",
    "nomicon/aliasing.html",
    "rust-by-example/trait/iter.html",
    "rust-by-example/std/arc.html",
    "reference/items/unions.html",
    "cargo/reference/build-scripts.html",
    "rustdoc/how-to-write-documentation.html",
    "error_codes/E0382.html",
]

PUNCTUATION = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2026": "...",
        "\u00a0": " ",
        "\u200b": None,
        "\u00ad": None,
        "\ufeff": None,
    }
)


def find_docs(given: str | None) -> Path:
    """The folder that holds `book/`, `reference/` and so on."""
    if given:
        docs = Path(given)
    else:
        root = subprocess.check_output(["rustc", "--print", "sysroot"], text=True).strip()
        docs = Path(root) / "share" / "doc" / "rust" / "html"
    if not (docs / "book").is_dir():
        sys.exit(f"{docs} has no book/; try `rustup component add rust-docs` or --docs")
    return docs


def inline_text(node) -> str:
    """Text of an inline element, with `code` marked; links keep only their words."""
    from bs4 import Comment, NavigableString

    if isinstance(node, Comment):
        return ""
    if isinstance(node, NavigableString):
        return str(node)
    if node.name == "code":
        return "`" + node.get_text() + "`"
    if node.name == "br":
        return " "
    if node.name in ("script", "style", "svg", "button", "img"):
        return ""
    return "".join(inline_text(child) for child in node.children)


def tidy(text: str) -> str:
    return " ".join(text.translate(PUNCTUATION).split())


def code_block(pre) -> str:
    """A fenced code block without the lines that mdBook hides."""
    for hidden in pre.select(".boring, button"):
        hidden.extract()
    code = pre.find("code")
    classes = (code.get("class") or []) if code else []
    language = ""
    for name in classes:
        if name.startswith("language-"):
            language = name.removeprefix("language-").split(",")[0]
    body = pre.get_text().translate(PUNCTUATION).replace("\t", "    ")
    lines = [line.rstrip() for line in body.split("\n")]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    kept = []
    for line in lines:  # at most one empty line in a row
        if line or (kept and kept[-1]):
            kept.append(line)
    if not kept:
        return ""
    return f"```{language}\n" + "\n".join(kept) + "\n```"


BLOCKS = {
    "p", "pre", "ul", "ol", "dl", "table", "blockquote", "div", "section",
    "figure", "h1", "h2", "h3", "h4", "h5", "h6", "details", "main", "article",
}


def blocks_of(node, out: list[str]) -> None:
    """Append the Markdown blocks under `node` to `out`."""
    from bs4 import Comment, NavigableString

    pending: list[str] = []

    def flush() -> None:
        text = tidy("".join(pending))
        pending.clear()
        if text:
            out.append(text)

    for child in node.children:
        if isinstance(child, Comment):
            continue
        if isinstance(child, NavigableString):
            pending.append(str(child))
            continue
        name = child.name
        if name not in BLOCKS and not child.find(["pre", "table", "ul", "ol"]):
            pending.append(inline_text(child))
            continue
        flush()
        if name == "p" or (name == "figcaption"):
            text = tidy(inline_text(child))
            if text:
                out.append(text)
        elif name and name[0] == "h" and name[1:].isdigit():
            text = tidy(inline_text(child))
            if text:
                out.append("#" * int(name[1]) + " " + text)
        elif name == "pre":
            text = code_block(child)
            if text:
                out.append(text)
        elif name in ("ul", "ol"):
            items: list[str] = []
            for number, item in enumerate(child.find_all("li", recursive=False), 1):
                inner: list[str] = []
                blocks_of(item, inner)
                mark = "- " if name == "ul" else f"{number}. "
                if inner:
                    body = "\n".join(inner).replace("\n", "\n  ")
                    items.append(mark + body)
            if items:
                out.append("\n".join(items))
        elif name == "dl":
            for part in child.find_all(["dt", "dd"], recursive=False):
                if part.name == "dt":
                    text = tidy(inline_text(part))
                    if text:
                        out.append(text)
                else:
                    blocks_of(part, out)
        elif name == "table":
            rows = []
            for row in child.find_all("tr"):
                cells = [tidy(inline_text(c)) for c in row.find_all(["td", "th"])]
                if any(cells):
                    rows.append("| " + " | ".join(cells) + " |")
            if rows:
                out.append("\n".join(rows))
        else:
            blocks_of(child, out)
    flush()


def page_blocks(path: Path) -> list[str]:
    """The text of one mdBook page as a list of Markdown blocks."""
    from bs4 import BeautifulSoup

    html = path.read_text(encoding="utf-8", errors="replace")
    start, end = html.find("<main>"), html.rfind("</main>")
    if start < 0 or end < 0:
        return []  # a redirect
    main = BeautifulSoup(html[start : end + 7], "lxml").find("main")
    for junk in main.select(
        "script, style, svg, .rule, .grammar-container, .grammar-railroad, "
        ".footnote-definition, .footnote-reference, sup.footnote-reference"
    ):
        junk.extract()
    out: list[str] = []
    blocks_of(main, out)
    return out


def stage_corpus(args) -> None:
    docs = find_docs(args.docs)
    pages: list[str] = []
    for book in BOOKS:
        for path in sorted((docs / book).rglob("*.html")):
            name = path.relative_to(docs).as_posix()
            if path.name in SKIP_NAMES:
                continue
            if any(name.startswith(d + "/") for d in SKIP_DIRS):
                continue
            pages.append(name)
    missing = [p for p in HELDOUT + VALID if p not in pages]
    if missing:
        sys.exit(f"held-out pages not found: {missing}")

    # A block of 60 characters or more is kept only where it occurs first, and
    # the held-out pages come first, so nothing of them is left in the training
    # text even where a book quotes itself.
    seen: set[str] = set()
    reserved = HELDOUT + VALID
    splits: dict[str, list[dict]] = {"heldout": [], "valid": [], "train": []}
    for name in reserved + [p for p in pages if p not in set(reserved)]:
        blocks = []
        for block in page_blocks(docs / name):
            if len(block) >= 60:
                if block in seen:
                    continue
                seen.add(block)
            blocks.append(block)
        while blocks and blocks[-1].startswith("#"):  # headings left empty
            blocks.pop()
        text = "\n\n".join(blocks)
        if len(text) < 250:
            continue
        split = "heldout" if name in HELDOUT else "valid" if name in VALID else "train"
        if split == "heldout":
            taken, size = [], 0
            for block in blocks:
                if size + len(block) > HELDOUT_CHARS_PER_PAGE:
                    break
                taken.append(block)
                size += len(block) + 2
            text = "\n\n".join(taken)
        splits[split].append({"page": name, "text": text})

    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    (work / "corpus.json").write_text(json.dumps(splits, ensure_ascii=False), encoding="utf-8")
    for split, items in splits.items():
        print(f"{split}: {len(items)} pages, {sum(len(i['text']) for i in items)} characters")
    per_book: dict[str, list[int]] = {}
    for item in splits["train"]:
        entry = per_book.setdefault(item["page"].split("/")[0], [0, 0])
        entry[0] += 1
        entry[1] += len(item["text"])
    for book, (count, size) in per_book.items():
        print(f"  {book}: {count} pages, {size} characters")


def load_corpus(work: Path) -> dict[str, list[dict]]:
    return json.loads((work / "corpus.json").read_text(encoding="utf-8"))


# --------------------------------------------------------------------------
# Stage 2: tokenizer
# --------------------------------------------------------------------------

# The pre-tokenizer of the Qwen2 family.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def stage_tokenizer(args) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    corpus = load_corpus(Path(args.work))
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=2,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator((d["text"] for d in corpus["train"]), trainer)
    path = Path(args.work) / "tokenizer.json"
    tok.save(str(path), pretty=False)
    for split in ("train", "valid", "heldout"):
        count = sum(len(tok.encode(d["text"]).ids) + 1 for d in corpus[split])
        print(f"{split}: {count} tokens")
    print(f"vocabulary {tok.get_vocab_size()}, {path.stat().st_size} bytes")


# --------------------------------------------------------------------------
# Stage 3: training
# --------------------------------------------------------------------------


def model_config():
    from transformers import Qwen2MoeConfig

    return Qwen2MoeConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=320,  # unused: every layer is sparse
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        max_window_layers=4,
        rms_norm_eps=1e-6,
        initializer_range=0.03,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        moe_intermediate_size=96,
        shared_expert_intermediate_size=320,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=False,
        router_aux_loss_coef=0.01,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        use_cache=True,
    )


def count_parameters(model) -> tuple[int, int]:
    """(all, used for one token): the routed experts count by top-k of n."""
    cfg = model.config
    total = sum(p.numel() for p in model.parameters())
    routed = sum(p.numel() for n, p in model.named_parameters() if ".mlp.experts." in n)
    active = total - routed + routed * cfg.num_experts_per_tok // cfg.num_experts
    return total, active


def new_model(experts: str, dropout: float):
    """A fresh model; dropout acts on each residual branch, in training only."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(model_config(), attn_implementation="sdpa")
    model.set_experts_implementation(experts)

    def drop(module, _inputs, output):
        if not module.training or dropout == 0:
            return output
        if isinstance(output, tuple):
            return (torch.nn.functional.dropout(output[0], dropout), *output[1:])
        return torch.nn.functional.dropout(output, dropout)

    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)
    return model


def encode_split(work: Path, split: str) -> list[list[int]]:
    from tokenizers import Tokenizer

    tok = Tokenizer.from_file(str(work / "tokenizer.json"))
    return [tok.encode(d["text"]).ids for d in load_corpus(work)[split]]


class Windows:
    """Endless shuffled windows.  Each epoch joins the pages in a new order with
    the end token between them, cuts at a new offset and shuffles the windows."""

    def __init__(self, docs: list[list[int]], seed: int):
        self.docs, self.rng = docs, random.Random(seed)
        self.queue: list[list[int]] = []
        self.length = 0
        self.epochs = 0

    def batch(self, count: int, length: int):
        import torch

        if length != self.length:
            self.queue, self.length = [], length
        rows = []
        while len(rows) < count:
            if not self.queue:
                order = list(self.docs)
                self.rng.shuffle(order)
                stream = [t for doc in order for t in (*doc, 0)]
                offset = self.rng.randrange(length)
                self.queue = [
                    stream[i : i + length]
                    for i in range(offset, len(stream) - length + 1, length)
                ]
                self.rng.shuffle(self.queue)
                self.epochs += 1
            rows.append(self.queue.pop())
        return torch.tensor(rows)


def losses(model, ids):
    """(cross entropy, load-balancing loss averaged over layers)."""
    import torch
    from transformers.models.qwen2_moe.modeling_qwen2_moe import load_balancing_loss_func

    cfg = model.config
    out = model(input_ids=ids, output_router_logits=True, use_cache=False)
    ce = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].reshape(-1, cfg.vocab_size), ids[:, 1:].reshape(-1)
    )
    # Per layer: the library's own sum mixes all layers into one balance.
    aux = sum(
        load_balancing_loss_func((logits,), cfg.num_experts, cfg.num_experts_per_tok)
        for logits in out.router_logits
    ) / len(out.router_logits)
    return ce, aux, out.router_logits


def valid_loss(model, docs: list[list[int]], window: int = 256) -> float:
    """Mean loss over fresh windows of the validation pages, joined by the end token."""
    import torch

    stream = [t for doc in docs for t in (*doc, 0)]
    rows = [stream[i : i + window] for i in range(0, len(stream) - window + 1, window)]
    was_training = model.training
    model.eval()
    total = count = 0.0
    with torch.no_grad():
        for i in range(0, len(rows), 8):
            ids = torch.tensor(rows[i : i + 8])
            ce, _, _ = losses(model, ids)
            total += ce.item() * len(ids)
            count += len(ids)
    model.train(was_training)
    return total / count


def orthogonalize(g):
    """The nearest (semi-)orthogonal matrix, roughly, of each matrix in a stack:
    five Newton-Schulz steps with the usual Muon coefficients."""
    x = g.mT if g.shape[-2] > g.shape[-1] else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if g.shape[-2] > g.shape[-1] else x


class Optimizer:
    """Muon for the matrices of attention and of the experts, AdamW for the rest
    (embedding, router, norms, biases).  torch.optim.Muon takes only
    two-dimensional parameters, and the experts are stored as stacks."""

    def __init__(self, model, lr: float, muon_lr: float, weight_decay: float):
        import torch

        self.matrices, decay, plain = {}, [], []
        for name, p in model.named_parameters():
            if "_proj" in name and p.ndim >= 2:
                self.matrices[name] = p
            elif p.ndim >= 2:
                decay.append(p)
            else:
                plain.append(p)
        self.lr, self.muon_lr, self.weight_decay = lr, muon_lr, weight_decay
        self.momentum = {n: torch.zeros_like(p) for n, p in self.matrices.items()}
        self.adam = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=lr,
            betas=(0.9, 0.98),
            eps=1e-9,
            fused=True,
        )
        self.parameters = [*self.matrices.values(), *decay, *plain]

    def step(self, scale: float) -> None:
        """One update with both learning rates multiplied by `scale`."""
        import torch

        for group in self.adam.param_groups:
            group["lr"] = self.lr * scale
        self.adam.step()
        lr = self.muon_lr * scale
        # Matrices of one shape are orthogonalised together.
        stacks: dict[tuple, list] = {}
        with torch.no_grad():
            for name, p in self.matrices.items():
                buffer = self.momentum[name]
                buffer.lerp_(p.grad, 0.05)
                update = p.grad.lerp(buffer, 0.95)
                if name.endswith("gate_up_proj"):  # two matrices stored as one
                    views = p.view(p.shape[0] * 2, -1, p.shape[2])
                    update = update.view_as(views)
                else:
                    views = p if p.ndim == 3 else p[None]
                    update = update if p.ndim == 3 else update[None]
                stacks.setdefault(tuple(views.shape[1:]), []).append((views, update))
            for (rows, columns), entries in stacks.items():
                whole = orthogonalize(torch.cat([u for _, u in entries]))
                whole *= max(1.0, rows / columns) ** 0.5
                for (views, _), part in zip(
                    entries, whole.split([len(u) for _, u in entries]), strict=True
                ):
                    views.mul_(1 - lr * self.weight_decay).sub_(part, alpha=lr)

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict:
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        self.momentum = state["momentum"]


def rate(progress: float, warmup: float = 0.02) -> float:
    """Linear warm-up, then a cosine to nearly nothing, as a share of the peak;
    progress runs from 0 to 1."""
    if progress < warmup:
        return max(progress, 0.001) / warmup
    t = min(1.0, (progress - warmup) / (1 - warmup))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * t))


class Threads:
    """Chooses between one thread and all of them by trying both now and then.
    On a machine shared with other work a step waits for its slowest thread, so
    one thread can be faster than two, and which is better changes with time."""

    TRIAL = 2  # steps with each choice
    KEEP = 150  # steps before the next trial

    def __init__(self, most: int):
        self.choices = sorted({1, most})
        self.at = 0
        self.times = {n: 0.0 for n in self.choices}
        self.now = self.choices[0]

    def before_step(self) -> None:
        import torch

        trial = self.at // self.TRIAL
        if trial < len(self.choices):
            want = self.choices[trial]
        else:
            want = min(self.choices, key=self.times.__getitem__)
        if want != self.now or self.at == 0:
            torch.set_num_threads(want)
            self.now = want

    def after_step(self, seconds: float) -> None:
        if self.at < self.TRIAL * len(self.choices):
            self.times[self.now] += seconds
        self.at += 1
        if self.at >= self.KEEP:
            self.at = 0
            self.times = {n: 0.0 for n in self.choices}


def save_atomically(state: dict, path: Path) -> None:
    import torch

    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def stage_train(args) -> None:
    """The schedule follows the clock: the learning rate is a function of the time
    trained so far over `--minutes`, so it always comes to its end, however
    busy the machine is.  `--resume` goes on from the last checkpoint."""
    import torch

    threads = Threads(args.threads)
    work = Path(args.work)
    train_docs, valid_docs = encode_split(work, "train"), encode_split(work, "valid")
    model = new_model(args.experts, args.dropout)
    optimizer = Optimizer(model, args.lr, args.muon_lr, args.weight_decay)
    windows = Windows(train_docs, SEED)
    step, tokens, spent, best = 0, 0, 0.0, float("inf")
    last, best_path = work / "last.pt", work / "best.pt"
    if args.resume and last.exists():
        state = torch.load(last, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, tokens, spent, best = (state[k] for k in ("step", "tokens", "spent", "best"))
        windows = Windows(train_docs, SEED + step)
        print(f"resumed at step {step}, {spent / 60:.1f} min")
    total, active = count_parameters(model)
    corpus_tokens = sum(len(d) + 1 for d in train_docs)
    print(f"parameters {total}, active {active}; corpus {corpus_tokens} tokens", flush=True)

    budget = args.minutes * 60
    model.train()
    mark = time.monotonic()
    next_eval = spent + args.eval_seconds
    running = 0.0
    running_steps = 0
    while spent < budget:
        threads.before_step()
        scale = rate(spent / budget)
        # The last part sees longer windows: without it the loss rises past 256.
        if spent / budget < 1 - args.long_fraction:
            ids = windows.batch(args.batch, 256)
        else:
            rows = max(1, args.batch * 256 // args.long_window)
            ids = windows.batch(rows, args.long_window)
        ce, aux, router_logits = losses(model, ids)
        optimizer.zero_grad()
        (ce + model.config.router_aux_loss_coef * aux).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(scale)
        step += 1
        tokens += ids.numel()
        running += ce.item()
        running_steps += 1
        now = time.monotonic()
        threads.after_step(now - mark)
        spent += now - mark
        mark = now
        if spent >= next_eval or spent >= budget:
            next_eval = spent + args.eval_seconds
            v = valid_loss(model, valid_docs)
            now = time.monotonic()
            spent += now - mark
            mark = now
            shares = []
            for logits in router_logits:
                chosen = logits.topk(model.config.num_experts_per_tok, dim=-1).indices
                count = torch.bincount(chosen.reshape(-1), minlength=model.config.num_experts)
                shares.append((count / count.sum()).min().item())
            print(
                f"{spent / 60:5.1f} min  step {step}  tokens {tokens / 1e6:.2f}M "
                f"({tokens / corpus_tokens:.1f} epochs)  lr x{scale:.3f}  "
                f"train {running / running_steps:.4f}  valid {v:.4f}  aux {aux.item():.3f}  "
                f"least used expert {min(shares):.3f}  threads {threads.now}",
                flush=True,
            )
            running = 0.0
            running_steps = 0
            info = {"step": step, "tokens": tokens, "spent": spent, "valid": v}
            if v < best:
                best = v
                save_atomically({"model": model.state_dict(), **info}, best_path)
            save_atomically(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "best": best,
                    **info,
                },
                last,
            )
    print(f"done: {step} steps, {tokens} tokens, {spent / 60:.1f} min, best valid {best:.4f}")


def stage_bench(args) -> None:
    """Seconds per training step for each implementation of the experts."""
    import torch

    torch.set_num_threads(args.threads)
    windows = Windows(encode_split(Path(args.work), "train"), SEED)
    for experts in ("eager", "grouped_mm", "batched_mm"):
        try:
            model = new_model(experts, 0.0)
            optimizer = Optimizer(model, 1e-3, 1e-3, 0.1)
            times = []
            for _ in range(args.steps):
                ids = windows.batch(args.batch, 256)
                begin = time.monotonic()
                ce, aux, _ = losses(model, ids)
                (ce + 0.01 * aux).backward()
                optimizer.step(1.0)
                optimizer.zero_grad()
                times.append(time.monotonic() - begin)
            listed = " ".join(f"{t:.2f}" for t in times)
            print(f"{experts}: best {min(times):.3f} s of {listed}", flush=True)
        except Exception as error:  # a measurement: report and go on
            print(f"{experts}: {type(error).__name__}: {str(error)[:200]}", flush=True)


# --------------------------------------------------------------------------
# Stage 4: export
# --------------------------------------------------------------------------


def stage_export(args) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    work, out = Path(args.work), Path(args.out)
    name = args.checkpoint or "best.pt"
    state = torch.load(work / name, weights_only=True)
    model = new_model("eager", 0.0)
    model.load_state_dict(state["model"])
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        do_sample=False,
        repetition_penalty=1.2,
        max_new_tokens=128,
    )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        stage = Path(folder)
        model.save_pretrained(stage)
        shutil.copy(work / "tokenizer.json", stage / "tokenizer.json")
        (stage / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "add_bos_token": False,
                    "add_prefix_space": False,
                    "bos_token": EOS,
                    "clean_up_tokenization_spaces": False,
                    "eos_token": EOS,
                    "model_max_length": 1024,
                    "pad_token": EOS,
                    "tokenizer_class": "Qwen2Tokenizer",
                    "unk_token": None,
                },
                indent=2,
            )
            + "\n"
        )
        passages = [d["text"] for d in load_corpus(work)["heldout"]]
        (stage / "heldout.txt").write_text("\n\n".join(passages) + "\n", encoding="utf-8")
        for path in sorted(stage.iterdir()):
            path.chmod(0o644)
            os.replace(path, out / path.name)
    size = sum(p.stat().st_size for p in out.iterdir() if p.is_file())
    print(f"{name}: step {state['step']}, valid {state['valid']:.4f}; {out.name} is {size} bytes")


# --------------------------------------------------------------------------
# Stage 5: evaluation
# --------------------------------------------------------------------------


def mean_nll(folder: Path, dtype) -> tuple[float, int, int]:
    """(mean NLL per predicted token, windows, predicted tokens) over heldout.txt:
    consecutive windows of 256 tokens, each on its own and without a start token;
    255 tokens are predicted in each; the last, shorter window is dropped."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tok = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    ids = tok((folder / "heldout.txt").read_text(encoding="utf-8"), verbose=False)["input_ids"]
    total, windows, predicted = 0.0, 0, 0
    with torch.no_grad():
        for start in range(0, len(ids) - 255, 256):
            row = torch.tensor([ids[start : start + 256]])
            logits = model(input_ids=row, use_cache=False).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(
                logits, row[0, 1:], reduction="sum"
            ).item()
            windows += 1
            predicted += 255
    return total / predicted, windows, predicted


def stage_evaluate(args) -> None:
    import torch

    torch.set_num_threads(args.threads)
    folder = Path(args.out)
    f32, windows, predicted = mean_nll(folder, torch.float32)
    bf16, _, _ = mean_nll(folder, torch.bfloat16)
    result = {
        "windows": windows,
        "window_tokens": 256,
        "predicted_tokens": predicted,
        "nll_mean_f32": f32,
        "nll_mean_bf16": bf16,
        "perplexity_f32": math.exp(f32),
        "perplexity_bf16": math.exp(bf16),
    }
    (folder / "heldout.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def stage_sample(args) -> None:
    """Text with the folder's own generation settings (weights in f32)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    folder = Path(args.out)
    tok = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = args.prompt or [
        "The borrow checker",
        "# Ownership\n\nOwnership is",
        "A trait object",
        "Here is a function that adds two numbers:\n\n```rust\nfn",
    ]
    for prompt in prompts:
        torch.manual_seed(SEED)
        ids = torch.tensor([tok(prompt)["input_ids"]])
        extra = {}
        if args.temperature > 0:
            extra = {"do_sample": True, "temperature": args.temperature, "top_p": 0.9}
        if args.repetition_penalty:
            extra["repetition_penalty"] = args.repetition_penalty
        with torch.no_grad():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.tokens, **extra
            )
        print("-" * 72)
        print(tok.decode(out[0]))


# --------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", default="work", help="folder for intermediate files")
    parser.add_argument("--out", default=str(DEFAULT_OUT), help="the model folder")
    parser.add_argument("--threads", type=int, default=2, help="most torch threads")
    stages = parser.add_subparsers(dest="stage", required=True)

    p = stages.add_parser("corpus", help="HTML documentation to clean text")
    p.add_argument("--docs", help="folder with book/, reference/, ... (default: from rustc)")
    p.set_defaults(run=stage_corpus)

    p = stages.add_parser("tokenizer", help="train the byte-level BPE tokenizer")
    p.set_defaults(run=stage_tokenizer)

    p = stages.add_parser("train", help="train the model")
    p.add_argument("--minutes", type=float, default=70, help="wall-clock length of the schedule")
    p.add_argument("--batch", type=int, default=8, help="windows of 256 tokens per step")
    p.add_argument("--lr", type=float, default=3e-3, help="peak rate of AdamW")
    p.add_argument("--muon-lr", type=float, default=0.012, help="peak rate of Muon")
    p.add_argument("--weight-decay", type=float, default=0.1)
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--long-fraction", type=float, default=0.2, help="share of time on long windows")
    p.add_argument("--long-window", type=int, default=1024, help="tokens in a long window")
    p.add_argument("--experts", default="grouped_mm", help="eager, grouped_mm or batched_mm")
    p.add_argument("--eval-seconds", type=float, default=200)
    p.add_argument("--resume", action="store_true")
    p.set_defaults(run=stage_train)

    p = stages.add_parser("bench", help="time one step with each experts implementation")
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--batch", type=int, default=8)
    p.set_defaults(run=stage_bench)

    p = stages.add_parser("export", help="write the model folder in bf16")
    p.add_argument("--checkpoint", help="best.pt (default) or last.pt")
    p.set_defaults(run=stage_export)

    p = stages.add_parser("evaluate", help="held-out loss of the model folder")
    p.set_defaults(run=stage_evaluate)

    p = stages.add_parser("sample", help="print generated text")
    p.add_argument("--prompt", action="append")
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--temperature", type=float, default=0.0)
    p.add_argument("--repetition-penalty", type=float, default=0.0)
    p.set_defaults(run=stage_sample)

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
