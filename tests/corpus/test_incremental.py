"""Corpora that grow, runs that are killed, and executors: the work is done once, and comes out the same."""

import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.store import Artifact, Store, content_digest, digest_files
from leanpipe.corpus.clean import CleanConfig, clean
from leanpipe.corpus.incremental import find_base_corpus
from leanpipe.corpus.passes.execution import ExecutionConfig, slurm_executor
from leanpipe.processes.run_stage import run_stage
from tests.support.file_indexes import listed
from tests.support.tiny_models import tiny_text

ROOT = Path(__file__).parents[2]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, text in enumerate(tiny_text()[:40]):
        (folder / f"{number:02}.txt").write_text(text)
    return folder


def cleaned(corpus: Path, root: Path, **execution) -> Artifact:
    """The stage as a flow runs it: with the base that the store has for it."""
    store = Store(root / "store")
    lines = {"text_files": "lines"} if (corpus / "0.txt").exists() else {}
    off = {"enabled": False}
    sections = {"read": lines, "quality": off, "repetition": off}
    config = CleanConfig.model_validate(sections | {"execution": {"workers": 1} | execution})
    given = (listed(corpus, root / "listings"),)
    base = find_base_corpus(clean, store, config, {"corpus": given})
    inputs = {"corpus": given} | ({"base": base} if base else {})
    return run_stage(clean, config, inputs, store, Silent())


def account(artifact: Artifact) -> pandas.DataFrame:
    paths = sorted((artifact.path / "account").iterdir())
    return pandas.concat([pandas.read_parquet(path) for path in paths]).set_index("source")


def kept(artifact: Artifact) -> pandas.DataFrame:
    paths = [path for split in ("train", "validation", "test") for path in (artifact.path / split).iterdir()]
    return pandas.concat([pandas.read_parquet(path) for path in paths]).set_index("source").sort_index()


def test_only_new_files_are_read_when_a_corpus_has_grown(corpus: Path, tmp_path: Path):
    first = cleaned(corpus, tmp_path)
    (corpus / "zz-new.txt").write_text(tiny_text()[50])
    (corpus / "zz-same.txt").write_text(tiny_text()[3])
    (corpus / "zz-near.txt").write_text(tiny_text()[8] + "\n\nOne more line.")
    second = cleaned(corpus, tmp_path)
    assert second.summary["files_read"] == 3
    assert second.summary["documents_in"] == first.summary["documents_in"] + 3
    rules = account(second).rule
    assert rules["zz-new.txt"] == ""
    assert rules["zz-same.txt"] == "duplicates.exact"
    assert rules["zz-near.txt"] == "duplicates.near"
    assert kept(second).drop("zz-new.txt").equals(kept(first))
    # The old texts are the very same files.
    assert (second.path / "train/00000.parquet").samefile(first.path / "train/00000.parquet")


def test_what_was_laid_into_a_result_does_not_get_into_the_next(corpus: Path, tmp_path: Path):
    first = cleaned(corpus, tmp_path)
    shutil.copy(first.path / "train/00000.parquet", first.path / "train/mine.parquet")
    (first.path / "train/notes.txt").write_text("mine")
    (corpus / "zz-new.txt").write_text(tiny_text()[50])
    second = cleaned(corpus, tmp_path)
    assert second.summary["files_read"] == 1 and (first.path / "train/notes.txt").exists()
    assert sorted(path.name for path in (second.path / "train").iterdir()) == [
        "00000.parquet",
        "00001.parquet",
    ]


def test_a_corpus_that_did_not_change_is_found_in_the_store_also_after_it_grew(corpus: Path, tmp_path: Path):
    cleaned(corpus, tmp_path)
    (corpus / "zz-new.txt").write_text(tiny_text()[50])
    second = cleaned(corpus, tmp_path)
    assert cleaned(corpus, tmp_path).key == second.key


def test_text_that_was_taken_away_does_not_stay(corpus: Path, tmp_path: Path):
    cleaned(corpus, tmp_path)
    (corpus / "07.txt").unlink()
    (corpus / "08.txt").write_text(tiny_text()[60])
    again = cleaned(corpus, tmp_path)
    assert again.summary["files_read"] == 39
    assert "07.txt" not in kept(again).index and kept(again).text["08.txt"].startswith(tiny_text()[60][:50])


def test_other_settings_begin_anew(corpus: Path, tmp_path: Path):
    cleaned(corpus, tmp_path)
    (corpus / "zz-new.txt").write_text(tiny_text()[50])
    assert cleaned(corpus, tmp_path, shard_megabytes=1).summary["files_read"] == 41


_RUN = """
import sys
from pathlib import Path
from tests.corpus import test_incremental as test_growth
test_growth.cleaned(Path(sys.argv[1]), Path(sys.argv[2]), shard_megabytes=1)
"""


def test_a_killed_run_goes_on_at_the_shard_it_was_in(tmp_path: Path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for shard in range(4):
        lines = (f"{shard} {number} {text}" for number, text in enumerate(tiny_text()[:40]))
        (corpus / f"{shard}.txt").write_text(
            "\n".join(" ".join(line.split()) for line in lines) * 5 + "x" * 500_000
        )
    command = [sys.executable, "-c", _RUN, corpus, tmp_path / "killed"]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        finished = _wait_for_shards(tmp_path / "killed", process, 2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    stamps = {path: (path / "account.parquet").stat().st_mtime_ns for path in finished}
    assert 2 <= len(stamps) < 4
    watched = multiprocessing.Process(target=_note, args=(list(stamps), tmp_path / "seen"))
    watched.start()
    subprocess.run(command, cwd=ROOT, check=True)
    watched.join(20)
    seen = dict(line.rsplit(" ", 1) for line in (tmp_path / "seen").read_text().splitlines())
    assert seen == {str(path): str(stamp) for path, stamp in stamps.items()}
    (resumed,) = (tmp_path / "killed/store/clean").iterdir()
    whole = cleaned(corpus, tmp_path / "whole", shard_megabytes=1)
    assert content_digest(digest_files(resumed)) == content_digest(digest_files(whole.path))


def _wait_for_shards(root: Path, process: subprocess.Popen, count: int) -> list[Path]:
    """The finished shards of a run, as soon as there are `count`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        finished = [path for path in root.glob("store/.partial/*/.work/first/0000?") if path.is_dir()]
        if len(finished) >= count:
            return finished
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    raise AssertionError("no shard was finished")


def _note(paths: list[Path], into: Path) -> None:
    """Write down when these shards were written, as last seen before they are gone."""
    stamps: dict[Path, int] = {}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in paths:
            try:
                stamps[path] = (path / "account.parquet").stat().st_mtime_ns
            except FileNotFoundError:
                into.write_text("\n".join(f"{path} {stamp}" for path, stamp in stamps.items()))
                return
        time.sleep(0.01)


@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.chaos)])
def test_every_executor_gives_the_same_documents(executor: str, tmp_path: Path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for shard in range(3):
        lines = (f"{shard} {text}" for text in tiny_text()[shard * 10 : shard * 10 + 20])
        text = "\n".join(" ".join(line.split()) for line in lines)
        (corpus / f"{shard}.txt").write_text(text + "x" * 800_000)
    here = cleaned(corpus, tmp_path / "here", shard_megabytes=1)
    there = cleaned(corpus, tmp_path / "there", shard_megabytes=1, executor=executor, workers=2)
    assert len(list((here.path / "account").iterdir())) == 3
    assert content_digest(digest_files(here.path)) == content_digest(digest_files(there.path))


def test_slurm_is_refused_where_there_is_none(corpus: Path, tmp_path: Path):
    if shutil.which("sbatch"):
        pytest.skip("there is a Slurm here")
    with pytest.raises(UserError, match="there is no sbatch here"):
        cleaned(corpus, tmp_path, executor="slurm")


def test_what_is_asked_of_slurm(tmp_path: Path):
    config = ExecutionConfig(executor="slurm", slurm_partition="gpu", slurm_hours=3, workers=2)
    asked = slurm_executor(print, 5, config, tmp_path).get_sbatch_args()
    assert asked["partition"] == "gpu" and asked["time"] == "3:00:00"
