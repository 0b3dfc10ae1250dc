"""A run on one page: the verdict first, then what each stage did, the figures, answers side by side, and where all comes from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leanpipe.core import markdown
from leanpipe.core.stage import Summary
from leanpipe.evaluation.compare import comparison, draw_size_against_quality, to_markdown
from leanpipe.evaluation.generate import Generation
from leanpipe.evaluation.report.one_file import html_page
from leanpipe.evaluation.report.speed_table import speed_markdown
from leanpipe.evaluation.report.stored_scores import ModelScores
from leanpipe.evaluation.report.waterfall import (
    WEIGHTS,
    draw_waterfall,
    links,
    served_by,
    waterfall,
    waterfall_markdown,
)
from leanpipe.evaluation.task_scores.task_results import TASKS_MEASURED, differences, side_by_side
from leanpipe.evaluation.usage.generation_rates import rates_markdown

NAME = "report"
"""Of the files, without their ending."""
WATERFALL, SIZES = "waterfall.png", "size_against_quality.png"
_LONGEST_ANSWER = 400  # characters
_MOST_COLLECTIONS = 12
_HOW_COUNTED = (
    "Counted over these answers, in brackets what other prompts like these would show (95%): repeated are phrases of four "
    "words that stood before in the same answer, different are words, pairs and triples of all answers, ended are answers "
    "that were not cut at the limit, refused those that say in English that they will not answer."
)
_EFFICIENCY = (
    "parameters, M",
    "size, MB",
    "decode tok/s",
    "prefill tok/s",
    "first token, s",
    "peak memory, MB",
)


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run at its end."""

    title: str
    verdict: str
    """What was decided and why, in Markdown; empty if nothing was to be decided."""
    models: Mapping[str, ModelScores]
    collections: Mapping[str, Mapping[str, Summary]] = field(default_factory=dict)
    """By model, the figures of each collection of the corpus."""
    generations: Mapping[str, Sequence[Generation]] = field(default_factory=dict)
    parity: Mapping[str, Summary] = field(default_factory=dict)
    """What was found of each served form that was compared with the trained model."""
    stages: str = ""
    """The stages with their seconds and figures, as a table."""
    lineage: Sequence[tuple[str, str, str]] = ()
    """Of each stage its label, its key, and what it read."""
    data_card: str = ""
    link: str = ""
    """Where the run is shown."""


def write_run_report(facts: RunFacts, folder: Path) -> list[Path]:
    """Write the report as Markdown and as one HTML file, with its pictures, into `folder`, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(facts, folder)
    text = report_markdown(facts, pictures)
    files = {folder / f"{NAME}.md": text, folder / f"{NAME}.html": html_page(facts.title, text, pictures)}
    for path, content in files.items():
        path.write_text(content)
    return [*files, *pictures.values()]


def report_markdown(facts: RunFacts, pictures: Mapping[str, Path] = {}) -> str:
    """The whole report in Markdown; pictures are shown where they are named."""
    parts = [f"# {facts.title}\n"]
    if facts.verdict:
        parts.append("> " + "\n> ".join(facts.verdict.strip().splitlines()) + "\n")
    if facts.link:
        parts.append(f"[This run in MLflow]({facts.link})\n")
    for heading, content in _sections(facts, pictures):
        if content.strip():
            parts.append(f"## {heading}\n\n{content.strip()}\n")
    return "\n".join(parts)


def _pictures(facts: RunFacts, folder: Path) -> dict[str, Path]:
    pictures = {}
    if steps := waterfall(facts.models):
        draw_waterfall(steps, folder / WATERFALL)
        pictures[WATERFALL] = folder / WATERFALL
    if facts.models:
        rows = _evaluated(facts)
        draw_size_against_quality(rows, folder / SIZES)
        pictures[SIZES] = folder / SIZES
    return pictures


def _evaluated(facts: RunFacts) -> dict[str, Summary]:
    """The figures of each model, but of weights that were only scored."""
    return {label: one.summary for label, one in facts.models.items() if not label.endswith(WEIGHTS)}


def _sections(facts: RunFacts, pictures: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    steps = waterfall(facts.models)
    if steps:
        drawn = _picture(pictures, WATERFALL, "What each stage did to the bits per byte")
        served = "".join(f"- {line}\n" for line in served_by(facts.models))
        yield "What each stage did", f"{drawn}{waterfall_markdown(steps)}\n{served}{_served(facts.parity)}"
    rows = _evaluated(facts)
    if rows:
        table = comparison(rows)
        quality = table.drop(columns=[name for name in _EFFICIENCY if name in table])
        drawn = _picture(pictures, SIZES, "Every model by its size and its bits per byte")
        yield "Quality", _how_measured(rows) + to_markdown(quality) + "\n" + drawn
        yield "Quality by collection", _by_collection(facts.collections)
        sizes = to_markdown(table[[name for name in _EFFICIENCY if name in table]])
        yield "Size and speed", f"{sizes}\n{speed_markdown(rows)}"
    yield "Tasks", _tasks(facts.models)
    yield "Answers side by side", answers_side_by_side(facts.generations)
    yield "Stages", facts.stages
    yield "Where it comes from", _lineage(facts.lineage)
    yield "Data card", _data_card(facts.data_card)


def _tasks(models: Mapping[str, ModelScores]) -> str:
    """What each model scored, and how certainly each differs from the one that it was made of."""
    scored = {label: one.tasks for label, one in models.items() if one.tasks}
    if not scored:
        return ""
    rows = [
        (
            f"{before} → {after}",
            f"{task}: {metric}",
            f"{one.estimate:+.3g}",
            f"{one.low:+.3g} to {one.high:+.3g}",
            one.verdict,
            f"{one.items:,}",
        )
        for _, before, after in links(list(scored))
        for (task, metric), one in differences(scored[after], scored[before]).items()
    ]
    header = ("step", "task", "difference", "95% interval", "", "items")
    steps = markdown.table(header, rows, "llrrlr") if rows else ""
    told = f"{TASKS_MEASURED} It stands below for each step." if steps else TASKS_MEASURED
    return f"{told}\n\n{side_by_side(scored)}\n{steps}"


def answers_side_by_side(generations: Mapping[str, Sequence[Generation]]) -> str:
    """A table for each prompt, with one row for each model's answers, and what was counted over the answers of each."""
    prompts: dict[str, list[tuple[str, Generation]]] = {}
    for label, some in generations.items():
        for one in some:
            prompts.setdefault(one.prompt, []).append((label, one))
    samplings = list(dict.fromkeys(one.sampling for some in generations.values() for one in some))
    parts = []
    for prompt, answers in prompts.items():
        rows = [
            (label, one.sampling, _shortened(one.text), f"{one.tokens}", "ended" if one.stopped else "cut")
            for label, one in sorted(answers, key=lambda answer: samplings.index(answer[1].sampling))
        ]
        table = markdown.table(("model", "sampling", "answer", "tokens", ""), rows, "lllrl")
        parts.append(f"**{markdown.plain(prompt)}**\n\n{table}")
    rates = rates_markdown(generations)
    return "\n".join([*parts, f"{_HOW_COUNTED}\n\n{rates}" if rates else ""])


def _shortened(text: str) -> str:
    """On one line, and shown as it was written: what a model wrote is no Markdown."""
    line = " ".join(text.split())
    line = line if len(line) <= _LONGEST_ANSWER else f"{line[: _LONGEST_ANSWER - 1]}…"
    for sign in "\\`*_[]<>#!":
        line = line.replace(sign, f"\\{sign}")
    return line or "*(nothing)*"


def _served(parity: Mapping[str, Summary]) -> str:
    """What is known of the last step, from a quantised model to what a server answers with it."""
    lines = []
    for label, found in parity.items():
        if found["passed"]:
            lines.append(
                f"- **served**: {label} passed parity: its server reads what the trained model reads, and parts from the "
                "same files in process by ties only."
            )
        else:
            lines.append(f"- **served**: {label} is not what was trained: {found['fault']}")
    return "".join(f"{line}\n" for line in lines)


def _how_measured(rows: Mapping[str, Summary]) -> str:
    first = next(iter(rows.values()))
    return (
        f"All models were scored on the same {first.get('held_out_bytes', 0):,} bytes of "
        f"{first.get('held_out_documents', 0):,} held-out documents. Fewer bits per byte are better; an error is the "
        "standard error over documents of that figure alone, which says nothing of two models' difference: see above.\n\n"
    )


def _by_collection(found: Mapping[str, Mapping[str, Summary]]) -> str:
    names = list(dict.fromkeys(name for some in found.values() for name in some))[:_MOST_COLLECTIONS]
    if len(names) < 2:
        return ""
    rows = []
    for name in names:
        figures = [some.get(name) for some in found.values()]
        known = next(one for one in figures if one)
        shown = [f"{one['bits_per_byte']:.3f}" if one else "–" for one in figures]
        rows.append((markdown.plain(name), f"{known['documents']:,}", f"{known['bytes']:,}", *shown))
    header = ("collection", "documents", "bytes", *found)
    return markdown.table(header, rows, "lrr" + "r" * len(found))


def _lineage(lineage: Sequence[tuple[str, str, str]]) -> str:
    rows = [(label, f"`{key}`", markdown.plain(read)) for label, key, read in lineage]
    return markdown.table(("result", "key in the store", "made from"), rows, "lll") if rows else ""


def _data_card(card: str) -> str:
    """The card without its samples and settings, which are several pages, and are kept with the stage that wrote it."""
    parts = card.removeprefix("# Data card").split("\n## ")
    kept = [part for part in parts if not part.startswith(("Samples", "Settings", "What only"))]
    return "\n### ".join(kept)


def _picture(pictures: Mapping[str, Path], name: str, called: str) -> str:
    return f"![{called}]({name})\n\n" if name in pictures else ""
