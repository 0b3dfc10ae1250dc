"""The chat templates of 70 real families of models, taken out of a package that carries them."""

import tarfile
import tempfile
from pathlib import Path

from leanpipe.assets.packages import Package, download
from leanpipe.core.store import digest_file

PACKAGE = Package("llama-cpp-python==0.3.36", {}, source=True)
DIGEST = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
KEPT = Path(__file__).parent / ".chat_templates"


def chat_templates() -> dict[str, str]:
    """Templates by the names of their models; downloaded once for each checkout."""
    if not KEPT.exists():
        with tempfile.TemporaryDirectory(dir=KEPT.parent) as scratch:
            (Path(scratch) / "archive").mkdir()
            archive = download(PACKAGE, Path(scratch) / "archive")
            assert digest_file(archive) == DIGEST
            _take_out(archive, Path(scratch) / "templates")
            (Path(scratch) / "templates").rename(KEPT)
    return {file.stem: file.read_text() for file in sorted(KEPT.glob("*.jinja"))}


def _take_out(archive: Path, folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(archive) as source:
        for member in source:
            if "/models/templates/" in member.name and member.name.endswith(".jinja"):
                file = source.extractfile(member)
                assert file is not None
                (folder / Path(member.name).name).write_bytes(file.read())
