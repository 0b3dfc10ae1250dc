"""Whatever a person typed, fed or deleted ends in one sentence that says what, where and what to do, and in no traceback."""

import hashlib
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.flows.bad_inputs import LONG, Case, in_one_process, write_material
from tests.flows.servers import ROOT, environment
from tests.support.small_disk import SMALL_DISK_BYTES, small_disk

__all__ = ["small_disk"]

pytestmark = pytest.mark.timeout(900)


def check(name: str, case: Case, code: int, out: str, err: str) -> list[str]:
    """What is wrong with how a command ended."""
    lines = [line for line in err.splitlines() if line.startswith("leanpipe: ")]
    faults = {
        f"ended with {code}": code not in (1, 2),
        "a traceback": "Traceback" in out + err,
        f"{len(lines)} sentences": len(lines) != 1 or not err.rstrip().endswith(lines[-1]),
        f"not said: {case.says}": not lines or case.says not in lines[-1],
    }
    found = [fault for fault, there in faults.items() if there]
    return [f"{name}: {', '.join(found)}\n{err[-1500:]}"] if found else []


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that others may enter, unlike pytest's own: one of the commands is somebody else's."""
    with tempfile.TemporaryDirectory(prefix="leanpipe-bad-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        write_material(folder)
        yield folder
        (folder / "corpora" / "closed").chmod(0o755)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.chaos), 3])
def test_what_a_person_typed_or_fed_ends_in_one_sentence(folder: Path, every: int):
    """A third of them, in no order of kinds; all of them take three minutes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = in_one_process(folder, taken.getsockname()[1])
        names = sorted(known, key=lambda name: hashlib.sha256(name.encode()).digest())[::every]
        cases = {name: known[name] for name in names}
        ended = run_in_one_process(cases, folder)
    assert len(known) >= 120 and set(ended) == set(cases)
    faults = [fault for name, end in ended.items() for fault in check(name, cases[name], **end)]
    assert not faults, "\n".join(faults)


def run_in_one_process(cases: dict[str, Case], folder: Path) -> dict[str, Any]:
    """What became of each command: see command_host.py."""
    given, results = folder / "cases.json", folder / "out" / "results.json"
    results.parent.mkdir(mode=0o777, exist_ok=True)
    results.parent.chmod(0o777)
    given.write_text(json.dumps({name: case._asdict() for name, case in cases.items()}))
    done = subprocess.run(
        [sys.executable, "-m", "tests.flows.command_host", str(given), str(results)],
        cwd=ROOT,
        env=environment(folder / "home"),
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(results.read_text())


def alone(folder: Path) -> dict[str, tuple[Case, Path]]:
    """Homes, servers and settings of the environment that are not what they should be, each with its own home."""
    homes = {
        name: folder / "homes" / name for name in ("file", "store", "servers", "mlflow", "prefect", "fine")
    }
    for home in homes.values():
        home.mkdir(parents=True)
    homes["file"].rmdir()
    homes["file"].write_text("no folder")
    (homes["store"] / "store").write_text("no folder")
    (homes["servers"] / "servers.json").write_text("{")
    (homes["mlflow"] / "mlflow.db").write_bytes(b"no database, but bytes" * 99)
    smoke = ["inspect", "--preset", "smoke", "--corpus", str(folder / "corpora" / "good")]
    mask = ["show-mask", "--model", str(folder / "models" / "good"), "--instructions", "/nowhere.json"]
    away = "http://127.0.0.1:9"
    return {
        "home-is-a-file": (Case(smoke, "which is no folder"), homes["file"]),
        "home-in-a-file": (Case(mask, "which is no folder"), homes["file"] / "deeper"),
        "store-is-a-file": (Case(smoke, "is no folder"), homes["store"]),
        "home-too-long": (Case(["serve"], "which is no folder"), folder / LONG),
        "up-in-a-file": (Case(["up"], "which is no folder"), homes["file"]),
        "servers-file-is-cut": (Case(mask, "/nowhere.json does not exist"), homes["servers"]),
        "no-prefect": (
            Case(smoke, "no Prefect server answers", {"PREFECT_API_URL": f"{away}/api"}),
            homes["fine"],
        ),
        "no-prefect-address": (
            Case(smoke, "no Prefect server answers", {"PREFECT_API_URL": "x"}),
            homes["fine"],
        ),
        "no-mlflow": (Case(["serve"], away, {"MLFLOW_TRACKING_URI": away}), homes["fine"]),
        "no-mlflow-address": (
            Case(["serve"], "nosuch://x", {"MLFLOW_TRACKING_URI": "nosuch://x"}),
            homes["fine"],
        ),
        "no-database": (Case(["serve"], "mlflow.db"), homes["mlflow"]),
        "nothing-registered": (Case(["serve"], "run the pipeline first"), homes["fine"]),
    }


def test_a_home_or_a_server_that_is_not_what_it_should_be_is_said_in_one_sentence(folder: Path):
    """Each in a process of its own, as a shell starts it."""
    cases = alone(folder)
    with ThreadPoolExecutor(2) as pool:
        faults = [fault for found in pool.map(lambda one: start(one, *cases[one]), cases) for fault in found]
    assert len(cases) >= 10 and not faults, "\n".join(faults)


def start(name: str, case: Case, home: Path) -> list[str]:
    """Run the command, and say what is wrong with how it ended."""
    done = subprocess.run(
        [Path(sys.executable).parent / "leanpipe", *case.arguments],
        env=environment(home) | case.environment | {"LEANPIPE_MLFLOW_PATIENCE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return check(name, case, done.returncode, done.stdout, done.stderr)


def test_a_disk_that_is_full_is_said_in_one_sentence(folder: Path, small_disk: Path):
    (small_disk / "filler").write_bytes(bytes(SMALL_DISK_BYTES - 300_000))
    good = folder / "corpora" / "good"
    case = Case(["inspect", "--preset", "smoke", "--corpus", str(good)], "is full: 0.")
    faults = start("full", case, small_disk / "home")
    assert not faults, "\n".join(faults)
