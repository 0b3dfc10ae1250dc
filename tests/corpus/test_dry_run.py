"""The dry run on texts of which every figure is known, and on hopeless ones."""

import json
import pydoc_data.topics
from pathlib import Path

import pytest

from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.store import Artifact, Store
from leanpipe.corpus.clean import clean
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.document import document_id
from leanpipe.corpus.dry_run import InspectConfig, inspect
from leanpipe.corpus.readers import ReadConfig
from leanpipe.corpus.report.dry_run_report import COLUMNS, INSPECTION, Inspection, RuleFound, page, rows
from leanpipe.corpus.report.stats import compute_corpus_stats
from leanpipe.corpus.rules import GROUPS, RESCUED, UNSURE
from leanpipe.corpus.sources.file_index import FileIndex, index_corpus
from leanpipe.corpus.sources.read_log import ReadLog
from leanpipe.corpus.sources.sample import take_sample
from leanpipe.processes.run_stage import run_stage
from tests.flows.material import write_corpus, write_evaluation
from tests.support.file_indexes import listed

OFF = {"repetition": {"enabled": False}, "duplicates": {"near": False}}
QUALITY = {"min_words": 6, "min_stop_words": 2, "min_alphabetic_words": 0, "min_mean_word_length": 0}
ALONE = {
    "split": {"min_test_documents": 0}
}  # of texts that repeat each other, one that is held out takes others with it
CONFIG = {"clean": {**OFF, **ALONE, "quality": QUALITY, "languages": ("en",)}}
GOOD = "The bees of the valley dance to tell their sisters of flowers, and that is what they have learned."
TEXTS = {
    "good.txt": GOOD,
    "short.txt": "Bees dance in the sun.",  # 5 words, 1 stop word
    "shorter.txt": "Bees dance here.",  # 3 words, no stop word
    "same.txt": GOOD,
    "mail.txt": f"{GOOD} Write to bee@hive.org or to queen@hive.org.",
    "empty.html": "<html><body></body></html>",
    "blank.txt": " \n ",
    "german.txt": "Die Bienen im Tal tanzen, um ihren Schwestern zu sagen, wo die schönen Blumen stehen.",
}


def write(folder: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def run(tmp_path: Path, texts: dict[str, str], evaluations: tuple[Path, ...] = (), **config) -> Artifact:
    corpus = listed(write(tmp_path / "corpus", texts), tmp_path / "listings")
    given = tuple(Artifact(name="set", path=path, digest=str(path)) for path in evaluations)
    inputs = {"corpus": (corpus,), "evaluations": given}
    return run_stage(
        inspect, InspectConfig.model_validate(config), inputs, Store(tmp_path / "store"), Silent()
    )


def found(result: Artifact) -> Inspection:
    return Inspection.model_validate_json((result.path / INSPECTION).read_text())


def rule(inspection: Inspection, name: str) -> RuleFound:
    return next(one for one in inspection.rules if one.rule == name)


@pytest.fixture(scope="module")
def inspection(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return found(run(tmp_path_factory.mktemp("inspect"), TEXTS, **CONFIG))


def test_every_rule_that_is_broken_counts_not_only_the_first(inspection: Inspection):
    assert (inspection.sampled, inspection.would_stay, inspection.files) == (8, 2, 8)
    counts = {one.rule: (one.documents, one.first, one.only) for one in inspection.rules if one.documents}
    assert counts["quality.min_words"] == (2, 2, 0)
    assert counts["quality.min_stop_words"] == (
        2,
        0,
        0,
    )  # both are too short as well; German ones have none to count
    assert counts["languages"] == (1, 1, 1)
    assert counts["duplicates.exact"] == (1, 1, 1)
    assert sum(first for _, first, _ in counts.values()) == inspection.would_go


def test_what_was_measured_stands_beside_the_bound(inspection: Inspection):
    words = rule(inspection, "quality.min_words")
    assert words.bound == 6 and round(words.quantiles[0]) == 3 and round(words.quantiles[2]) == 19
    assert rule(inspection, "quality.max_words").documents == 0  # measured, and broken by none
    assert rule(inspection, "languages").quantiles == []


def test_examples_go_from_the_nearest_to_the_bound_to_the_farthest(inspection: Inspection):
    examples = rule(inspection, "quality.min_words").examples
    assert [(one.source, one.value, one.text) for one in examples] == [
        ("short.txt", 5, "Bees dance in the sun."),
        ("shorter.txt", 3, "Bees dance here."),
    ]
    assert rule(inspection, "duplicates.exact").examples[0].text.startswith("of ")


def test_personal_data_languages_and_losses_are_counted(inspection: Inspection):
    assert inspection.redacted == {"email": 2}
    assert inspection.languages == {"en": 5, "de": 1}
    lost = {one.rule for one in inspection.rules if one.documents} & {"empty", "extract.nothing"}
    assert sum(rule(inspection, name).documents for name in lost) == 2


def test_personal_data_is_in_no_example(tmp_path: Path):
    result = run(tmp_path, {"a.txt": "Write to bee@hive.org soon.", "b.txt": GOOD}, **CONFIG)
    files = [path for path in result.path.rglob("*") if path.suffix in (".json", ".md")]
    assert files and not any("bee@hive" in path.read_text() for path in files)


def test_near_duplicates_and_evaluation_sets(tmp_path: Path):
    words = " ".join(f"word{number}" for number in range(100))
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": GOOD}) + "\n")
    texts = {"a.txt": words, "b.txt": f"{words} more", "c.txt": f"{GOOD} Indeed."}
    clean = {"quality": {"enabled": False}, "repetition": {"enabled": False}}
    result = run(tmp_path, texts, (questions,), clean=clean)
    inspection = found(result)
    assert rule(inspection, "duplicates.near").documents == 1
    leak = rule(inspection, "decontaminate.max_overlap")
    assert leak.documents == 1 and "dance to tell" in leak.examples[0].text
    assert not (result.path / ".work").exists()


def test_c4_takes_lines_out_before_duplicates_are_looked_for(tmp_path: Path):
    lines = "\n".join(f"Sentence number {number} is long enough for this rule." for number in range(6))
    texts = {"a.txt": lines, "b.txt": f"{lines}\nHome | About | Contact"}
    off = {"enabled": False}
    clean = {"quality": off, "repetition": off, "c4": {"enabled": True}, "duplicates": {"near": False}}
    inspection = found(run(tmp_path, texts, clean=clean))
    assert rule(inspection, "duplicates.exact").documents == 1


def test_page_and_picture(tmp_path: Path):
    result = run(tmp_path, TEXTS, **CONFIG)
    assert (result.path / "report" / "measured.png").read_bytes().startswith(b"\x89PNG")
    text = (result.path / "report" / "inspection.md").read_text()
    assert "Of a sample of 8 documents from 8 files, 2 would stay (25.0%) and 6 would go." in text
    assert "| `quality.min_words` | 6 | 2 (25.0%) | 2 | 0 | 3 / 15 / 19 |" in text
    assert (
        "## `quality.min_words` would drop 2\n\n**short.txt**, measured 5\n\n    Bees dance in the sun."
        in text
    )
    assert result.summary["would_stay"] == 2 and result.summary["would_go_quality"] == 2
    assert result.summary["redactions"] == 2


def test_all_rules_can_be_off(tmp_path: Path):
    off = {"enabled": False}
    clean = {"quality": off, "repetition": off, "duplicates": {"near": False, "exact": False}}
    inspection = found(run(tmp_path, {"a.txt": "a", "b.txt": "a"}, clean=clean))
    assert (inspection.would_stay, inspection.rules) == (2, [])
    assert "2 would stay (100.0%)" in page(inspection) and list(rows(inspection)) == []


def test_rows_have_as_many_cells_as_there_are_columns(inspection: Inspection):
    assert {len(row) for row in rows(inspection)} == {len(COLUMNS)}


def test_nothing_to_read_is_one_sentence(tmp_path: Path):
    texts = {"a.txt": "\x01\x02\x00\x05" * 100, "b.txt": "", "c.bin": "text"}
    with pytest.raises(
        UserError, match=r"no document could be read from the 2 files of the corpus \(.*check the files"
    ):
        run(tmp_path, texts)


WEB = {
    "c4": {"enabled": True, "terminal_punctuation": False},
    "fineweb": {"enabled": True},
    "extract": {"max_characters": 4_000},
}
HOUSE = {"quality": {"max_words": 900}, "decontaminate": {"max_overlap": 0.1}, "split": {"validation": 0.2}}
FORETOLD = [
    ({"languages": ("en",)}, {"languages", "quality.min_words", "duplicates.exact", "duplicates.near"}),
    ({"duplicates": {"paragraphs": True}}, {"duplicates.paragraphs", "repetition.max_top_4_gram"}),
    (WEB, {"c4.lorem_ipsum", "c4.curly_brackets", "fineweb.min_terminal_lines", "extract.max_characters"}),
    (HOUSE, {"quality.max_words", "decontaminate.max_overlap", "empty", "extract.nothing"}),
]
"""Settings, and rules for which `clean` drops documents with them. Which of two texts goes may differ (a sample is in the
order of ids, not of files), how many go does not."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus in which every rule finds something, and texts for the rules that it has nothing for."""
    folder = write_corpus(tmp_path_factory.mktemp("material") / "corpus")
    topics = pydoc_data.topics.topics
    borrowed = [part for name in ("booleans", "return") for part in topics[name].strip().split("\n\n")[-3:]]
    (folder / "z-borrowed.txt").write_text("\n\n".join(part for part in borrowed if len(part) > 60))
    (folder / "z-blank.txt").write_text(" \n ")
    (folder / "z-nothing.html").write_text("<frameset><title>All in a frame")
    (folder / "z-large.html").write_text(f"<p>{topics['truth']}</p>" * 5)
    return folder


@pytest.mark.parametrize(("settings", "rules"), FORETOLD)
def test_what_it_foretells_is_what_cleaning_does(tmp_path: Path, material: Path, settings: dict, rules: set):
    sets = write_evaluation(tmp_path / "set.jsonl")
    inputs = {
        "corpus": (listed(material, tmp_path / "listings"),),
        "evaluations": (Artifact(name="set", path=sets, digest="set"),),
    }
    store, clean_config = Store(tmp_path / "store"), CleanConfig.model_validate(settings)
    foretold = found(run_stage(inspect, InspectConfig(clean=clean_config), inputs, store, Silent()))
    done = compute_corpus_stats(run_stage(clean, clean_config, inputs, store, Silent()).path)
    assert rules <= set(done.rules)
    assert (foretold.sampled, foretold.would_stay) == (done.documents, done.kept)
    first = {one.rule: one.first for one in foretold.rules if one.first}
    assert first == {name: rule.documents for name, rule in done.rules.items()}
    assert foretold.redacted == {kind: number for kind, number in done.redacted.items() if number}


def between(linked: int) -> str:
    """A page of the web that is a text if few of its words are links, a menu if many are, and hard to tell in between."""
    words = [f"word{number}" for number in range(20)]
    text = f'<a href="/">{" ".join(words[:linked])}</a> {" ".join(words[linked:])}'
    return f"<html><head>{'<meta><script></script>' * 8}</head><body>{f'<div>{text}</div>' * 9}</body></html>"


MENU = f"<html><body><footer>{'<p><a href=/>Many words of a menu</a></p>' * 9}</footer></body></html>"
HARD = {"menu.html": MENU, "again.html": MENU} | {f"{linked}.html": between(linked) for linked in range(20)}


def test_pages_of_which_the_text_was_hard_to_find_are_counted_as_cleaning_counts_them(tmp_path: Path):
    texts = HARD | {
        f"{number}.txt": f"Bees of hive {number} are in it. " * (number + 2) for number in range(9)
    }
    inputs = {"corpus": (listed(write(tmp_path / "corpus", texts), tmp_path / "listings"),)}
    off = {"quality": {"enabled": False}, "decontaminate": {"max_overlap": 1.0}}
    config = CleanConfig.model_validate(OFF | off)
    store = Store(tmp_path / "store")
    foretold = found(run_stage(inspect, InspectConfig(clean=config), inputs, store, Silent()))
    result = run_stage(clean, config, inputs, store, Silent())
    counted = {name: number for name, number in compute_corpus_stats(result.path).counted.items() if number}
    assert foretold.counted == counted and counted[RESCUED] >= 2 and 0 < counted[UNSURE] < 20
    summary = (result.summary["pages_rescued"], result.summary["pages_unsure"])
    assert summary == (counted[RESCUED], counted[UNSURE])
    line = f"{UNSURE}: {counted[UNSURE]}\n"
    assert line in (result.path / "report" / "card.md").read_text()
    assert f"| {UNSURE} | {counted[UNSURE]} |" in page(foretold)


def test_every_group_of_rules_is_foretold():
    assert {rule.split(".")[0] for _, rules in FORETOLD for rule in rules} == set(GROUPS)


def file_index(folder: Path) -> FileIndex:
    return index_corpus(str(folder), ReadLog())


def sample(folder: Path, wanted: int) -> list[str]:
    log = ReadLog()
    return [one.source for one in take_sample(file_index(folder).files, wanted, ReadConfig(), log)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """One file of 1,000 documents and twenty of one."""
    lines = "\n".join(json.dumps({"text": f"document {number}"}) for number in range(1_000))
    texts = {"large.jsonl": lines} | {f"small/{number}.txt": f"small {number}" for number in range(20)}
    return write(tmp_path / "corpus", texts)


def test_a_sample_is_spread_over_files_and_stays_the_same(files: Path):
    first = sample(files, 10)
    assert first == sample(files, 10) and len(set(first)) == 10
    assert sum(name.startswith("large") for name in first) <= 1
    assert set(first) <= set(sample(files, 21))
    every_file = {name.split("#")[0] for name in sample(files, 21)}
    assert len(every_file) == 21


def test_what_small_files_cannot_give_comes_from_large_ones(files: Path):
    chosen = sample(files, 100)
    assert len(chosen) == 100 and sum(name.startswith("large") for name in chosen) == 80
    ids = {document_id(0, "large.jsonl", number): number for number in range(100)}
    expected = {f"large.jsonl#{ids[one]}" for one in sorted(ids)[:80]}
    assert {name for name in chosen if name.startswith("large")} == expected  # of its first 100


def test_only_the_beginning_of_a_large_file_is_read(files: Path):
    numbers = [int(name.split("#")[1]) for name in sample(files, 30) if "#" in name]
    assert max(numbers) < 100
    assert len(sample(files, 5_000)) == 1_020


def test_no_more_files_are_opened_than_documents_are_wanted(tmp_path: Path):
    folder = write(tmp_path / "corpus", {f"{number}.txt": f"text {number}" for number in range(30)})
    files, log = file_index(folder).files, ReadLog()
    chosen = {one.source for one in take_sample(files, 3, ReadConfig(), log)}
    for name in {file.source for file in files} - chosen:
        (folder / name).unlink()
    assert {one.source for one in take_sample(files, 3, ReadConfig(), log)} == chosen
    assert log.skipped == []
