"""Pictures, tables, samples and a data card by which a person judges what cleaning did."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leanpipe.core.plots import DROPPED, KEPT, NEUTRAL, draw_bars, picture
from leanpipe.corpus.report.data_card import QUANTILES, data_card, samples
from leanpipe.corpus.report.find_document import CORPUS
from leanpipe.corpus.report.sankey import draw_sankey
from leanpipe.corpus.report.stats import SAMPLES, CorpusStats, compute_corpus_stats
from leanpipe.corpus.rule_names import format_value, rule_bound
from leanpipe.corpus.split import SPLITS

CARD = "card.md"
_BARS = 25  # of a picture; tables have all


def write_corpus_report(
    folder: Path, documents: Path, config: Mapping[str, Any], corpus: Sequence[str] = ()
) -> CorpusStats:
    """Write the report on what `clean` wrote to `documents` to `folder`; returns the figures it is made of.

    `config` holds the settings of `clean`, nested, and `corpus` what the person named as corpora. Everything is streamed:
    memory does not grow with the corpus. Raises RuntimeError if the account does not add up.
    """
    stats = compute_corpus_stats(documents)
    folder.mkdir(parents=True, exist_ok=True)
    _write_tables(folder, stats, config)
    _draw(folder, stats)
    _write(folder / "samples.md", f"# Samples\n\n{samples(stats, SAMPLES)}")
    _write(folder / CARD, data_card(stats, config, corpus))
    _write(folder / CORPUS, json.dumps(list(corpus)))
    return stats


def _write_tables(folder: Path, stats: CorpusStats, config: Mapping[str, Any]) -> None:
    dropped = [
        (
            name,
            format_value(rule_bound(config, name)),
            rule.documents,
            rule.characters,
            rule.measured.quantile(0.5),
        )
        for name, rule in stats.rules.items()
    ]
    _write_csv(
        folder / "dropped.csv", ("rule", "bound", "documents", "characters_read", "median_measured"), dropped
    )
    languages = [(name, read, stats.languages_kept[name]) for name, read in stats.languages.most_common()]
    _write_csv(folder / "languages.csv", ("language", "documents_read", "documents_kept"), languages)
    splits = [
        (name, split.documents, split.characters, split.bytes)
        for name, split in ((name, stats.splits[name]) for name in SPLITS)
    ]
    _write_csv(folder / "splits.csv", ("split", "documents", "characters", "bytes"), splits)
    shares = (0.0, *QUANTILES, 1.0)
    lengths = [
        (
            f"{share:.0%}",
            round(stats.lengths_read.quantile(share)),
            round(stats.lengths_kept.quantile(share)),
        )
        for share in shares
    ]
    _write_csv(folder / "lengths.csv", ("share_of_documents", "characters_read", "characters_kept"), lengths)
    _write_csv(folder / "redacted.csv", ("kind", "replaced"), stats.redacted.items())
    _write_csv(folder / "skipped.csv", ("reason", "files_or_lines"), stats.skipped.most_common())


def _draw(folder: Path, stats: CorpusStats) -> None:
    reasons = [(name, rule.documents) for name, rule in stats.rules.items()]
    title = f"Why documents were dropped ({stats.dropped:,} dropped, {stats.kept:,} kept)"
    draw_bars(folder / "dropped.png", title, reasons[:_BARS], DROPPED)
    languages = [(name or "(not told)", number) for name, number in stats.languages_kept.most_common(_BARS)]
    draw_bars(folder / "languages.png", f"Languages of what was kept ({stats.kept:,})", languages, KEPT)
    _draw_lengths(folder / "lengths.png", stats)
    draw_sankey(folder / "flow.png", stats)


def _draw_lengths(path: Path, stats: CorpusStats) -> None:
    import numpy as np

    read, kept = stats.lengths_read, stats.lengths_kept
    smallest = max(
        1.0, 0.9 * min(sketch.quantile(0) for sketch in (read, kept) if sketch.count or sketch is read)
    )
    edges = np.geomspace(smallest, max(10.0, read.largest, kept.largest) * 1.01, 50)
    with picture(path) as axes:
        for name, sketch, color in (("read", read, NEUTRAL), ("kept", kept, KEPT)):
            bars, _ = np.histogram(sketch.values(), edges, weights=sketch.counts())
            axes.stairs(bars, edges, fill=True, color=color, alpha=0.55, label=f"{name} ({sketch.count:,})")
        axes.set(
            xscale="log", xlabel="characters per document", ylabel="documents", title="Length of documents"
        )
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend()


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _write(path: Path, text: str) -> None:
    path.write_text(text, errors="replace")
