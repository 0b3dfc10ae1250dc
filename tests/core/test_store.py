from collections.abc import Callable
from pathlib import Path

import pytest

from leanpipe.core.estimate import expected
from leanpipe.core.lineage import read_results
from leanpipe.core.report import Report, Silent
from leanpipe.core.stage import Summary, stage
from leanpipe.core.store import Artifact, Store, external
from leanpipe.processes.run_stage import run_stage
from tests.support.sample_stages import CountConfig, CountInputs, count


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def text(tmp_path: Path) -> Artifact:
    path = tmp_path / "text.txt"
    path.write_text("twelve bytes")
    return external("text", path)


def run(store: Store, text: Artifact, step: int = 1) -> Artifact:
    return run_stage(count, CountConfig(step=step), {"texts": (text,)}, store, Silent())


def test_a_result_is_computed_once(store: Store, text: Artifact):
    first, second = run(store, text), run(store, text)
    assert first == second
    assert first.summary["total"] == 12
    assert (first.path / "total.txt").read_text() == "12"


def test_another_setting_or_input_is_another_result(store: Store, text: Artifact, tmp_path: Path):
    other = tmp_path / "other.txt"
    other.write_text("four")
    keys = {run(store, text).key, run(store, text, step=2).key, run(store, external("o", other)).key}
    assert len(keys) == 3


def test_the_same_content_elsewhere_is_the_same_input(store: Store, text: Artifact, tmp_path: Path):
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "text.txt"
    copy.write_bytes(text.path.read_bytes())
    assert run(store, external("copy", copy)).key == run(store, text).key


def test_what_lies_in_report_does_not_count_as_content(store: Store, text: Artifact, tmp_path: Path):
    again = Store(tmp_path / "another")
    first, second = run(store, text), run(again, text)
    when = [(artifact.path / "report" / "when.txt").read_text() for artifact in (first, second)]
    assert when[0] != when[1] and first.digest == second.digest


@pytest.mark.parametrize("place", ["notes.txt", "report/notes.txt", "mine/notes.txt"])
def test_what_the_manifest_does_not_name_damages_nothing(store: Store, text: Artifact, place: str):
    first = run(store, text)
    note = first.path / place
    note.parent.mkdir(exist_ok=True)
    note.write_text("looks good")
    assert run(store, text) == first and note.read_text() == "looks good"


@stage(version=1)
def tables(config: CountConfig, inputs: CountInputs, out: Path, report: Report) -> Summary:
    """Write a table into a folder of which other stages read all tables."""
    for name in ("train/0.parquet", "report/0.json", "0.json"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(name)
    return {}


def test_what_a_stage_would_take_for_a_part_of_the_result_is_moved_aside(
    store: Store, text: Artifact, caplog
):
    """It would be learned from, and the result's digest would not tell."""
    made = run_stage(tables, CountConfig(), {"texts": (text,)}, store, Silent())
    left = ("train/notes.txt", "notes.parquet", "report/1.json", "train/0.json")
    moved = ("1.json", "train/mine.parquet")
    for name in (*left, *moved):
        (made.path / name).write_text("laid here")
    assert store.find("tables", made.key or "") == made
    assert all((made.path / name).exists() for name in left)
    for number, name in enumerate(moved, 1):
        aside = store.root / ".damaged" / f"tables-{made.key}-{number}" / name
        assert not (made.path / name).exists() and aside.read_text() == "laid here"
        assert f"moved to {aside}" in caplog.text


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (lambda path: (path / "total.txt").write_text("13"), "total.txt differs from its digest"),
    "missing": (lambda path: (path / "total.txt").unlink(), "total.txt is missing"),
    "torn manifest": (lambda path: (path / "manifest.json").write_text('{"stage": "co'), "cannot be read"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_result_is_moved_aside_and_computed_again(
    store: Store, text: Artifact, caplog, damage, said
):
    damaged = run(store, text)
    for number in (1, 2):  # what was moved before stays
        (damaged.path / "notes.txt").write_text(f"lies beside {number}")
        damage(damaged.path)
        assert store.find(count.name, damaged.key or "") is None
        aside = store.root / ".damaged" / f"count-{damaged.key}-{number}"
        assert (aside / "notes.txt").read_text() == f"lies beside {number}"
        assert said in caplog.messages[-1] and f"moved to {aside}" in caplog.messages[-1]
        assert (run(store, text).path / "total.txt").read_text() == "12"


def test_a_torn_manifest_hides_no_other_result(store: Store, text: Artifact):
    """From whoever looks through the store: plans, lineage, and stages that go on from an earlier result."""
    torn, whole, moved = (run(store, text, step) for step in (1, 2, 3))
    (torn.path / "manifest.json").write_bytes(b'{"stage": "count", \xff')
    (moved.path / "total.txt").unlink()
    assert store.find(count.name, moved.key or "") is None
    assert [path for path, _ in store.manifests()] == [whole.path]
    assert [result.path for result in read_results(store)] == [whole.path]


def test_a_manifest_of_something_else_is_no_manifest(tmp_path: Path):
    """A user's folder may hold a file of that name."""
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    assert expected(external("mine", tmp_path)).facts == {}


def test_a_result_without_its_manifest_does_not_count(store: Store, text: Artifact):
    done = run(store, text)
    (done.path / "manifest.json").unlink()
    assert not store.has(count.name, done.key or "")


def test_metrics_are_kept_and_told_again_from_the_store(store: Store, text: Artifact):
    heard: list[tuple[dict[str, float], int | None]] = []

    class Ear(Silent):
        def metrics(self, values, step=None):
            heard.append((dict(values), step))

    run(store, text)
    run_stage(count, CountConfig(), {"texts": (text,)}, store, Ear())
    assert heard == [({"total": 12}, 1)]


def test_a_folder_inside_a_result_has_a_digest_of_its_own(store: Store, text: Artifact):
    whole = run(store, text)
    assert whole.inside("a").digest != whole.inside("b").digest
    assert whole.inside("a").path == whole.path / "a"


def test_a_lock_is_seen_while_it_is_held(tmp_path: Path):
    store = Store(tmp_path)
    assert not store.is_locked("a")
    with store.locked("a"):
        assert store.is_locked("a")
    assert not store.is_locked("a")


def test_checkpoints_go_when_the_result_is_published_and_not_before(store: Store):
    facts = {"config": {}, "inputs": {}, "summary": {}, "versions": {}, "seconds": 1.0, "peak_memory": 1}
    partial = store.partial("distill", "key")
    (partial / "model").write_text("weights")
    (partial / "checkpoints").mkdir()
    (partial / "checkpoints" / "state").write_text("of step 7")
    in_the_way = store.path("distill", "key")
    in_the_way.mkdir(parents=True)
    (in_the_way / "left").touch()
    with pytest.raises(OSError, match="not empty"):  # cut off after all but the last rename
        store.publish("distill", "key", **facts)
    again = store.partial("distill", "key")
    assert (again / "checkpoints" / "state").read_text() == "of step 7"
    (in_the_way / "left").unlink()
    published = store.publish("distill", "key", **facts)
    files = sorted(path.name for path in store.root.rglob("*") if path.is_file())
    assert files == ["manifest.json", "model"]
    assert store.find("distill", "key") == published
