"""Stage `count_votes`: which of two models people prefer, how certain that is, and how far the raters agree."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.lineage import NOTHING
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Page, Summary, stage
from leanpipe.core.store import REPORT
from leanpipe.evaluation.human.agreement import agreeing_pairs, krippendorff_alpha
from leanpipe.evaluation.human.blind_sheets import BOTH_BAD, FIRST, LEFT, RIGHT, SECOND, TIE, SheetKey
from leanpipe.evaluation.human.preference import Interval, share_interval, sign_test
from leanpipe.evaluation.human.read_votes import FilledSheet, Vote, read_votes

VOTES_REPORT = "human_evaluation"
"""The name of the report's files."""
OUTCOMES = (FIRST, TIE, BOTH_BAD, SECOND)
"""What a vote is once it is known whose answer was where."""
_OF_SECOND = {FIRST: 0.0, TIE: 0.5, BOTH_BAD: 0.5, SECOND: 1.0}
_OF_LEFT = {LEFT: 1.0, TIE: 0.5, BOTH_BAD: 0.5, RIGHT: 0.0}


class CountVotesConfig(StageConfig):
    """What the two models are called in the report."""

    first: str = Field(min_length=1)
    """The one whose answers are called first."""
    second: str = Field(min_length=1)
    """The one that is asked of whether it is preferred."""


@dataclass(frozen=True)
class CountVotesInputs:
    """The result of `blind_sheets`, and a table of votes on its sheet."""

    sheets: Path
    votes: Path


@dataclass(frozen=True)
class Tally:
    """Some raters' votes on a sheet, with what they come to."""

    preference: Interval
    """Share of the items of which the second model's answer is preferred, ties as half."""
    outcomes: Counter[str]
    """How many votes are for what."""
    left: Interval
    """Share of the items of which the answer on the left is preferred, ties as half."""

    @property
    def votes(self) -> int:
        return self.outcomes.total()


@dataclass(frozen=True)
class Preference:
    """Everything that the votes say."""

    first: str
    second: str
    all: Tally
    raters: dict[str, Tally]
    p: float
    """Of the sign test over the items."""
    alpha: float | None
    agreeing: float | None
    key: SheetKey
    votes: tuple[Vote, ...]

    @property
    def unvoted(self) -> int:
        """How many items nobody voted on."""
        return len(self.key.items) - len({vote.item for vote in self.votes})

    @property
    def sentence(self) -> str:
        """Say which model is preferred, if that can be told."""
        shown = self.all.preference
        share = f"{shown.estimate:.1%} of the items (95% interval {shown.low:.1%} to {shown.high:.1%}, ties as half)"
        if shown.low <= 0.5 <= shown.high:
            return f"It cannot be told which of {self.first} and {self.second} is preferred: {self.second} is better in {share}."
        one, other = (self.second, self.first) if shown.low > 0.5 else (self.first, self.second)
        return f"{one} is preferred to {other}: {self.second} is better in {share}."


@stage(
    version=1,
    reads={"sheets": NOTHING, "votes": NOTHING},
    pages=(
        Page(f"{VOTES_REPORT}.md", "human-evaluation", "Which model people prefer, and how far they agree"),
    ),
    groups=dict.fromkeys(
        ("items", "items_without_votes", "identical_answers", "votes", "raters"), NOT_COMPARED
    ),
)
def count_votes(config: CountVotesConfig, inputs: CountVotesInputs, out: Path, report: Report) -> Summary:
    """Write who prefers what as a report, a page and a picture, and the votes with the answers that they are for."""
    from leanpipe.evaluation.human.votes_report import write_votes_report

    key = SheetKey.read(inputs.sheets)
    text = inputs.votes.read_text(encoding="utf-8")
    votes = read_votes([FilledSheet(inputs.votes.name, text, "")], key)
    found = count(votes, key, config.first, config.second)
    write_votes_report(found, out / REPORT)
    (out / "votes.csv").write_text(text, encoding="utf-8")
    return _summary(found)


def count(votes: Sequence[Vote], key: SheetKey, first: str, second: str) -> Preference:
    """Say what votes on a sheet come to, of the models called `first` and `second`."""
    items = {one.item: one for one in key.items}
    by_rater: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_rater[vote.rater].append(vote)
    by_item = _by_item(votes, lambda vote: items[vote.item].preferred(vote.choice))
    shares = _shares(by_item, _OF_SECOND)
    agreed = list(by_item.values())
    return Preference(
        first,
        second,
        _tally(votes, key),
        {rater: _tally(some, key) for rater, some in sorted(by_rater.items())},
        sign_test(shares),
        krippendorff_alpha(agreed),
        agreeing_pairs(agreed),
        key,
        tuple(votes),
    )


def _tally(votes: Sequence[Vote], key: SheetKey) -> Tally:
    items = {one.item: one for one in key.items}
    outcomes = _by_item(votes, lambda vote: items[vote.item].preferred(vote.choice))
    # To a prompt that both answered alike neither is better, whoever would be asked.
    shares = [*_shares(outcomes, _OF_SECOND), *[0.5] * len(key.identical)]
    sides = _shares(_by_item(votes, lambda vote: vote.choice), _OF_LEFT)
    counted = Counter(said for some in outcomes.values() for said in some)
    return Tally(share_interval(shares), counted, share_interval(sides))


def _by_item(votes: Iterable[Vote], said: Callable[[Vote], str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for vote in votes:
        grouped[vote.item].append(said(vote))
    return grouped


def _shares(by_item: Mapping[str, Sequence[str]], worth: Mapping[str, float]) -> list[float]:
    """The mean vote on each item: raters of one item are no further items."""
    return [sum(map(worth.__getitem__, some)) / len(some) for some in by_item.values()]


def _summary(found: Preference) -> Summary:
    shown, left = found.all.preference, found.all.left
    alpha = {} if found.alpha is None else {"krippendorff_alpha": found.alpha}
    return {
        "preference": shown.estimate,
        "preference_low": shown.low,
        "preference_high": shown.high,
        "sign_test_p": found.p,
        **alpha,
        "left_preference": left.estimate,
        "left_preference_low": left.low,
        "left_preference_high": left.high,
        "ties": found.all.outcomes[TIE] / found.all.votes,
        "both_bad": found.all.outcomes[BOTH_BAD] / found.all.votes,
        "items": len(found.key.items),
        "items_without_votes": found.unvoted,
        "identical_answers": len(found.key.identical),
        "votes": found.all.votes,
        "raters": len(found.raters),
        "of": f"{found.second} over {found.first}",
        "verdict": found.sentence,
    }
