"""Corpora as `clean` is given them: listings of their files."""

from pathlib import Path

from leanpipe.store import Artifact
from leanpipe.text.listing import list_corpus, listing_digest
from leanpipe.text.readlog import ReadLog


def listed(place: Path | str, folder: Path, number: int = 0) -> Artifact:
    """The listing of what is at `place` now, written into `folder`."""
    listing = list_corpus(str(place), ReadLog(), corpus=number)
    digest = listing_digest(listing)
    path = folder / f"{digest[:16]}-{number}.json"
    listing.save(path)
    return Artifact(name=str(place), path=path, digest=digest)
