"""Pages of manuals of many hands and many tools, which Debian packages: fetched by name, never installed."""

import io
import random
import re
import subprocess
import tarfile
from collections.abc import Iterator

from benchmarks.pages import PAGES

OF_EACH = 14  # pages of a manual
LARGEST = 120_000  # bytes of such a page
MANUALS = (
    "apache2-doc aptitude-doc-en cmake-doc debian-policy debian-reference-en developers-reference docbook-xsl-doc-html "
    "exim4-doc-html gimp-help-en git-doc graphviz-doc libglib2.0-doc libgtk-3-doc libxml2-doc lilypond-doc-html maxima-doc "
    "nodejs-doc octave-doc openjdk-17-doc python-django-doc python-flask-doc python-jinja2-doc python-pandas-doc "
    "python-requests-doc python-sqlalchemy-doc python-werkzeug-doc rust-doc slime sphinx-doc sqlite3-doc varnish-doc vim-doc"
)
"""Packages. Python's own documentation is left out: it is for checking."""
OTHER_LANGUAGES = re.compile(r"[/.](?:ca|cs|de|es|fr|hu|it|ja|ko|nl|pt-br|tr|zh-cn)[/.]")


def pages() -> Iterator[tuple[str, str]]:
    """Some pages of each package, by its name; the same every time."""
    for package in MANUALS.split():
        dice = random.Random(package)
        chosen: list[bytes] = []
        for number, data in enumerate(html_of(package)):
            if len(chosen) < OF_EACH:
                chosen.append(data)
            elif (place := dice.randrange(number + 1)) < OF_EACH:
                chosen[place] = data
        for data in chosen:
            yield package, data.decode(errors="replace")


def html_of(package: str) -> Iterator[bytes]:
    """All pages in a package that are neither tiny nor huge."""
    folder = PAGES / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    if not [*folder.glob(f"{package}_*.deb")]:
        subprocess.run(["apt-get", "-qq", "download", package], cwd=folder, check=True)
    (archive,) = folder.glob(f"{package}_*.deb")
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        for member in files:
            is_page = (
                member.isfile() and member.name.endswith((".html", ".htm")) and 1500 < member.size < LARGEST
            )
            if is_page and not OTHER_LANGUAGES.search(member.name):
                yield files.extractfile(member).read()  # type: ignore[union-attr]
