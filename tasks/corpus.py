"""The stages of the corpus, each given what earlier runs hold of it: only what is new is read."""

from typing import Any

from leanpipe.core.store import Artifact
from leanpipe.corpus.clean import clean
from leanpipe.corpus.incremental import base_for
from leanpipe.settings.flows import CorpusSettings, TokenSettings
from leanpipe.tokens.incremental_blocks import blocks_before
from leanpipe.tokens.tokenize import tokenize
from tasks.resolve import Given
from tasks.run import Run


def cleaned(run: Run, settings: CorpusSettings, given: Given) -> Artifact:
    """The stage `clean` on what is given."""
    base = base_for(run.store, settings.clean, given.corpus, given.evaluations)
    inputs: dict[str, Any] = {"corpus": given.corpus}
    inputs |= {"base": base} if base else {}
    inputs |= {"evaluations": given.evaluations} if given.evaluations else {}
    return run.stage(clean, settings.clean, **inputs)


def tokenized(run: Run, settings: TokenSettings, given: Given, documents: Artifact) -> Artifact:
    """The stage `tokenize` on the cleaned `documents`."""
    base = blocks_before(run.store, settings.tokenize, given.model)
    inputs: dict[str, Any] = {"documents": documents, "teacher": given.model}
    inputs |= {"base": base} if base else {}
    return run.stage(tokenize, settings.tokenize, **inputs)
