"""Everything that is wrong with a document, not only the first thing: what `Judge` does, but to the end."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.decontam.decontaminate import OverlapIndex
from leanpipe.corpus.dedup.duplicates import DocumentIndex, Pairs, Segment, exact_pairs, near_pairs
from leanpipe.corpus.document import START, Document, Fault
from leanpipe.corpus.extract.main_text import extract_main_text
from leanpipe.corpus.filters import Filters, all_faults, filter_text
from leanpipe.corpus.filters.language import detect_language
from leanpipe.corpus.normalize import normalize
from leanpipe.corpus.passes.column_files import ColumnWriter, read_column
from leanpipe.corpus.passes.per_document import COLUMNS, columns_of
from leanpipe.corpus.pii import redact
from leanpipe.corpus.split import SPLITS, fill_empty_splits, split_of


@dataclass
class Looked:
    """A document, and everything that is wrong with it."""

    document: Document
    readable: str = ""
    """Its text as the rules see it."""
    text: str = ""
    """Its text as it would be kept: without personal data."""
    language: str = ""
    faults: list[Fault] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    """What shows a fault, by its rule, where the text's beginning does not."""
    redacted: dict[str, int] = field(default_factory=dict)

    def blame(self, rule: str, value: float = 0.0, detail: str = "") -> None:
        """Add a fault."""
        self.faults.append(Fault(rule, value))
        if detail:
            self.details[rule] = detail


def look(document: Document, config: CleanConfig, evaluations: OverlapIndex | None) -> Looked:
    """The document through every rule that needs no other document, in the order of `clean`."""
    one = Looked(document, document.text)
    if document.html:
        extracted = extract_main_text(document.text, config.extract)
        if extracted.fault:
            one.blame(*extracted.fault, detail=redact(document.text[: 2 * START], config.redact).text)
            return one
        one.readable = extracted.text
    one.readable = one.text = normalize(one.readable)
    if not one.text.strip():
        one.blame("empty")
        return one
    one.language = detect_language(one.text, config.language_sample)
    if config.languages and one.language not in config.languages:
        one.blame("languages")
    filters = Filters(config.quality, config.repetition, config.c4, config.fineweb)
    one.faults += all_faults(one.text, one.language, filters)
    if config.c4.enabled and not one.faults:
        one.text, _ = filter_text(one.text, one.language, filters)  # C4 takes out lines
    one.text, one.redacted = redact(one.text, config.redact)
    if overlap := evaluations.overlap(one.text) if evaluations else None:
        one.blame(overlap.rule, overlap.value, overlap.detail)
    return one


def compare(looked: Sequence[Looked], config: CleanConfig, folder: Path) -> None:
    """Add a fault to those that repeat an earlier one, or part of a held-out one, as `clean` finds them.

    `folder` is for what is noted of them.
    """
    if not looked:
        return
    _note(looked, config, folder)
    segment = Segment(folder, config.duplicates.permutations)
    index = DocumentIndex([segment], 0)
    gone: np.ndarray = np.zeros(len(index), np.bool_)
    if config.duplicates.exact:
        exact = exact_pairs(index)
        gone[exact.later] = True
        _blame(looked, "duplicates.exact", exact)
    if config.duplicates.near:
        near = near_pairs(index, gone, config.duplicates, 0, 1)
        gone[near.later] = True
        _blame(looked, "duplicates.near", near)
    if config.decontaminate.enabled and config.decontaminate.held_out:
        splits = fill_empty_splits(segment.splits[~gone], segment.hashes[~gone, 0])
        kept = [one for one, is_gone in zip(looked, gone, strict=True) if not is_gone]
        learnt = [one for one, split in zip(kept, splits, strict=True) if SPLITS[split] == "train"]
        _blame_overlaps(learnt, config, folder)


def _blame_overlaps(learnt: Sequence[Looked], config: CleanConfig, folder: Path) -> None:
    hashes = read_column(folder / "held_out.u64", COLUMNS["held_out.u64"])
    counts = read_column(folder / "held_out_counts.u32", COLUMNS["held_out_counts.u32"])
    OverlapIndex.of_hashes("held out", [hashes], config.decontaminate, [counts]).save(folder / "held_out")
    held_out = OverlapIndex.load(folder / "held_out")
    for one in learnt:
        if overlap := held_out.overlap(one.text):
            one.blame(overlap.rule, overlap.value, overlap.detail)


def _note(looked: Sequence[Looked], config: CleanConfig, folder: Path) -> None:
    writers = {name: ColumnWriter(folder / name, kind) for name, kind in COLUMNS.items()}
    for one in looked:
        text_hash = hashlib.sha256(one.text.encode(errors="surrogatepass")).digest()
        split = split_of(text_hash, config.split)
        for name, values in columns_of(one.document.id, one.text, text_hash, split, config).items():
            writers[name].append(values)
    for writer in writers.values():
        writer.close()


def _blame(looked: Sequence[Looked], rule: str, pairs: Pairs) -> None:
    for later, earlier, similarity in zip(*pairs, strict=True):
        one, original = looked[later], looked[earlier]
        one.blame(rule, float(similarity), f"of {original.document.source}: {one.text}")
