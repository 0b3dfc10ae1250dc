"""A GGUF model is compared with the trained one by every engine that may serve it here, before it is registered."""

import pytest

from leanpipe.core.store import external
from leanpipe.engines.open_engine import gguf_engines
from leanpipe.settings.flows import PipelineConfig
from tasks.promote import TRAINED, choose_sound
from tests.evaluation.parity.test_parity import CONFIG
from tests.evaluation.parity.trained import write_form, write_trained
from tests.tasks.test_served_step import Runs

FIGURES = {"bits_per_byte": 1.0, "bits_per_byte_error": 0.1, "size_bytes": 1_000, "held_out_digest": "0"}


def test_each_engine_that_may_serve_it_is_asked(tmp_path):
    pytest.importorskip("openvino_genai")
    folders = {TRAINED: write_trained(tmp_path / TRAINED, steps=60)}
    folders["q4_0"] = write_form("q4_0", folders[TRAINED], tmp_path / "q4_0")
    models = {label: external(label, path) for label, path in folders.items()}
    run = Runs(tmp_path / "store")
    smaller = {TRAINED: FIGURES, "q4_0": FIGURES | {"size_bytes": 500}}
    choice = choose_sound(run, PipelineConfig(parity=CONFIG), models, smaller, {})
    asked = {label: one.summary for label, one in run.results.items()}
    assert gguf_engines(folders["q4_0"]) == ("llama.cpp", "openvino")
    assert list(asked) == ["parity-q4_0", "parity-q4_0-openvino"]
    assert all(one["passed"] for one in asked.values()), asked
    assert asked["parity-q4_0"]["kl"] != asked["parity-q4_0-openvino"]["kl"]
    assert choice.label == "q4_0"
