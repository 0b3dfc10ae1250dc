"""What happened while a corpus was listed and read: every file or line that was passed over, and why."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

_LISTED = (
    100  # lines of one file that are named for one reason; more are only counted, so that the log stays small
)
_DETAIL = 300  # characters


class Skipped(NamedTuple):
    """A file, or a part of one, that could not be read."""

    source: str
    reason: str
    detail: str = ""


@dataclass
class ReadLog:
    """Notes what happened while the corpus was read: what was passed over, repaired, left out."""

    skipped: list[Skipped] = field(default_factory=list)
    """Every file that was passed over, and of each file the first hundred lines for each reason."""
    skipped_by_reason: Counter[str] = field(default_factory=Counter)
    """How many files and lines were passed over, all counted."""
    repaired: list[str] = field(default_factory=list)
    """Sources of documents whose bytes were no UTF-8; of each file the first hundred."""
    counters: Counter[str] = field(default_factory=Counter)
    """What else is worth counting: `documents repaired`, `attachments left out`, …"""
    bytes_read: int = 0
    """Of the files as they lie there, compressed or not."""
    bytes_total: int = 0
    records: int = 0
    """How many parts of files the readers came upon (see `begin`)."""
    documents: int = 0
    """How many documents the readers gave."""
    unaccounted: dict[str, int] = field(default_factory=dict)
    """By file, how many of its records became neither a document nor were passed over: a mistake of ours."""
    _in_file: Counter[str] = field(default_factory=Counter, repr=False)

    def begin(self, records: int = 1) -> None:
        """Note that a reader has come upon a line, row, mail, page or whole file, before it is known what becomes of it.

        Each must then become a document or be skipped: `unsettled` says how many have not yet.
        """
        self.records += records

    @property
    def unsettled(self) -> int:
        """Count the records that have become neither a document nor were passed over."""
        return self.records - self.documents - self.skipped_by_reason.total()

    def skip(self, source: str, reason: str, detail: object = "", position: int | None = None) -> None:
        """Note that a file, or the part of it at `position` (counted from 0), is passed over."""
        self.skipped_by_reason[reason] += 1
        if position is None:
            self.skipped.append(Skipped(source, reason, str(detail)[:_DETAIL]))
        elif self._is_listed(reason):
            self.skipped.append(Skipped(f"{source}#{position}", reason, str(detail)[:_DETAIL]))

    def skip_rows(self, source: str, reason: str, detail: object, positions: range) -> None:
        """Note that the rows at these positions of a file are passed over, however many they are."""
        for position in positions[:_LISTED]:
            self.skip(source, reason, detail, position)
        more = len(positions[_LISTED:])
        self.skipped_by_reason[reason] += more
        self._in_file[reason] += more

    def repair(self, source: str) -> None:
        """Note that the bytes of a document were no UTF-8 and that its text was guessed."""
        self.counters["documents repaired"] += 1
        if self._is_listed(""):
            self.repaired.append(source)

    def end_of_file(self, source: str) -> None:
        """Say how much was left unnamed, and begin to count anew."""
        self.skipped += [
            Skipped(source, reason, f"and {count - _LISTED} more in this file")
            for reason, count in self._in_file.items()
            if reason and count > _LISTED
        ]
        self._in_file.clear()

    def _is_listed(self, reason: str) -> bool:
        self._in_file[reason] += 1
        return self._in_file[reason] <= _LISTED
