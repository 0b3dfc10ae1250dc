from pathlib import Path

import pytest

from leanpipe.core.report import Silent
from leanpipe.core.store import Artifact, Store, external
from leanpipe.processes.run_stage import run_stage
from tests.support.sample_stages import CountConfig, count


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


def test_a_damaged_result_is_computed_again(store: Store, text: Artifact):
    damaged = run(store, text)
    (damaged.path / "total.txt").write_text("13")
    assert store.find(count.name, damaged.key or "") is None
    assert (run(store, text).path / "total.txt").read_text() == "12"


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
