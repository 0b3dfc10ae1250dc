"""One trained tiny model, a form of each kind made of it, and two servers: one of them computes in too few bits."""

import shutil
from contextlib import nullcontext

import pytest

from leanpipe.evaluation.parity.served_answers import open_server
from tests.evaluation.parity.plants import round_weights
from tests.evaluation.parity.trained import FORMS, write_form, write_trained


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return write_trained(tmp_path_factory.mktemp("parity") / "trained")


@pytest.fixture(scope="session")
def step_before(tmp_path_factory):
    return write_trained(tmp_path_factory.mktemp("parity") / "before", steps=90)


@pytest.fixture(scope="session")
def forms(tmp_path_factory, trained):
    root = tmp_path_factory.mktemp("forms")
    return {form: write_form(form, trained, root / form) for form in FORMS}


@pytest.fixture(scope="session")
def url(forms):
    """The nf4 form, behind the server that `leanpipe serve` starts."""
    with open_server(forms["nf4"]) as url:
        yield url


@pytest.fixture(scope="session")
def coarse_engine(tmp_path_factory, forms):
    """Serves every folder as the same model multiplied in two bits, as an engine with a wrong setting would."""
    folder = tmp_path_factory.mktemp("coarse") / "model"
    shutil.copytree(forms["safetensors"], folder)
    round_weights(folder, levels=1)
    with open_server(folder) as url:
        yield lambda _: nullcontext(url)
