"""A GGUF file becomes a model folder, once: reading its tokenizer alone takes half a minute."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import refused_if_unreadable
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage


class ImportGgufConfig(StageConfig):
    """How a GGUF file is read."""

    dtype: str = Field("bfloat16", pattern="^(bfloat16|float32)$")
    """What the weights are stored in; those of a 4-bit file lose nothing that matters in bfloat16."""


@dataclass(frozen=True)
class ImportGgufInputs:
    """`gguf` is the file."""

    gguf: Path


@stage(version=1, uses_device=True, depends_on=())
def import_gguf(config: ImportGgufConfig, inputs: ImportGgufInputs, out: Path, report: Report) -> Summary:
    """Write the model, tokenizer and chat template of a GGUF file as a model folder in `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from leanpipe.models.load import save_model

    where = {"pretrained_model_name_or_path": inputs.gguf.parent, "gguf_file": inputs.gguf.name}
    with refused_if_unreadable(f"the GGUF file {inputs.gguf}", "give one with a language model, whole"):
        loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    model = _without_quantization(loaded)
    save_model(model, tokenizer, out, getattr(torch, config.dtype))
    return {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}


def _without_quantization(loaded):
    """The same weights in a model that can be saved: transformers refuses to save one that came from GGUF."""
    from transformers import AutoModelForCausalLM

    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    model = AutoModelForCausalLM.from_config(type(loaded.config)(**settings))
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    return model
