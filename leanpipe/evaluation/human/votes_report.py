"""The report of a human evaluation: the verdict, who voted how, how far the raters agree, and every item unblinded."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from leanpipe.core import markdown
from leanpipe.core.plots import DROPPED, KEPT, LONGEST_LABEL, NEUTRAL, grid
from leanpipe.evaluation.human.blind_sheets import BOTH_BAD, FIRST, SECOND, TIE
from leanpipe.evaluation.human.count_votes import OUTCOMES, VOTES_REPORT, Preference, Tally
from leanpipe.evaluation.human.preference import Interval
from leanpipe.evaluation.report.one_file import html_page

PICTURE = "preference.png"
_ALL = "all"
_MOST_RATERS = 20
_COLORS = {FIRST: DROPPED, TIE: "#d5dae1", BOTH_BAD: "#9aa3ae", SECOND: KEPT}


def write_votes_report(found: Preference, folder: Path) -> None:
    """Write the report as Markdown and as one HTML file, with a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_preference(found, folder / PICTURE)
    text = votes_markdown(found)
    (folder / f"{VOTES_REPORT}.md").write_text(text, encoding="utf-8")
    page = html_page(f"{found.second} or {found.first}", text, {PICTURE: folder / PICTURE})
    (folder / f"{VOTES_REPORT}.html").write_text(page, encoding="utf-8")


def votes_markdown(found: Preference) -> str:
    """Write the report as Markdown."""
    parts = (
        f"# {markdown.plain(found.second)} or {markdown.plain(found.first)}?",
        f"> **{markdown.plain(found.sentence)}**",
        f"![Who voted how]({PICTURE})",
        _tallies(found),
        _certainty(found),
        _agreement(found),
        "## Every item",
        *_items(found),
    )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def draw_preference(found: Preference, path: Path) -> None:
    """Draw of all votes and of each rater's what they are for, and how much the second model is preferred."""
    rows = [(_ALL, found.all), *list(found.raters.items())[:_MOST_RATERS]]
    names = {FIRST: _short(found.first), TIE: TIE, BOTH_BAD: BOTH_BAD, SECOND: _short(found.second)}
    labels = [f"{name[:LONGEST_LABEL]} ({one.votes})".replace("$", r"\$") for name, one in rows]
    with grid(path, 2, width=10, height=1.9 + 0.4 * len(rows)) as (votes, preference):
        before = [0.0] * len(rows)
        for outcome in OUTCOMES:
            shares = [one.outcomes[outcome] / one.votes for _, one in rows]
            label, color = names[outcome].replace("$", r"\$"), _COLORS[outcome]
            votes.barh(range(len(rows)), shares, left=before, color=color, label=label)
            before = [left + share for left, share in zip(before, shares, strict=True)]
        votes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.13), ncols=2, frameon=False)
        for number, (_, one) in enumerate(rows):
            shown, color = one.preference, "black" if number == 0 else NEUTRAL
            preference.plot([shown.low, shown.high], [number, number], color=color, linewidth=2)
            preference.plot(shown.estimate, number, "o", color=color)
        preference.axvline(0.5, color="grey", linestyle=":")
        preference.set_xlabel("of the items, ties as half; 95% intervals")
        votes.set_yticks(range(len(rows)), labels)
        preference.set_yticks(range(len(rows)), [""] * len(rows))
        for axes, title in ((votes, "Votes (how many)"), (preference, f"{names[SECOND]} is better")):
            axes.set(title=title, xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
            axes.xaxis.set_major_formatter("{x:.0%}")
            axes.spines[["top", "right"]].set_visible(False)


def _short(name: str, most: int = 24) -> str:
    """The end of a name tells it from others."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _tallies(found: Preference) -> str:
    def row(name: str, one: Tally) -> tuple[str, ...]:
        counts = (str(one.outcomes[outcome]) for outcome in OUTCOMES)
        return (markdown.plain(name), str(one.votes), _share(one.preference), _share(one.left), *counts)

    first, second = (markdown.plain(_short(name)) for name in (found.first, found.second))
    header = ("rater", "votes", f"{second} is better", "left is better", first, "ties", "both bad", second)
    rows = [row(name, one) for name, one in ((_ALL, found.all), *found.raters.items())]
    return markdown.table(header, rows, "lrrrrrrr")


def _certainty(found: Preference) -> str:
    left = found.all.left
    biased = not left.low <= 0.5 <= left.high
    said = [
        "An item is a unit: its votes are averaged first, ties and “both bad” as half. Intervals are of 95%, and say what these "
        "raters would say of other prompts like these; of other raters they say nothing.",
        f"The exact sign test over items gives p = {found.p:.3g}; it holds for a number of votes that was fixed beforehand.",
        f"The answer on the left is better in {_share(left)}: "
        + (
            "raters lean to one side, whatever stands there; as each model stood on the left as often as on the right, that adds noise "
            "and favours neither."
            if biased
            else "that raters lean to one side cannot be told."
        ),
    ]
    if found.key.identical:
        said.append(
            f"To {len(found.key.identical)} prompts both models answered the same: they were not asked about, and count as ties."
        )
    if found.unvoted:
        said.append(f"On {found.unvoted} of {len(found.key.items)} items nobody voted: they are left out.")
    return "\n".join(f"- {one}" for one in said)


def _agreement(found: Preference) -> str:
    if found.agreeing is None:
        return "## How far the raters agree\n\nNo item has the votes of two raters, so that it is not known."
    pairs = f"{found.agreeing:.0%} of the pairs of votes on one item are alike"
    if found.alpha is None:
        return f"## How far the raters agree\n\n{pairs}; all votes are the same, so that chance would agree as well."
    words = (
        "reliable"
        if found.alpha >= 0.8
        else "enough for tentative conclusions"
        if found.alpha >= 0.667
        else "little"
    )
    return (
        f"## How far the raters agree\n\nKrippendorff's alpha (nominal; {', '.join(OUTCOMES[1:3])} and the two models as values) is "
        f"**{found.alpha:.3f}**: 1 is perfect, 0 is chance. By his own marks (.8, .667) that is {words}. {pairs}."
    )


def _items(found: Preference) -> Iterator[str]:
    votes = defaultdict(list)
    for vote in found.votes:
        votes[vote.item].append(vote)
    names = {FIRST: found.first, SECOND: found.second}
    for one in found.key.items:
        yield f"### {one.item}. {markdown.plain(one.prompt)[:200]}"
        for whose in (FIRST, SECOND):
            side = "left" if one.left == whose else "right"
            yield f"**{markdown.plain(names[whose])}** ({side})\n\n{_quoted(getattr(one, whose))}"
        said = [
            f"{vote.rater}: {names.get(one.preferred(vote.choice), vote.choice)}{f' ({vote.comment})' if vote.comment else ''}"
            for vote in votes[one.item]
        ]
        yield markdown.plain("; ".join(said) or "Nobody voted.")


def _quoted(text: str) -> str:
    """Return an answer as it stands, as code: what it writes is no Markdown of ours."""
    return "\n".join(f"    {line}" for line in text.splitlines()) if text.strip() else "*(nothing)*"


def _share(shown: Interval) -> str:
    return f"{shown.estimate:.1%} ({shown.low:.1%} to {shown.high:.1%})"
