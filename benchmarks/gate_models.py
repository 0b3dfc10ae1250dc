"""`python -m benchmarks.gate_models [PART ...]`: real models before gate and waterfall, on real text; PART is identical, planted or named.

Two-layer models that have learned from some text, scored on documents drawn anew each time.

- identical: the same weights under another name must never be promoted, in 200 of 200 evaluations.
- planted: a model of which one layer's weights are noised must be turned away for certain, in 20 of 20 seeds, though it comes a
  fifth smaller, so that being as good would do.
- named: in a chain teacher, student, adapted, q8_0 one layer of the adapted or of the q8_0 model is noised, less and less: how
  little is still named at its stage in 20 of 20 seeds, by the run's own waterfall, and by the comparison with an earlier run.
"""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch

from benchmarks.gate_scores import add_noise
from benchmarks.report import claim, write
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.paired import Evaluated
from leanpipe.evaluation.perplexity import bits_per_byte, bits_per_byte_error, score_documents
from leanpipe.evaluation.report.run_difference import named_step
from leanpipe.evaluation.report.stored_scores import ModelScores
from leanpipe.evaluation.report.waterfall import changed_steps, largest_loss, waterfall
from leanpipe.evaluation.verdict import Outcome, judge
from tests.support.tiny_models import tiny_llama, tiny_text, tiny_tokenizer

EVALUATIONS, SEEDS, DOCUMENTS = 200, 20, 30
NOISE = 20.0
"""Times the spread of the layer's weights: in so small and so little trained a model less does no harm."""


NOISES = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125)
"""Times the spread of each tensor of the layer: `named` tries one after the other until one is not always named."""
STAGE_OF = {"adapted": "finetune", "q8_0": "quantize"}


def main(parts: list[str]) -> None:
    texts = [text[:600] for text in tiny_text() if len(text) > 200]
    champion = taught(tiny_text()[:5])
    rows = []
    if "planted" in parts:
        rows.append(planted(champion, texts))
    if "identical" in parts:
        rows.append(identical(champion, texts))
    if "named" in parts:
        # What has learned little loses little: this one has seen each text several times.
        rows += named(taught(tiny_text()[:60], steps=400), texts)
    write("gate_models", rows)


def identical(champion, texts: list[str], evaluations: int = EVALUATIONS) -> dict:
    """How often the same weights under another name are promoted."""
    promoted = 0
    for number in range(evaluations):
        drawn = np.random.default_rng(number).choice(len(texts), DOCUMENTS, replace=False)
        ours, theirs = (scored(champion, [texts[one] for one in drawn], name) for name in ("new", "old"))
        promoted += judge(ours, theirs, RegisterConfig()).promote
    return claim(f"the same model promoted, of {evaluations}", promoted, 1, "", 0, at_most=True)


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


def named(teacher, texts: list[str]) -> list[dict]:
    """The smallest noise in one layer that is named at its stage in every seed, by stage and by what it is compared with."""
    chains = [Chain(teacher, texts, seed) for seed in range(SEEDS)]
    earlier = [Chain(teacher, texts, seed, again=True).scores for seed in range(SEEDS)]
    rows = []
    for label, stage in STAGE_OF.items():
        found = dict.fromkeys(("the waterfall", "an earlier run"), float("inf"))
        for noise in NOISES:
            times = dict.fromkeys(found, 0)
            for chain, healthy in zip(chains, earlier, strict=True):
                broken = chain.planted(label, noise)
                worst = largest_loss(waterfall(broken)), named_step(changed_steps(broken, healthy))
                for by, step in zip(times, worst, strict=True):
                    times[by] += step is not None and (step.stage, step.after) == (stage, label)
            print(f"   {label}, noise {noise:g}: named {times} of {SEEDS}", flush=True)
            found |= {by: noise for by in found if times[by] == SEEDS}
            if not any(count == SEEDS for count in times.values()):
                break
        rows += [
            claim(f"smallest noise named, {label}, {by}", least, 1, "spreads", 4.0, at_most=True)
            for by, least in found.items()
        ]
    return rows


class Chain:
    """A run's models, each a little changed from the one before, scored on documents drawn by the seed; `again` is another
    run on the same documents."""

    def __init__(self, teacher, texts: list[str], seed: int, again: bool = False):
        drawn = np.random.default_rng(seed).choice(len(texts), DOCUMENTS, replace=False)
        self.seed, self.sample = seed, [texts[one] for one in drawn]
        self.models = {"teacher": teacher}
        for number, label in enumerate(("student", "adapted"), 1 + 10 * again):
            self.models[label] = taught_copy(list(self.models.values())[-1])
            add_noise(self.models[label].named_parameters(), 0.02, 100 * seed + number)
        self.models["q8_0"] = rounded(self.models["adapted"])
        self.scores = {label: model_scores(model, self.sample) for label, model in self.models.items()}

    def planted(self, label: str, noise: float) -> dict[str, ModelScores]:
        """The run's scores if one layer of a model had been noised as it was made, and what came of that."""
        broken = taught_copy(self.models[label])
        layers = broken.model.layers
        add_noise(layers[self.seed % len(layers)].named_parameters(), noise, self.seed)
        made = {label: broken} | ({"q8_0": rounded(broken)} if label == "adapted" else {})
        return self.scores | {name: model_scores(model, self.sample) for name, model in made.items()}


def rounded(model):
    """A copy whose matrices have 255 values for each row."""
    copy = taught_copy(model)
    round_to_bytes(copy)
    return copy


def round_to_bytes(model) -> None:
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                scale = weights.abs().amax(1, keepdim=True) / 127
                weights.copy_((weights / scale).round() * scale)


def model_scores(model, texts: list[str]) -> ModelScores:
    found = scored(model, texts, "")
    return ModelScores(found.summary, {"bits_per_byte": found.scores}, {"context": 256, "stride": 256})


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
    main(sys.argv[1:] or ["planted", "identical", "named"])
