"""A picture and a table of how documents became tokens."""

from collections.abc import Sequence
from pathlib import Path

from leanpipe.stage import Summary


def describe(folder: Path, document_tokens: Sequence[int], block_length: int, summary: Summary) -> None:
    """Write `tokens.png`, the lengths of the training documents in tokens, and `tokens.md`, the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"| {name} | {value:,} |" for name, value in summary.items()]
    (folder / "tokens.md").write_text("\n".join(["| figure | value |", "| --- | ---: |", *rows]) + "\n")
    _draw_lengths(folder / "tokens.png", document_tokens, block_length)


def _draw_lengths(path: Path, lengths: Sequence[int], block_length: int) -> None:
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(lengths, bins=np.geomspace(1, max(10, block_length, *lengths) * 1.01, 50).tolist())
    axes.axvline(block_length, color="black", linestyle="--", label=f"one block ({block_length})")
    axes.set(
        xscale="log", xlabel="tokens per training document", ylabel="documents", title="Length of documents"
    )
    axes.legend()
    figure.savefig(path, dpi=110)
