"""A picture and a table of how documents became tokens."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from leanpipe.core import markdown
from leanpipe.core.plots import NEUTRAL, picture
from leanpipe.core.stage import Summary
from leanpipe.tokens.token_shards import Shard


def write_token_report(folder: Path, shards: Sequence[Shard], block_length: int, summary: Summary) -> None:
    """Write `tokens.png`, the lengths of the documents of `shards` in tokens, and `tokens.md`, the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokens.md").write_text(f"{figures_table(summary)}\n{comparison_table(summary)}")
    lengths: Counter[int] = sum((Counter(shard.lengths) for shard in shards), Counter())
    _draw_lengths(folder / "tokens.png", lengths, block_length)


def figures_table(summary: Summary) -> str:
    """Return every figure of stage `tokenize` as a Markdown table."""
    return markdown.table(
        ("figure", "value"), ((name, f"{value:,}") for name, value in summary.items()), "lr"
    )


def comparison_table(summary: Summary) -> str:
    """Compare the trained tokenizer with the teacher's on the same text; empty for the teacher's own."""
    if "teacher_bytes_per_token" not in summary:
        return ""
    rows = [
        (name.replace("_", " "), f"{ours:,}", f"{teachers:,}", f"{ours / teachers if teachers else 0:.2f}")
        for name in ("bytes_per_token", "tokens_per_word", "vocabulary")
        for ours, teachers in [(summary[name], summary[f"teacher_{name}"])]
    ]
    return markdown.table(("on the validation text", "trained", "teacher's", "ratio"), rows, "lrrr")


def _draw_lengths(path: Path, lengths: Counter[int], block_length: int) -> None:
    least = min([*lengths, block_length]).bit_length() - 1
    edges = [2**power for power in range(max(0, least), max([*lengths, block_length]).bit_length() + 1)]
    with picture(path) as axes:
        axes.stairs([lengths[edge] for edge in edges[:-1]], edges, fill=True, color=NEUTRAL)
        axes.axvline(block_length, color="black", linestyle="--", label=f"one block ({block_length})")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set(xlabel="tokens per training document", ylabel="documents", title="Length of documents")
        axes.legend()
