"""torchao is imported where weights of torchao are, and by no run that has nothing to do with it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchao", reason="torchao is not installed: pip install 'leanpipe[torchao]'")

ROOT = Path(__file__).parents[2]
_MODELS = """
import sys
import leanpipe
import torch, transformers.trainer, transformers.models.llama.modeling_llama, peft, accelerate
import transformers.quantizers.quantizer_torchao, transformers.integrations.torchao
assert "torchao" not in sys.modules
"""
_THEN_TORCHAO = """
from leanpipe.models.quantizers import check_quantizer
from transformers.integrations.torchao import is_metadata_torchao
check_quantizer("torchao", "this")
assert "torchao" in sys.modules
late = is_metadata_torchao({"format": "pt"})
from torchao.prototype.safetensors.safetensors_utils import is_metadata_torchao as real
assert real is not is_metadata_torchao and real({"format": "pt"}) == late
"""


def said_by(code: str) -> str:
    """What a fresh interpreter says that runs the code to its end."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_whoever_uses_it_gets_the_real_one_and_no_word_of_what_it_misses():
    said = said_by(_MODELS + _THEN_TORCHAO)
    assert not [word for word in ("_C_mxfp8", "_C_cutlass", "triton", "Enum subclass") if word in said], said
