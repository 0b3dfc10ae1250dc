"""The data card: what is in a cleaned corpus, what was left out and why, and what only its owner can say.

Its front matter is that of Hugging Face's dataset cards; its questions follow Gebru et al. 2018, "Datasheets for datasets"
(arXiv:1803.09010).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leanpipe.core import markdown
from leanpipe.corpus.report.stats import CorpusStats, SampleDocument
from leanpipe.corpus.rule_names import format_rounded, format_value, is_numeric_rule, rule_bound
from leanpipe.corpus.split import SPLITS

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_PLACES = 5  # most places that are named where records were lost
_LANGUAGES = 20  # most of them in the card; all are in languages.csv
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")

_OWNER = """## What only you can say

This card was written from the documents. Before you share them or a model made of them, add:

- **Motivation**: why was the corpus put together, by whom, and who paid for it?
- **Collection**: how was the text obtained, over what time, and did its authors know and consent?
- **Rights**: under which licence is it, and may it be used to train a model that is sold?
- **People**: is anybody described who could be harmed? Redaction finds patterns, not names.
- **Uses**: what should it not be used for?
- **Upkeep**: who answers questions, and how does somebody have their text removed? `leanpipe lineage` finds it.
"""


def data_card(stats: CorpusStats, config: Mapping[str, Any], corpus: Sequence[str] = ()) -> str:
    """Write the data card in Markdown. `config` holds the settings of `clean`, nested; `corpus` what was named as corpora."""
    parts = (
        _front_matter(stats),
        f"# Data card\n\n{_opening(stats)}\n\n![What became of every document](flow.png)\n",
        f"## Sources\n\n{_sources(stats, corpus)}",
        f"## Composition\n\n{_composition(stats)}",
        f"## What was left out\n\n{_dropped(stats, config)}",
        _duplicates(stats, config),
        _contamination(stats),
        _redactions(stats),
        _skipped(stats),
        f"## Samples\n\n{samples(stats, most=1)}",
        _settings(config),
        _OWNER,
    )
    return "\n".join(part for part in parts if part)


def for_a_page(card: str) -> str:
    """Return the card for a place where neither front matter nor pictures are shown."""
    body = card.split("\n---\n", 1)[-1] if card.startswith("---\n") else card
    return "\n".join(line for line in body.splitlines() if not line.startswith("![")).strip() + "\n"


def samples(stats: CorpusStats, most: int) -> str:
    """Show the beginnings of `most` documents of what was kept and of what each rule dropped."""
    parts = [f"### Kept ({stats.kept:,})\n", *map(_sample, stats.samples[:most])]
    for name, rule in stats.rules.items():
        parts.append(f"### Dropped by `{name}` ({rule.documents:,})\n")
        parts += [_sample(one, is_numeric_rule(name)) for one in rule.samples[:most]]
    return "\n".join(parts)


def _sample(sample: SampleDocument, measured: bool = False) -> str:
    value = f", measured {format_value(sample.value)}" if measured else ""
    text = "\n".join(f"    {line}" for line in sample.text.splitlines()) or "    (nothing)"
    return f"**{markdown.plain(sample.source)}**{value}\n\n{text}\n"


def _front_matter(stats: CorpusStats) -> str:
    import yaml

    known = [language for language, _ in stats.languages_kept.most_common() if language]
    thousands = max(0, len(str(stats.kept)) - 3)  # each category of the hub has one digit more
    facts = {
        "language": known[:_LANGUAGES],
        "license": "unknown",
        "task_categories": ["text-generation"],
        "size_categories": [_SIZES[min(thousands, len(_SIZES) - 1)]],
        "tags": ["leanpipe"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": name, "path": f"{name}/*.parquet"}
                    for name in SPLITS
                    if stats.splits[name].documents
                ],
            }
        ],
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n"


def _opening(stats: CorpusStats) -> str:
    return (
        f"{stats.documents:,} documents were read. {stats.kept:,} ({_share(stats.kept, stats.documents)}) were kept, "
        f"{stats.dropped:,} dropped for the reasons below, each with its row in `account/`. "
        f"{sum(stats.skipped.values()):,} files, or records in them, were not read.\n\n{markdown.plain(balance(stats))}"
    )


def balance(stats: CorpusStats) -> str:
    """Say whether all that came in was kept, dropped or skipped, and if not, how many are missing and where."""
    skipped = stats.skipped.total()
    if not stats.unaccounted and not stats.lost:
        return f"In = kept + dropped + skipped: {stats.records:,} = {stats.kept:,} + {stats.dropped:,} + {skipped:,}."
    lost = stats.unaccounted
    fate = "missing" if lost >= 0 else "too many"
    places = "; ".join(f"{name}: {number:,}" for name, number in list(stats.lost.items())[:_PLACES])
    return (
        f"In = kept + dropped + skipped does not hold: {stats.records:,} records came in, {stats.kept:,} were kept, "
        f"{stats.dropped:,} dropped and {skipped:,} skipped, so {abs(lost):,} are {fate} ({places or 'nobody knows where'}). "
        "This is a mistake of leanpipe, not of the files."
    )


def _sources(stats: CorpusStats, corpus: Sequence[str]) -> str:
    named = "".join(f"- `{markdown.plain(one)}`\n" for one in corpus)
    kinds = ((ending, f"{count:,}") for ending, count in stats.kinds.most_common())
    counted = "".join(f"- {name}: {count:,}\n" for name, count in sorted(stats.counted.items()) if count)
    return f"{named}\n{_table(('kind of file', 'documents read'), kinds)}\n{counted}"


def _composition(stats: CorpusStats) -> str:
    splits = [(name, *_sizes(stats, name)) for name in SPLITS]
    languages = [
        (language or "(not told)", f"{count:,}", f"{stats.languages_kept[language]:,}")
        for language, count in stats.languages.most_common(_LANGUAGES)
    ]
    lengths = [
        (name, *(f"{round(sketch.quantile(share)):,}" for share in QUANTILES), f"{round(sketch.largest):,}")
        for name, sketch in (("read", stats.lengths_read), ("kept", stats.lengths_kept))
    ]
    head = ("characters per document", *(f"{share:.0%}" for share in QUANTILES), "longest")
    return (
        f"{_table(('split', 'documents', 'characters', 'bytes'), splits)}\n"
        f"{_table(head, lengths)}\nQuantiles are right to half a percent.\n\n![Lengths](lengths.png)\n\n"
        f"{_table(('language', 'documents read', 'kept'), languages)}\n![Languages](languages.png)\n"
    )


def _sizes(stats: CorpusStats, name: str) -> tuple[str, ...]:
    split = stats.splits[name]
    return f"{split.documents:,}", f"{split.characters:,}", f"{split.bytes:,}"


def _dropped(stats: CorpusStats, config: Mapping[str, Any]) -> str:
    rows = [
        (
            f"`{name}`",
            format_value(rule_bound(config, name)),
            f"{rule.documents:,}",
            _share(rule.documents, stats.documents),
            format_rounded(rule.measured.quantile(0.5)) if is_numeric_rule(name) else "",
        )
        for name, rule in stats.rules.items()
    ]
    if not rows:
        return "Nothing.\n"
    head = ("rule", "bound", "documents", "of all", "measured (median)")
    return (
        f"{_table(head, rows)}\nRules are settings of `clean`. A document counts for the first rule that it broke.\n\n"
        "![Reasons](dropped.png)\n"
    )


def _duplicates(stats: CorpusStats, config: Mapping[str, Any]) -> str:
    rules = {name: rule for name, rule in stats.rules.items() if name.startswith("duplicates.")}
    if not rules:
        return "## Duplicates\n\nNone were found.\n"
    rows = [
        (name.partition(".")[2], f"{rule.documents:,}", f"{rule.characters:,}")
        for name, rule in rules.items()
    ]
    threshold = format_value(rule_bound(config, "duplicates.near"))
    note = f"\nNear means an estimated resemblance of at least {threshold}.\n" if threshold else ""
    return f"## Duplicates\n\n{_table(('kind', 'documents dropped', 'characters read'), rows)}{note}"


def _contamination(stats: CorpusStats) -> str:
    rules = [name for name in stats.rules if name.startswith("decontaminate.")]
    count = sum(stats.rules[name].documents for name in rules)
    if not count:
        return "## Evaluation sets\n\nNo document was dropped for holding part of one.\n"
    rows = [(one.source, format_value(one.value), one.text) for one in stats.passages]
    shown_of = f"{len(rows)} of {count:,}" if count > len(rows) else f"{count:,}"
    return (
        f"## Evaluation sets\n\n{shown_of} documents that held part of one, and the passage:\n\n"
        f"{_table(('source', 'measured', 'passage'), rows)}"
    )


def _redactions(stats: CorpusStats) -> str:
    rows = [(kind, f"{count:,}") for kind, count in stats.redacted.items() if count]
    if not rows:
        return "## Personal data\n\nNone was found to redact.\n"
    return (
        f"## Personal data\n\nReplaced in {stats.documents_redacted:,} of the documents that were kept; what stood there "
        f"was not written down.\n\n{_table(('kind', 'replaced'), rows)}"
    )


def _skipped(stats: CorpusStats) -> str:
    rows = [
        (reason, f"{count:,}", " — ".join(filter(None, stats.skipped_examples.get(reason, ()))))
        for reason, count in stats.skipped.most_common()
    ]
    if not rows:
        return ""
    return (
        f"## What could not be read\n\n{_table(('reason', 'files or lines', 'for example'), rows)}\n"
        "They are listed in `skipped.parquet`, of each file the first hundred for each reason.\n"
    )


def _settings(config: Mapping[str, Any]) -> str:
    import yaml

    return f"## Settings\n\n```yaml\n{yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)}```\n"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of which no cell can begin an HTML element: sources and passages are other people's text."""
    return markdown.table(header, ([markdown.plain(cell) for cell in row] for row in rows))
