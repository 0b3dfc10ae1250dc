"""What `leanpipe lineage` prints."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from leanpipe.corpus.rule_names import format_value, is_numeric_rule
from tasks.lineage import Fate, Lineage
from tasks.tracking.versions import Version

_SHORT = 8  # characters of a key that tell results apart


def print_lineage(answer: Lineage, console: Console) -> None:
    """Print a table of what became of the documents, and for each split of a corpus one of what was made from it."""
    console.print(_documents(answer))
    if answer.more:
        console.print("There are more: ask for more precisely, or with --most.")
    shown_already: set[tuple[str, str]] = set()
    for fate in answer.fates:
        place = (fate.corpus, fate.split)
        if fate.split and place not in shown_already:
            shown_already.add(place)
            if fate.made:
                console.print(_made(fate))
            console.print(_models(fate), soft_wrap=True)
    if answer.unknown:
        console.print(
            f"Nothing is known of {_names(answer.unknown)}: what they were made from has left the store.",
            soft_wrap=True,
        )


def nothing_found(answer: Lineage) -> str:
    """Write the sentence for a person who looks for a document that no corpus had."""
    if not answer.corpora:
        return "no corpus has been cleaned here yet: leanpipe run prepare-corpus does so"
    return (
        f"{answer.asked!r} is no document's id, digest, path or phrase in any cleaned corpus here ({answer.corpora} "
        "searched; of dropped documents only the first 300 characters are known): try a path, or other words"
    )


def _documents(answer: Lineage) -> Table:
    title = f"What became of it (found by {answer.found_by})"
    table = Table("document", "corpus", "what became of it", title=title, title_justify="left")
    table.add_column("if dropped: how it begins, or what shows why", overflow="fold", max_width=60)
    for fate in answer.fates:
        row = fate.document
        table.add_row(
            f"{row['source']}\n{row['id']}",
            f"{fate.corpus[:_SHORT]}\n{fate.published:%Y-%m-%d %H:%M} UTC",
            _outcome(fate),
            " ".join(row["detail"].split()),
        )
    return table


def _outcome(fate: Fate) -> str:
    row = fate.document
    if row["outcome"] == "kept":
        return f"kept, in {row['split']}\n{row['characters']:,} characters, {row['language']}"
    measured = f": {format_value(row['value'])}" if is_numeric_rule(row["rule"]) else ""
    allowed = f", bound {format_value(fate.bound)}" if fate.bound is not None else ""
    stayed = f"\n{fate.kept_as} stayed in its place, in {fate.split}" if fate.kept_as else ""
    return f"dropped by {row['rule']}{measured}{allowed}{stayed}"


def _made(fate: Fate) -> Table:
    title = f"Made from {fate.split} of corpus {fate.corpus[:_SHORT]}"
    table = Table("stage", "key", "when", "how", "registered as", title=title, title_justify="left")
    for made in fate.made:
        when = f"{made.published:%Y-%m-%d %H:%M}"
        table.add_row(made.stage, made.key[:_SHORT], when, made.how, _names(made.models))
    return table


def _models(fate: Fate) -> str | Text:
    if fate.split != "train":
        return f"No model was trained on {fate.split} of corpus {fate.corpus[:_SHORT]}: it is held out."
    if not fate.models:
        return f"No registered model was trained on {fate.split} of corpus {fate.corpus[:_SHORT]}."
    place = f"{fate.split} of corpus {fate.corpus[:_SHORT]}"
    return Text.assemble((f"Registered models trained on {place}:", "bold"), f" {_names(fate.models)}")


def _names(versions: list[Version]) -> str:
    return ", ".join(
        f"{one.name} version {one.version}" + (f" ({', '.join(one.aliases)})" if one.aliases else "")
        for one in versions
    )
