"""Runs the tests of what changed since main, for as long as one waits without looking away: `make quick`."""

import signal
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from tests import house

ALWAYS = ("tests/test_house.py", "tests/flows/test_forms.py")
# Servers, containers, several processes that train together: more than the whole bound by themselves.
SLOW = (
    "tests/docker/*",
    "tests/flows/test_end_to_end.py",
    "tests/flows/test_every_field.py",
    "tests/flows/test_run_pages.py",
    "tests/training/*test_processes.py",
    "tests/training/*test_resume.py",
)
SECONDS = 90
MAIN = ("main", "origin/main")


class Choice(NamedTuple):
    """Test files to run, and those that were left out for being slow."""

    chosen: list[str]
    slow: list[str]


def changed_files(root: Path) -> list[str]:
    """Files that differ from where this branch left main (on main: from the commit before), committed or not."""
    start = next((base for main in MAIN if (base := git(root, "merge-base", "HEAD", main))), "")
    if start in ("", git(root, "rev-parse", "HEAD")):
        start = git(root, "rev-parse", "HEAD~")
    differing = git(root, "diff", "--name-only", "--diff-filter=d", *([start] if start else []))
    return sorted(
        {*differing.splitlines(), *git(root, "ls-files", "--others", "--exclude-standard").splitlines()}
    )


def git(root: Path, *arguments: str) -> str:
    """What git answers, or nothing where it has no answer."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def choose_tests(root: Path, changed: list[str]) -> Choice:
    """The test files that changed, that import a changed module, or that have its name, by path."""
    changed_modules = {module_name(path) for path in changed if path.endswith(".py")}
    known = {module.name for module in house.read_modules(root, *house.PACKAGES, "tests", "benchmarks")}
    mirrors = {mirror for path in changed for mirror in mirrors_of(path)}
    found = []
    for module in house.read_modules(root, "tests"):
        path = str(module.path)
        imported = {resolve(name, known) for _, name in house.imports(module)}
        if is_test(path) and (path in changed or path in mirrors or imported & changed_modules):
            found.append(path)
    slow = [path for path in found if is_slow(path)]
    return Choice([path for path in found if path not in slow and path not in ALWAYS], slow)


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def resolve(name: str, known: set[str]) -> str:
    """The module that an import of `name` reads: `name` itself or what it is taken from."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def mirrors_of(path: str) -> list[str]:
    """Where the tests of a module are by the tree's own rule: its path below tests/, without leanpipe."""
    folder, _, file = path.removeprefix("leanpipe/").rpartition("/")
    return ["/".join(part for part in ("tests", folder, f"test_{file}") if part)]


def is_test(path: str) -> bool:
    return path.startswith("tests/") and path.rpartition("/")[2].startswith("test_")


def is_slow(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in SLOW)


def run(root: Path, seconds: float) -> int:
    """Run them, up to the first that fails or until time is up; the status to end with."""
    choice = choose_tests(root, changed_files(root))
    for path in choice.slow:
        print(f"left out for being slow: {path}")
    command = [sys.executable, "-m", "pytest", "--maxfail=1", *ALWAYS, *choice.chosen]
    with subprocess.Popen(command, cwd=root) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
    # pytest would have ended at the first failure.
    print(f"{seconds:.0f} seconds are over, and nothing has failed so far: `make test` runs the rest")
    return 0


if __name__ == "__main__":
    sys.exit(run(house.ROOT, SECONDS))
