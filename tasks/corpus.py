"""The stages of the corpus, each given what earlier runs hold of it: only what is new is read."""

from typing import Any

from leanpipe.core.store import Artifact
from leanpipe.corpus.clean import clean
from leanpipe.corpus.incremental import find_base_corpus
from leanpipe.settings.flows import CorpusSettings, TokenSettings
from leanpipe.tokens.incremental_blocks import find_base_blocks
from leanpipe.tokens.tokenize import tokenize
from tasks.resolve import Given
from tasks.run import Run


def cleaned(run: Run, settings: CorpusSettings, given: Given) -> Artifact:
    """The stage `clean` on what is given."""
    base = find_base_corpus(run.store, settings.clean, given.corpus, given.evaluations)
    inputs: dict[str, Any] = {"corpus": given.corpus}
    inputs |= {"base": base} if base else {}
    inputs |= {"evaluations": given.evaluations} if given.evaluations else {}
    return run.stage(clean, settings.clean, **inputs)


def tokenized(run: Run, settings: TokenSettings, given: Given, documents: Artifact) -> Artifact:
    """The stage `tokenize` on the cleaned `documents`."""
    base = find_base_blocks(run.store, settings.tokenize, given.model)
    inputs: dict[str, Any] = {"documents": documents, "teacher": given.model}
    inputs |= {"base": base} if base else {}
    return run.stage(tokenize, settings.tokenize, **inputs)
