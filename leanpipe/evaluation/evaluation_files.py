"""What an evaluation leaves behind: every figure as JSON, and pictures and answers for people."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leanpipe.core import markdown
from leanpipe.core.plots import NEUTRAL, picture
from leanpipe.core.stage import Summary
from leanpipe.core.store import REPORT
from leanpipe.evaluation.efficiency import Speed
from leanpipe.evaluation.generate import Generation
from leanpipe.evaluation.held_out import Passage
from leanpipe.evaluation.perplexity import Score, bits_per_byte, bits_per_byte_error
from leanpipe.evaluation.usage.generation_rates import Rate, by_sampling, generation_rates

_MOST_ROWS = 30
"""Collections that are shown to people; the others are in the JSON."""


def write_evaluation(
    out: Path,
    summary: Summary,
    passages: Sequence[Passage],
    scores: Sequence[Score],
    answers: Mapping[str, Score],
    speed: Speed,
    generations: Sequence[Generation],
    windows: Mapping[str, int],
) -> None:
    """Write `evaluation.json`, `generations.jsonl`, and a report."""
    by_collection = collections(passages, scores)
    everything = {
        "summary": summary,
        **score_records(passages, scores, answers, windows),
        "collections": by_collection,
        "speed": dataclasses.asdict(speed),
        "generations": {
            sampling: {figure: _finite(rate) for figure, rate in generation_rates(some).items()}
            for sampling, some in by_sampling(generations).items()
        },
    }
    (out / "evaluation.json").write_text(json.dumps(everything, indent=2))
    lines = [json.dumps(dataclasses.asdict(one), ensure_ascii=False) for one in generations]
    (out / "generations.jsonl").write_text("\n".join(lines) + "\n")
    folder = out / REPORT
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "generations.md").write_text(generations_markdown(generations))
    (folder / "collections.md").write_text(collections_markdown(by_collection))
    _plot_documents(scores, folder / "bits_per_byte.png")


def score_records(
    passages: Sequence[Passage],
    scores: Sequence[Score],
    answers: Mapping[str, Score],
    windows: Mapping[str, int],
) -> dict[str, Any]:
    """The score of each document and of each answer, and what the windows were, as `evaluation.json` has them."""
    documents = [
        {
            "id": passage.id,
            "digest": passage.digest,
            "collection": passage.collection,
            **_figures(score),
        }
        for passage, score in zip(passages, scores, strict=True)
    ]
    said = [{"id": id, **_figures(score)} for id, score in answers.items()]
    return {"windows": windows, "documents": documents, "answers": said}


def collections(passages: Sequence[Passage], scores: Sequence[Score]) -> dict[str, Summary]:
    """The figures of each collection of the corpus, the one with the most text first."""
    grouped: dict[str, list[Score]] = {}
    for passage, score in zip(passages, scores, strict=True):
        grouped.setdefault(passage.collection, []).append(score)
    largest = sorted(grouped.items(), key=lambda group: -sum(score.bytes for score in group[1]))
    return {
        name: {
            "bits_per_byte": bits_per_byte(some),
            "bits_per_byte_error": bits_per_byte_error(some) if len(some) > 1 else None,
            "documents": len(some),
            "bytes": sum(score.bytes for score in some),
        }
        for name, some in largest
    }


def collections_markdown(found: Mapping[str, Summary]) -> str:
    """Collections as a table."""
    rows = [
        (
            markdown.plain(name),
            f"{one['bits_per_byte']:.3f}",
            "–" if one["bits_per_byte_error"] is None else f"{one['bits_per_byte_error']:.3f}",
            f"{one['documents']:,}",
            f"{one['bytes']:,}",
        )
        for name, one in list(found.items())[:_MOST_ROWS]
    ]
    return markdown.table(("collection", "bits/byte", "± error", "documents", "bytes"), rows, "lrrrr")


def generations_markdown(generations: Sequence[Generation]) -> str:
    """Prompts as headings, answers as quotations."""
    answers = (one.text.strip().replace("\n", "\n> ") or "*(nothing)*" for one in generations)
    return "\n".join(
        f"### {one.prompt}\n\n> {answer}\n\n{one.sampling}: {one.tokens} tokens, {'ended' if one.stopped else 'cut'}\n"
        for one, answer in zip(generations, answers, strict=True)
    )


def _figures(score: Score) -> dict[str, float]:
    return {"bits_per_byte": score.bits_per_byte, **dataclasses.asdict(score)}


def _finite(rate: Rate) -> list[float | None]:
    """The figure and its interval, of which nothing is known after a single answer."""
    return [value if math.isfinite(value) else None for value in rate]


def _plot_documents(scores: Sequence[Score], path: Path) -> None:
    total = bits_per_byte(scores)
    with picture(path, width=6, height=3.5) as axes:
        axes.bar(range(1, len(scores) + 1), sorted(score.bits_per_byte for score in scores), color=NEUTRAL)
        axes.axhline(total, color="black", linestyle="--", label=f"all: {total:.3f}")
        axes.set(xlabel="documents, easiest first", ylabel="bits per byte")
        axes.set_title("Bits per byte of each held-out document")
        axes.legend()
