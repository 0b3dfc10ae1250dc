"""A corpus that grew: which earlier result already holds most of it, so that only what is new need be read."""

from leanpipe.core.stage import Inputs, Stage, results, several
from leanpipe.core.store import Artifact, Manifest, Store
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.passes.publish import BaseCorpus, file_identity
from leanpipe.corpus.sources.file_index import FileIndex


def find_base_corpus(stage: Stage, store: Store, config: CleanConfig, inputs: Inputs) -> Artifact | None:
    """Find the earlier result of `clean` that holds most of the files in the input `corpus`; None if there is none.

    It has the same settings, evaluation sets and earlier splits, and all of its files are still in the corpus, unchanged: text that
    somebody took away must not stay. Of several, the one that holds most. If one holds all, that one's own base, so
    that the same result is found in the store.
    """
    wanted = {
        file_identity(file)
        for artifact in several(inputs, "corpus")
        for file in FileIndex.load(artifact.path).files
    }
    same_inputs = {role: [one.digest for one in several(inputs, role)] for role in ("evaluations", "earlier")}
    found: list[tuple[int, float, Manifest]] = []
    for path, manifest in results(stage, config, store):
        same = all(manifest.inputs.get(role, []) == digests for role, digests in same_inputs.items())
        if same and (held := BaseCorpus.load(path).files) <= wanted:
            found.append((len(held), path.stat().st_mtime, manifest))
    if not found:
        return None
    most, _, manifest = max(found, key=lambda one: one[:2])
    if most < len(wanted):
        return store.find(manifest.stage, manifest.key)
    base = manifest.inputs.get("base")
    return Artifact(name="base", path=store.root, digest=base) if base else None
