"""A GGUF file becomes a model folder, once: reading its tokenizer alone takes half a minute."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import refused_if_unreadable
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage
from leanpipe.models.card import Told, write_card


class ImportGgufConfig(StageConfig):
    """How a GGUF file is read."""

    dtype: str = Field("bfloat16", pattern="^(bfloat16|float32)$")
    """What the weights are stored in; those of a 4-bit file lose nothing that matters in bfloat16."""


@dataclass(frozen=True)
class ImportGgufInputs:
    """`gguf` is the file."""

    gguf: Path


@stage(version=2, uses_device=True, depends_on=())
def import_gguf(config: ImportGgufConfig, inputs: ImportGgufInputs, out: Path, report: Report) -> Summary:
    """Write the model, tokenizer and chat template of a GGUF file as a model folder in `out`, with a card of what it says of itself."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from leanpipe.models.load import save_model

    where = {"pretrained_model_name_or_path": inputs.gguf.parent, "gguf_file": inputs.gguf.name}
    with refused_if_unreadable(f"the GGUF file {inputs.gguf}", "give one with a language model, whole"):
        loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        said, told = _read_metadata(inputs.gguf)
    model = _without_quantization(loaded)
    # A card that lies beside the file is no part of what this is made of, and of what it is stored by.
    save_model(model, tokenizer, out, getattr(torch, config.dtype), made_of=())
    _write_card(said, told, out)
    return {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}


def _read_metadata(gguf: Path) -> tuple[dict[str, str], Told]:
    """Return what the file says of the model in words, and what of that is its licence and its base models."""
    from gguf import GGUFReader

    from leanpipe.export.gguf_licence import gguf_texts, read_gguf_licence

    reader = GGUFReader(gguf)
    return gguf_texts(reader), read_gguf_licence(reader)


def _write_card(said: dict[str, str], told: Told, out: Path) -> None:
    """Write the card of a file that says this of itself; none if it says nothing."""
    if not said:
        return
    name = said.get("general.name", "")
    facts = ({"model_name": name} if name else {}) | told
    lines = "\n".join(f"- {key}: {' '.join(text.split())}" for key, text in said.items())
    write_card(
        out,
        facts,
        f"# {name or 'A model'}\n\nRead by leanpipe from a GGUF file, which says of the model:\n\n{lines}",
    )


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
