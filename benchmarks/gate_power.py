"""`python -m benchmarks.gate_power HOME ...`: how small a difference the gate finds, by how many documents and how much of each.

Every model that the default runs in the HOMEs trained (students, adapted ones, and those trained on 4 bits) is scored once on
the beginnings of documents of the first HOME's corpus, of which LEANPIPE_BENCH_DOCUMENTS (140) are drawn, those that were held
out first; a beginning's score is the sum over its first tokens. Pairs of models are centred, so that neither is better,
documents are drawn anew, and the smallest difference is told that would be promoted nine times in ten at the first look of a year.
That some documents were learned from does little harm: what is wanted is how the differences scatter. Before that the noise floor is
told: how much the first model differs from itself if eight texts are scored at once, and every two models from each other, which are
of one recipe and other seeds if the HOMEs' runs are (`python -m benchmarks.student curve 25_000 --seeds 3`).
"""

import itertools
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pandas

from benchmarks.gate import LEVELS, looks, most
from benchmarks.report import write
from leanpipe.core.store import Store
from leanpipe.evaluation.gate import RegisterConfig

DOCUMENTS = int(os.environ.get("LEANPIPE_BENCH_DOCUMENTS", "140"))
LENGTHS, COUNTS = (300, 500, 700, 1_000), (12, 30, 61, 100)
STAGES = ("distill", "finetune", "quantization_aware")
LOOKS = 800

Scored = list[tuple[np.ndarray, np.ndarray]]
"""Of each document the nats of each token, and how many bytes end with it."""


def main(homes: list[Path]) -> None:
    texts = beginnings(homes[0])
    folders = [folder for home in homes for folder in models(home)]
    scores = [score(folder, texts) for folder in folders]
    rows = [noise("the same model, eight texts at once", scores[0], score(folders[0], texts, batch=8))]
    rows += [
        noise(f"models {a} and {b}", scores[a], scores[b])
        for a, b in itertools.combinations(range(len(scores)), 2)
    ]
    for length, count in itertools.product(LENGTHS, COUNTS):
        found = smallest_difference(scores, length, count)
        print(f"{count} documents of at most {length} bytes: {found:.2%}", flush=True)
        rows.append({"name": f"{count} documents, {length} bytes", "smallest_difference": found})
    write("gate_power", rows)


def beginnings(home: Path) -> list[str]:
    """The first of every document, the held-out ones first."""
    folder = newest(home, "clean")
    parts = [
        [pandas.read_parquet(path) for path in sorted((folder / split).iterdir())]
        for split in ("test", "validation", "train")
    ]
    whole = pandas.concat([pandas.concat(part).sample(frac=1, random_state=1) for part in parts])
    return [text[: max(LENGTHS)] for text in whole.text[:DOCUMENTS]]


def newest(home: Path, stage: str) -> Path:
    found = [path for path, _ in Store(home / "store").manifests(stage)]
    return max(found, key=lambda path: path.stat().st_mtime)


def models(home: Path) -> list[Path]:
    """The folders of the models that a home's run trained."""
    made = [path for stage in STAGES for path, _ in Store(home / "store").manifests(stage)]
    return [next(file.parent for file in sorted(path.rglob("config.json"))) for path in made]


def score(folder: Path, texts: list[str], batch: int = 1) -> Scored:
    """Score each text by itself, or so many at once, which changes no more than the arithmetic's rounding."""
    import torch

    from leanpipe.models.load import document_start, load_for_inference, load_tokenizer
    from leanpipe.tokens.text_tokens import encode_text

    model, tokenizer = load_for_inference(folder), load_tokenizer(folder)
    start, scored = document_start(tokenizer), []
    tokens = [encode_text(tokenizer, text)[: max(LENGTHS) // 3] for text in texts]
    with torch.inference_mode():
        for first in range(0, len(texts), batch):
            some = tokens[first : first + batch]
            longest = max(map(len, some))
            # What stands behind a text is not seen by it.
            padded = torch.tensor([[start, *one, *[start] * (longest - len(one))] for one in some])
            logits = model(input_ids=padded[:, :-1], use_cache=False).logits.float()
            nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), padded[:, 1:], reduction="none")
            for one, row in zip(some, nats, strict=True):
                letters = tokenizer.convert_ids_to_tokens(one)  # byte-level: a letter a byte
                scored.append((row[: len(one)].numpy(), np.cumsum([len(token) for token in letters])))
    print(f"{folder}: {sum(len(nats) for nats, _ in scored)} tokens", flush=True)
    return scored


def beginning(scored: Scored, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits and bytes of the tokens of each document that end within so many bytes, of the first one at least."""
    counts = [max(1, int(np.searchsorted(ends, length, side="right"))) for _, ends in scored]
    bits = [nats[:count].sum() / np.log(2) for (nats, _), count in zip(scored, counts, strict=True)]
    bytes_ = [ends[count - 1] for (_, ends), count in zip(scored, counts, strict=True)]
    return np.array(bits), np.array(bytes_, float)


def noise(called: str, ours: Scored, theirs: Scored, length: int = 500) -> dict:
    """How much two models differ, and by how much that scatters from document to document: as shares of the bits."""
    (ours_bits, size), (theirs_bits, _) = beginning(ours, length), beginning(theirs, length)
    whole = theirs_bits.sum() / size.sum()
    difference, error = looks(ours_bits - theirs_bits, size)
    scatter = error / whole * np.sqrt(len(size))
    print(f"{called}: {difference / whole:+.3%}, from document to document {scatter:.3%}", flush=True)
    return {"name": called, "difference": float(difference / whole), "scatter": float(scatter)}


def smallest_difference(scores: list[Scored], length: int, count: int) -> float:
    """As a share of the champion's bits per byte."""
    random, bounds = np.random.default_rng(0), []
    parts = [beginning(one, length) for one in scores]
    for (ours, our_bytes), (theirs, their_bytes) in itertools.permutations(parts, 2):
        size = (our_bytes + their_bytes) / 2
        more = ours - theirs
        more -= more.sum() / size.sum() * size
        drawn = random.integers(0, len(more), (LOOKS, count))
        bounds.append(most(more[drawn], size[drawn], LEVELS[0]) / (theirs.sum() / size.sum()))
    return float(np.quantile(np.concatenate(bounds), 0.9)) + RegisterConfig().min_improvement


if __name__ == "__main__":
    main([Path(home) for home in sys.argv[1:] or [".leanpipe"]])
