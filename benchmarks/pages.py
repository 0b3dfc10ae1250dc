"""Real web pages to measure on: English documentation that Debian packages, fetched by name and unpacked under
`benchmarks/.pages`, never installed."""

import subprocess
from pathlib import Path

PAGES = Path(__file__).parent / ".pages"
FOLDERS = {
    "debian-handbook": "usr/share/doc/debian-handbook/html/en-US",
    "postgresql-doc-15": "usr/share/doc/postgresql-doc-15/html",
}


def folders() -> list[Path]:
    """Folders of HTML pages, one per package. Needs apt."""
    for package, inside in FOLDERS.items():
        if not (PAGES / inside).is_dir():
            PAGES.mkdir(exist_ok=True)
            subprocess.run(["apt-get", "-qq", "download", package], cwd=PAGES, check=True)
            for archive in PAGES.glob(f"{package}_*.deb"):
                subprocess.run(["dpkg", "-x", archive, PAGES], check=True)
    return [PAGES / inside for inside in FOLDERS.values()]


def pages(most: int | None = None) -> list[Path]:
    """HTML files of all packages, evenly drawn if there are more than `most`."""
    found = [path for folder in folders() for path in sorted(folder.rglob("*.html"))]
    step = max(1, len(found) // most) if most else 1
    return found[::step][:most]
