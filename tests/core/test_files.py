"""Files that are whole or not there, on a real disk and with a process that is really killed."""

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from leanpipe.core.files import link_or_copy, publish_folder, remove_partials, write_text, written_whole


def test_a_file_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "state.json"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two" and [one.name for one in tmp_path.iterdir()] == ["state.json"]


def test_what_failed_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "state.json"
    write_text(path, "one")
    with pytest.raises(ZeroDivisionError), written_whole(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "one" and [one.name for one in tmp_path.iterdir()] == ["state.json"]


def test_a_killed_writer_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "state.json"
    write_text(path, "one")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from leanpipe.core.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL and path.read_text() == "one"
    remove_partials(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["state.json"]


def test_two_that_write_the_same_file_at_once_do_not_disturb_each_other(tmp_path: Path):
    path = tmp_path / "state.json"
    with written_whole(path) as first, written_whole(path) as second:
        first.write_text("one")
        second.write_text("two")
    assert path.read_text() == "one" and [one.name for one in tmp_path.iterdir()] == ["state.json"]

    def write(number: int) -> None:
        write_text(path, str(number) * 1_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set(path.read_text())) == 1 and len(path.read_text()) == 1_000


def test_a_folder_appears_at_once_with_its_parents(tmp_path: Path):
    partial = tmp_path / "work"
    (partial / "inner").mkdir(parents=True)
    (partial / "inner" / "a").write_text("a")
    publish_folder(partial, tmp_path / "store" / "key")
    assert (tmp_path / "store" / "key" / "inner" / "a").read_text() == "a" and not partial.exists()


def test_a_link_takes_no_space_and_another_file_system_gets_a_copy(tmp_path: Path):
    source = tmp_path / "source"
    source.write_text("text")
    link_or_copy(source, tmp_path / "deep" / "link")
    assert (tmp_path / "deep" / "link").stat().st_ino == source.stat().st_ino
    with pytest.raises(FileExistsError):
        link_or_copy(source, tmp_path / "deep" / "link")
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    target = shm / f"leanpipe-{os.getpid()}"
    try:
        with pytest.raises(OSError) as refused:
            os.link(source, target)
        assert refused.value.errno == errno.EXDEV
        link_or_copy(source, target)
        assert target.read_text() == "text"
    finally:
        target.unlink(missing_ok=True)
