"""`python -m benchmarks.student PART`: what the default run's student is worth, and what more text would make of it.

curve TOKENS... [--seeds N | --seed N ...] [--set distill.batch=2 ...]
    Bits per byte of the test text after so many tokens of distillation, from one cache; a line for each budget and seed is
    kept in results/student_curve.json, with every document's, so that parts may be run on different days: `curve 400_000
    --seed 1` is one of them. A part that is killed goes on from its last checkpoint when it is run again. The goals in docs/training.md
    are on the first 4,000 bytes of twelve documents: `--set clean.split.min_test_documents=0 --set evaluate.document_bytes=4_000
    --set evaluate.text_bytes=20_000`.
fit
    Sets what was kept beside a power law, L(T) = a + b T^-c, and says what 10 and 100 million tokens would give. Budgets are
    compared with the first one document by document (95 % intervals of the mean difference).
questions HOME_OR_MODEL... [--out FOLDER] [--only student q4_0 ...]
    Ten simple questions to the models of homes, or to model folders, greedily, by the engine that serves each. Writes sheet.csv,
    all answers under numbers that tell nothing, and key.json, whose they are; counts accepted strings without looking at names.
judged FOLDER
    Counts the yes and no that a person wrote into that sheet.
answers [--seeds N]
    Adapters on the student of the default run, with the teacher's predictions of the answers counting 0 and more: loss of
    held-out answers and bits of general text.

The material is the default run's, made by its own stages in LEANPIPE_HOME (by default a folder beside this file).
"""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import questions
from benchmarks.report import FOLDER
from leanpipe.assets.resolve import resolve_corpus, resolve_instructions, resolve_model
from leanpipe.core.files import exclusive, write_text
from leanpipe.core.home import Home
from leanpipe.core.report import Silent
from leanpipe.core.stage import Inputs, Stage
from leanpipe.core.store import Artifact, Store
from leanpipe.planning.steps import RunInputs, present
from leanpipe.processes.run_stage import run_stage
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.overrides import merged, nested, parse_override, validated

if TYPE_CHECKING:
    from flows.distill import Distilled
    from leanpipe.evaluation.evaluate import EvaluateConfig

os.environ["HF_HUB_OFFLINE"] = "1"
HOME = Path(os.environ.get("LEANPIPE_HOME", Path(__file__).parent / ".student"))

CURVE = FOLDER / "student_curve.json"


def settings(overrides: Sequence[str] = ()) -> PipelineConfig:
    """The default run's, with what is set otherwise."""
    values = PipelineConfig().model_dump(mode="json")
    for text in overrides:
        values = merged(values, nested(*parse_override(text)))
    return validated(PipelineConfig, values)


class Material:
    """The default run's stages, computed here, without servers; what is in the store is not computed again."""

    def __init__(self, config: PipelineConfig):
        self.config, self._home = config, Home(HOME)

    def stage(self, stage: Stage, config: Any, *, label: str | None = None, **inputs: Any) -> Artifact:
        """Run a stage as flows do."""
        return self._run(stage, config, present(inputs))

    def _run(self, stage: Stage, config: Any, inputs: Inputs) -> Artifact:
        store = Store(self._home.store)
        return run_stage(stage, config, stage.with_earlier_results(store, config, inputs), store, Silent())

    def student(self) -> "Distilled":
        """What the flow `distill` makes: the student, and what it was made of."""
        from flows.distill import stages

        config = self.config
        self.given = RunInputs(
            corpus=resolve_corpus(config.corpus, self._home),
            models=(resolve_model(config.teacher, self._home, self._run),),
            instructions=resolve_instructions(config.instructions, self._home),
        )
        return stages(self, config, self.given)


def curve(tokens: Sequence[int], seeds: Sequence[int], overrides: Sequence[str]) -> None:
    """Distil for each budget and seed, and keep the bits of every test document."""
    for budget in tokens:
        for seed in seeds:
            more = [*overrides, f"distill.tokens={budget}", f"distill.seed={seed}"]
            material = Material(settings(more))
            made = material.student()
            nats, sizes = scores(made.student.path, made.documents.path, material.config.evaluate)
            row = {"tokens": budget, "seed": seed, "settings": list(overrides), "nats": nats, "bytes": sizes}
            summary = made.student.summary
            told = ("parameters", "learning_rate", "batch_tokens")
            row |= {
                "bits_per_byte": sum(nats) / math.log(2) / sum(sizes),
                **{name: summary.get(name) for name in told},
            }
            keep(row)
            print(
                f"{budget:>9,} tokens, seed {seed}, {overrides}: {row['bits_per_byte']:.4f} bits/byte",
                flush=True,
            )


def keep(row: Mapping[str, Any]) -> None:
    """Add a line to the curve, in the place of one of the same budget, seed and settings; parts may run at the same time."""
    FOLDER.mkdir(exist_ok=True)
    with exclusive(CURVE.with_suffix(".lock")):
        kept = [one for one in read() if _key(one) != _key(row)]
        write_text(CURVE, json.dumps([*kept, row]))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["tokens"], row["seed"], *row["settings"]


def read() -> list[dict[str, Any]]:
    """What was kept of earlier parts."""
    return json.loads(CURVE.read_text()) if CURVE.exists() else []


def scores(model: Path, documents: Path, config: "EvaluateConfig") -> tuple[list[float], list[int]]:
    """Nats and bytes of the test documents, as stage `evaluate` takes them."""
    from leanpipe.evaluation.held_out import held_out
    from leanpipe.evaluation.perplexity import score_documents
    from leanpipe.models.load import document_start, load_for_inference, load_tokenizer

    texts = [one.text for one in held_out(documents, config.text_bytes, config.document_bytes)]
    tokenizer = load_tokenizer(model)
    found = score_documents(
        load_for_inference(model), tokenizer, texts, document_start(tokenizer), config.context, config.step
    )
    return [one.nats for one in found], [one.bytes for one in found]


def fit(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """The a, b, c of a + b T^-c that the mean bits of each budget are nearest to: c by trial, a and b by least squares."""
    budgets = sorted({row["tokens"] for row in rows})
    bits = np.array(
        [np.mean([row["bits_per_byte"] for row in rows if row["tokens"] == one]) for one in budgets]
    )
    best = (math.inf, 0.0, 0.0, 0.0)
    for exponent in np.linspace(0.02, 1, 197):
        columns = np.stack([np.ones(len(budgets)), np.array(budgets, float) ** -exponent], axis=1)
        (floor, slope), *_ = np.linalg.lstsq(columns, bits, rcond=None)
        error = float(((columns @ [floor, slope] - bits) ** 2).sum())
        if floor >= 0 and error < best[0]:
            best = (error, float(floor), float(slope), float(exponent))
    return best[1:]


def tell() -> None:
    """Print the curve, the differences from its first budget, and what the fit says of larger ones."""
    rows = [row for row in read() if not row["settings"]]
    budgets = sorted({row["tokens"] for row in rows})
    first = [row for row in rows if row["tokens"] == budgets[0]]
    for budget in budgets:
        ours = [row for row in rows if row["tokens"] == budget]
        mean = np.mean([row["bits_per_byte"] for row in ours])
        low, high = interval(ours, first)
        print(
            f"{budget:>11,}: {mean:.4f} bits/byte ({len(ours)} seeds), from the first {low:+.4f} to {high:+.4f}"
        )
    if len(budgets) < 3:
        print("a fit needs three budgets at least")
        return
    floor, slope, exponent = fit(rows)
    print(f"fit: {floor:.3f} + {slope:.3g} T^-{exponent:.3f}")
    for budget in (10_000_000, 100_000_000):
        print(f"{budget:>11,}: {floor + slope * budget**-exponent:.3f} by the fit, which no run has shown")


def interval(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """A 95 % interval of the difference in bits per byte, by bootstrap over documents, the same for both."""

    def nats(rows: Sequence[Mapping[str, Any]]) -> Any:
        return np.mean([row["nats"] for row in rows], axis=0)

    apart, sizes = nats(ours) - nats(theirs), np.array(ours[0]["bytes"])
    chosen = np.random.default_rng(0).integers(len(sizes), size=(2_000, len(sizes)))
    found = apart[chosen].sum(1) / sizes[chosen].sum(1) / math.log(2)
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def adapters(seeds: int, weights: Sequence[float] = (0.0, 0.5, 0.9)) -> None:
    """Finetune the default run's student with the teacher's predictions counting more and less."""
    from leanpipe.training.finetune.finetune import FinetuneInputs, finetune

    material = Material(settings())
    made = material.student()
    for seed in range(seeds):
        for weight in weights:
            config = material.config.finetune.model_copy(update={"kl_weight": weight, "seed": seed})
            inputs = FinetuneInputs(
                made.student.path,
                material.given.instructions.path,
                made.documents.path,
                made.teacher.path if weight else None,
            )
            with tempfile.TemporaryDirectory() as folder:
                found = finetune.function(config, inputs, Path(folder), Silent())
                nats, sizes = scores(Path(folder), made.documents.path, material.config.evaluate)
            print(
                f"kl_weight {weight}, seed {seed}: answers {found['initial_validation_loss']:.4f} -> "
                f"{found['validation_loss']:.4f} nats, general {found['general_bits_per_byte_before']:.4f} -> "
                f"{found['general_bits_per_byte']:.4f}, test text {sum(nats) / math.log(2) / sum(sizes):.4f} bits/byte",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("curve", "fit", "questions", "judged", "answers"))
    parser.add_argument("of", nargs="*")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=FOLDER / "questions")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    if given.part == "curve":
        seeds = given.seed or range(given.seeds)
        curve([int(one.replace("_", "")) for one in given.of], seeds, given.set)
    elif given.part == "questions":
        questions.ask([Path(one) for one in given.of], given.out, given.only)
    elif given.part == "judged":
        questions.judged(Path(given.of[0]))
    elif given.part == "answers":
        adapters(given.seeds)
    else:
        tell()


if __name__ == "__main__":
    main()
