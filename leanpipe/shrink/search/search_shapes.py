"""Stage `search_shapes`: which shape of one size is best, told after a short recovery and not before.

All shapes of the size are cut from one teacher by one measurement of what matters, and compared with what it says on one
sample. The most promising, of different depths, then learn for a short time from the teacher's cached predictions, and the
best of these wins: the order before is not the order after (Sreenivas et al. 2024, "LLM Pruning and Distillation in
Practice", arXiv 2408.11796).
"""

import json
import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.device import Kind
from leanpipe.core.estimate import Estimate, Expected, ExpectedInputs
from leanpipe.core.keys import NotInKey
from leanpipe.core.markdown import table
from leanpipe.core.report import Report, Silent
from leanpipe.core.stage import Page, Summary, stage
from leanpipe.core.store import REPORT
from leanpipe.models.load import load_for_inference, load_tokenizer, save_model
from leanpipe.models.student import write_shape
from leanpipe.shrink.budget import BudgetConfig, uncut_parts
from leanpipe.shrink.search.candidates import Candidate, enumerate_shapes, finalists
from leanpipe.shrink.search.search_cost import check_cost
from leanpipe.training.distill.distill import DistillConfig, DistillInputs, distill, estimate_distill

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from leanpipe.shrink.narrow import Cut

log = logging.getLogger(__name__)


class SearchConfig(BudgetConfig):
    """How large the shapes are, how many are tried, and how long the best of them learn."""

    depths: int = Field(5, ge=1, le=100)
    """How many numbers of layers are tried, from the fewest that use the size up to the teacher's; channels follow."""
    kv_groups: tuple[Annotated[int, Field(ge=1, le=100_000)], ...] = Field((), max_length=20)
    """Numbers of groups of attention heads that are tried beside all of them."""
    finalists: int = Field(3, ge=1, le=100)
    """How many of them learn before the best is chosen, each of another depth."""
    tokens: int = Field(4_096, ge=1, le=10**12)
    """Tokens that each of these learns from."""
    learning_rate: float = Field(8e-4, gt=0, le=1)
    """Their highest learning rate."""
    validation_tokens: int = Field(6_144, ge=1, le=10**9)
    """Tokens of held-out text that they are compared on."""
    calibration_tokens: int = Field(2_048, ge=1, le=10**9)
    """Tokens on which it is measured what is important, and how far each shape is from its teacher."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Seed of the order in which they read."""
    max_cost: Annotated[float, NotInKey("what is refused, not what is found")] = Field(2.0, gt=0, le=10**6)
    """The most that the search may take, in distillations of the default length of a student of this size. More is refused
    before any work."""

    @property
    def recovery(self) -> DistillConfig:
        """How a finalist learns."""
        return DistillConfig(
            tokens=self.tokens,
            learning_rate=self.learning_rate,
            batch=1,
            validation_tokens=self.validation_tokens,
            validations=2,
            seed=self.seed,
        )


@dataclass(frozen=True)
class SearchInputs:
    """The teacher's model folder, and the output folders of the tokenize and cache_teacher stages."""

    teacher: Path
    blocks: Path
    teacher_logprobs: Path


def check_search(config: SearchConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for a size that no shape has, or a teacher that cannot be cut. Reads its config only."""
    from leanpipe.models.count import empty_model, expected_config
    from leanpipe.shrink.cuttable import check_cuttable

    if not inputs["teacher"].path and "model" not in inputs["teacher"].facts:
        return
    teacher = expected_config(inputs["teacher"])
    check_cuttable(
        empty_model(teacher), ["layers", "mlp_channels"], "the search (set shrink.{part} yourself)"
    )
    cost = check_cost(config, teacher, _candidates(config, teacher))
    log.info("the search takes %.1f times what one distillation of the default length does", cost)


def _candidates(config: SearchConfig, teacher: "PretrainedConfig") -> list[Candidate]:
    return enumerate_shapes(teacher, config, config.depths, config.kv_groups)


def estimate_search(config: SearchConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `search_shapes` takes: the training of one finalist after the other."""
    from leanpipe.models.count import expected_config, with_layers
    from leanpipe.shrink.narrow import narrow_config

    teacher = expected_config(inputs["teacher"])
    shape = _candidates(config, teacher)[0].shape
    student = with_layers(narrow_config(teacher, shape.widths), list(range(shape.layers)))
    one = estimate_distill(config.recovery, {**inputs, "student": Expected(facts={"model": student})}, kind)
    repeated = tuple(replace(each, tokens=config.finalists * each.tokens) for each in one.repeated)
    return replace(one, work=config.finalists * one.work, repeated=repeated, result={})


@stage(
    version=3,
    uses_device=True,
    check=check_search,
    estimate=estimate_search,
    pages=(Page("shapes.md", "shapes", "Every shape that was tried, and the best"),),
)
def search_shapes(config: SearchConfig, inputs: SearchInputs, out: Path, report: Report) -> Summary:
    """Write the best shape of the size to `shape.yaml`, as settings, and all that were tried to `shapes.json`."""
    check_search(config, {"teacher": Expected(inputs.teacher)})
    from leanpipe.models.count import read_config

    candidates = _candidates(config, read_config(inputs.teacher))
    with tempfile.TemporaryDirectory(prefix="leanpipe-shapes-") as folder:
        chosen = _cut_all(config, inputs, candidates, Path(folder), report)
        device.release_memory()
        for number, one in enumerate(chosen):
            report.progress(number, len(chosen), "shapes recovered")
            one.bits_per_byte = _recovered(config, inputs, Path(folder), candidates.index(one))
    best = min(chosen, key=lambda one: one.bits_per_byte or math.inf)
    (out / "shapes.json").write_text(json.dumps([_plain(one) for one in candidates], indent=1))
    (out / "shape.yaml").write_text(as_settings(best))
    _write_report(out / REPORT, candidates, best)
    assert best.bits_per_byte is not None
    summary = {
        "bits_per_byte": best.bits_per_byte,
        "layers": best.shape.layers,
        **best.shape.widths._asdict(),
        "parameters": best.parameters,
        "shapes": len(candidates),
    }
    report.metrics({name: float(value) for name, value in summary.items()})
    return summary


def _cut_all(
    config: SearchConfig, inputs: SearchInputs, candidates: Sequence[Candidate], folder: Path, report: Report
) -> list[Candidate]:
    """Score every shape, and write those that are to be recovered to folders by their numbers."""
    from leanpipe.models.student import layer_list_name, most_important
    from leanpipe.shrink.importance import measure_importance
    from leanpipe.shrink.narrow import cut_model
    from leanpipe.shrink.search.candidates import Scorer, decode_seconds
    from leanpipe.shrink.teacher_blocks import calibration_blocks

    teacher = load_for_inference(inputs.teacher)
    name, tokenizer = layer_list_name(teacher), load_tokenizer(inputs.teacher)
    blocks = calibration_blocks(inputs.teacher, inputs.blocks, 2 * config.calibration_tokens)
    fitted, scored = blocks[::2], blocks[1::2] or blocks  # what a shape was fitted to would flatter it
    importance = measure_importance(teacher, list(teacher.get_submodule(name)), fitted, moments=True)
    scorer = Scorer(teacher, scored)

    def cut(one: Candidate) -> "tuple[list[int], Cut]":
        kept = most_important(importance.influence_L, one.shape.layers)
        return kept, cut_model(teacher, name, kept, one.shape.widths, importance)

    for number, one in enumerate(candidates):
        report.progress(number, len(candidates), "shapes cut")
        model = cut(one)[1].model.to(teacher.device, teacher.dtype).eval()
        one.kl, one.decode_seconds = scorer.kl(model), decode_seconds(model)
        log.info("%s: %.3f nats from the teacher", one.shape, one.kl)
    chosen = finalists(candidates, config.finalists)
    for one in chosen:
        place = folder / str(candidates.index(one))
        kept, made = cut(one)
        save_model(made.model, tokenizer, place, made_of=[inputs.teacher])
        write_shape(place, kept, made.hidden, uncut_parts(teacher.config, one.shape, kept))
    return chosen


def _recovered(config: SearchConfig, inputs: SearchInputs, folder: Path, number: int) -> float:
    """Bits per byte of a finalist once it has learned."""
    learned = DistillInputs(inputs.teacher, inputs.blocks, inputs.teacher_logprobs, folder / str(number))
    out = folder / f"{number}-learned"
    out.mkdir()
    return distill.function(config.recovery, learned, out, Silent())["bits_per_byte"]


def as_settings(one: Candidate) -> str:
    """Write the shape as YAML for `--config`."""
    lines = [f"  layers: {one.shape.layers}"]
    lines += [f"  {name}: {value}" for name, value in one.shape.widths._asdict().items() if value]
    return "shrink:\n" + "\n".join(lines) + "\n"


def _plain(one: Candidate) -> dict[str, object]:
    """All that another run would find too."""
    shape = {"layers": one.shape.layers, **one.shape.widths._asdict()}
    return {
        "shape": shape,
        "parameters": one.parameters,
        "kl": one.kl,
        "bits_per_byte": one.bits_per_byte,
    }


def _write_report(folder: Path, candidates: Sequence[Candidate], best: Candidate) -> None:
    from leanpipe.core.plots import KEPT, NEUTRAL, picture

    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        (
            f"**{one.shape}**" if one is best else str(one.shape),
            f"{one.parameters:,}",
            f"{1000 * one.decode_seconds:.1f}",
            f"{one.kl:.3f}",
            "" if one.bits_per_byte is None else f"{one.bits_per_byte:.4f}",
        )
        for one in sorted(candidates, key=lambda one: (one.bits_per_byte or math.inf, one.kl))
    ]
    header = ("shape", "parameters", "ms a token", "nats from the teacher, cut", "bits/byte, recovered")
    (folder / "shapes.md").write_text(
        f"{table(header, rows, 'lrrrr')}\nThe best, as settings:\n\n```yaml\n{as_settings(best)}```\n"
    )
    with picture(folder / "shapes.png") as axes:
        for one in candidates:
            color = KEPT if one in pareto(candidates) else NEUTRAL
            axes.plot(
                1000 * one.decode_seconds, one.kl, "o" if one.bits_per_byte is None else "D", color=color
            )
            label = f"{one.shape.layers} x {one.shape.widths.mlp_channels}"
            if one.bits_per_byte is not None:
                label += f": {one.bits_per_byte:.3f} bits"
            axes.annotate(f" {label}", (1000 * one.decode_seconds, one.kl), fontsize=7)
        axes.set(
            xlabel="ms a token (decoding)",
            ylabel="nats from the teacher, before learning",
            title="Shapes of one size: diamonds were recovered, green ones are beaten in both by none",
        )


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the shapes that no other beats both in speed and in nearness to the teacher."""
    return [
        one
        for one in candidates
        if not any(
            other.kl <= one.kl and other.decode_seconds <= one.decode_seconds and other is not one
            for other in candidates
        )
    ]
