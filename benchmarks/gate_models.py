"""`python -m benchmarks.gate_models`: real models before the gate, on real text: the same one under another name, and one with a damaged layer.

Two-layer models that have learned from some text, scored on documents drawn anew each time. The same weights in another file must
never be promoted, in 200 of 200 evaluations; a model of which one layer's weights are noised must be turned away for certain, in 20
of 20 seeds, though it comes a fifth smaller, so that being as good would do.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch

from benchmarks.gate_scores import add_noise
from benchmarks.report import claim, write
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.paired import Evaluated
from leanpipe.evaluation.perplexity import bits_per_byte, bits_per_byte_error, score_documents
from leanpipe.evaluation.verdict import Outcome, judge
from tests.support.tiny_models import tiny_llama, tiny_text, tiny_tokenizer

EVALUATIONS, SEEDS, DOCUMENTS = 200, 20, 30
NOISE = 20.0
"""Times the spread of the layer's weights: in so small and so little trained a model less does no harm."""


def main() -> None:
    texts = [text[:600] for text in tiny_text() if len(text) > 200]
    champion = taught(tiny_text()[:5])
    write("gate_models", [planted(champion, texts), identical(champion, texts)])


def identical(champion, texts: list[str]) -> dict:
    """How often the same weights under another name are promoted."""
    promoted = 0
    for number in range(EVALUATIONS):
        drawn = np.random.default_rng(number).choice(len(texts), DOCUMENTS, replace=False)
        ours, theirs = (scored(champion, [texts[one] for one in drawn], name) for name in ("new", "old"))
        promoted += judge(ours, theirs, RegisterConfig()).promote
    return claim(f"the same model promoted, of {EVALUATIONS}", promoted, 1, "", 0, at_most=True)


def planted(champion, texts: list[str]) -> dict:
    """How often a model with a damaged layer is turned away for certain, of seeds that also choose the layer and the documents."""
    caught = 0
    for seed in range(SEEDS):
        damaged = taught_copy(champion)
        layers = damaged.model.layers
        add_noise(layers[seed % len(layers)].named_parameters(), NOISE, seed)
        drawn = np.random.default_rng(seed).choice(len(texts), DOCUMENTS, replace=False)
        sample = [texts[one] for one in drawn]
        verdict = judge(
            scored(damaged, sample, "new", 80), scored(champion, sample, "old", 100), RegisterConfig()
        )
        print(f"   seed {seed}: {verdict.outcome}, {verdict.reason[:160]}", flush=True)
        caught += verdict.outcome is Outcome.KEEP
    return claim(f"a damaged layer caught, of {SEEDS}", caught, 1, "", SEEDS)


def taught(texts: list[str], steps: int = 40):
    """A tiny model that has learned from some text."""
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    tokens = tokenizer("".join(texts), return_tensors="pt").input_ids[0]
    blocks = tokens[: len(tokens) // 64 * 64].view(-1, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        batch = blocks[8 * step % len(blocks) :][:8]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def taught_copy(model):
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def scored(model, texts: list[str], name: str, megabytes: int = 100) -> Evaluated:
    """What `evaluate` finds of a model's quality; its size is as told."""
    scores = score_documents(model, tiny_tokenizer(), texts, 0, 256)
    summary = {
        "bits_per_byte": bits_per_byte(scores),
        "bits_per_byte_error": bits_per_byte_error(scores),
        "size_bytes": megabytes * 1_000_000,
        "held_out_digest": "text",
        "weights_digest": name,
    }
    return Evaluated(summary, {str(number): score for number, score in enumerate(scores)})


if __name__ == "__main__":
    main()
