"""A corpus that grew: which earlier result holds the blocks of what was in it before."""

from leanpipe.core.config import StageConfig
from leanpipe.core.stage import Inputs, Stage, results
from leanpipe.core.store import Artifact, Store


def find_base_blocks(stage: Stage, store: Store, config: StageConfig, inputs: Inputs) -> Artifact | None:
    """Find the newest result of `tokenize` with these settings and this teacher; None if there is none.

    Which of its blocks fit the documents at hand is told by their shards' keys.
    """
    digests = stage.digests(inputs)
    found = [
        (path.stat().st_mtime, manifest.key)
        for path, manifest in results(stage, config, store)
        if manifest.inputs["teacher"] == digests["teacher"]
    ]
    return store.find(stage.name, max(found)[1]) if found else None
