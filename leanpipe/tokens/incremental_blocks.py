"""A corpus that grew: which earlier result holds the blocks of what was in it before."""

from leanpipe.core.stage import results
from leanpipe.core.store import Artifact, Store
from leanpipe.tokens.tokenize import TokenizeConfig, tokenize


def find_base_blocks(store: Store, config: TokenizeConfig, teacher: Artifact) -> Artifact | None:
    """Find the newest result of `tokenize` with these settings and this teacher, to give to it as its `base`.

    Which of its blocks fit the documents at hand is told by their shards' keys.
    """
    found = [
        (path.stat().st_mtime, manifest.key)
        for path, manifest in results(tokenize, config, store)
        if manifest.inputs["teacher"] == teacher.digest
    ]
    return store.find(tokenize.name, max(found)[1]) if found else None
