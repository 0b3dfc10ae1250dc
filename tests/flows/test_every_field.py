"""No setting is read by nothing: with another value a stage does something else, or refuses it.

The values are in tests/flows/alternatives.py; what counts as something else is in tests/flows/workshop.py.
"""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from leanpipe.assets.resolve import resolve_corpus, resolve_instructions, resolve_model
from leanpipe.config import flatten
from leanpipe.errors import UserError
from leanpipe.evaluation.card import model_card
from leanpipe.evaluation.gate import RegisterConfig, beats, choose
from leanpipe.home import Home
from leanpipe.pipeline import CompareSettings, CompressSettings, FinetuneSettings, PipelineConfig
from tests.flows.alternatives import BASES, GIVEN, ROWS, SECTIONS
from tests.flows.material import write_corpus, write_instructions
from tests.flows.schemas import leaves
from tests.flows.workshop import STAGES, Fingerprint, Workshop, configured

SETTINGS = (PipelineConfig, FinetuneSettings, CompressSettings, CompareSettings)


def cases(sections: typing.Iterable[str]) -> list:
    """One case for each other value of each setting of the sections."""
    return [
        pytest.param(section, name, value, id=f"{section}.{name}={value}")
        for section in sections
        for name, row in SECTIONS[section].items()
        for value in row.values
    ]
