"""Pictures, tables and samples by which a person judges what cleaning did."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from leanpipe.text.document import START, Document, Dropped
from leanpipe.text.files import ReadLog

_SAMPLES = 3


def describe(
    folder: Path,
    kept: Sequence[Document],
    dropped: Sequence[Dropped],
    lengths_read: Sequence[int],
    languages: Mapping[str, int],
    log: ReadLog,
) -> None:
    """Write all of it to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    reasons = Counter(row.rule for row in dropped).most_common()
    _write_csv(folder / "dropped.csv", ("rule", "documents"), reasons)
    _write_csv(folder / "languages.csv", ("language", "documents"), Counter(languages).most_common())
    _write_csv(folder / "skipped.csv", ("source", "reason", "detail"), log.skipped)
    _write_csv(folder / "repaired.csv", ("source",), ([source] for source in log.repaired))
    (folder / "samples.md").write_text(_samples(kept, dropped, [rule for rule, _ in reasons]))
    _draw_reasons(folder / "dropped.png", reasons, len(kept))
    _draw_lengths(folder / "lengths.png", lengths_read, [len(document.text) for document in kept])


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with path.open("w", newline="", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _samples(kept: Sequence[Document], dropped: Sequence[Dropped], rules: Sequence[str]) -> str:
    """Those with the smallest ids: as good as drawn by chance, and the same every time."""
    parts = [f"# Kept ({len(kept)})\n"]
    for document in sorted(kept, key=lambda document: document.id)[:_SAMPLES]:
        parts.append(_sample(document.source, document.text[:START]))
    for rule in rules:
        rows = sorted(row for row in dropped if row.rule == rule)
        parts.append(f"# Dropped by {rule} ({len(rows)})\n")
        parts += [_sample(f"{row.source}, measured {row.value:.4g}", row.start) for row in rows[:_SAMPLES]]
    return "\n".join(parts).encode(errors="replace").decode()


def _sample(title: str, text: str) -> str:
    indented = "\n".join(f"    {line}" for line in text.splitlines()) or "    (nothing)"
    return f"**{title}**\n\n{indented}\n"


def _draw_reasons(path: Path, reasons: Sequence[tuple[str, int]], kept: int) -> None:
    from matplotlib.figure import Figure

    names = [name for name, _ in reasons] or ["nothing was dropped"]
    counts = [count for _, count in reasons] or [0]
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.bar_label(axes.barh(names, counts), padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel="documents", title=f"Why documents were dropped ({sum(counts)} dropped, {kept} kept)")
    figure.savefig(path, dpi=110)


def _draw_lengths(path: Path, before: Sequence[int], after: Sequence[int]) -> None:
    import numpy as np
    from matplotlib.figure import Figure

    edges = np.geomspace(1, max(10, *before, *after) * 1.01, 50).tolist()
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(before, bins=edges, alpha=0.5, label=f"read ({len(before)})")
    axes.hist(after, bins=edges, alpha=0.8, label=f"kept ({len(after)})")
    axes.set(xscale="log", xlabel="characters per document", ylabel="documents", title="Length of documents")
    axes.legend()
    figure.savefig(path, dpi=110)
