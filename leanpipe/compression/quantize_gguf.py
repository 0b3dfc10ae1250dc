"""A model folder whose weights are one GGUF file: config and tokenizer beside it are those of the model it was made of."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.compression.calibration import save_importance
from leanpipe.compression.gguf_export import GgufPlan, GgufTypes, Importance, plan_gguf, write_gguf
from leanpipe.compression.gguf_types import FOUR_BITS, WHOLE, sizes_of
from leanpipe.engines.open_engine import open_logits
from leanpipe.export.modelfile import write_modelfile
from leanpipe.export.provenance import weights_digest
from leanpipe.models.count import empty_model
from leanpipe.models.offload import GGUF_FILE

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def gguf_types(form: str, embeddings: str, whole: Sequence[str]) -> GgufTypes:
    """The types of a format: by default embeddings have 5 bits beside layers of 4, and 8 beside others."""
    if embeddings == "auto":
        embeddings = "q5_0" if form in FOUR_BITS else "q8_0"
    return GgufTypes(form, "q8_0" if form == "q8_0" else embeddings, frozenset(whole))


def plan_folder(
    config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase", types: GgufTypes
) -> GgufPlan:
    """Say what the file of a model with this config would hold, without its weights."""
    return plan_gguf(empty_model(config), tokenizer, types)


def described(plan: GgufPlan) -> str:
    """The stored types of a plan with their bytes, for people: never the label alone."""
    types = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in plan.types.items())
    instead = "".join(f"; {_told(plan, *pair, count)}" for pair, count in plan.replaced.items())
    return f"{plan.bytes / 1e6:.1f} MB, {plan.bits_per_weight:.2f} bits a weight ({types}{instead})"


def _told(plan: GgufPlan, asked: str, stored: str, count: int) -> str:
    rows = sorted({one.shape[-1] for one in plan.tensors if (one.asked, one.type) == (asked, stored)})
    lengths = " and ".join(map(str, rows[:3])) + (" and others" if len(rows) > 3 else "")
    block = sizes_of(asked)[0] if stored != WHOLE else 32
    return f"{asked}: {count} of {len(plan.tensors)} weights have rows of {lengths}, no multiple of {block}, and become {stored}"


def write_folder(
    source: "PreTrainedModel",
    target: Path,
    types: GgufTypes,
    tokenizer: "PreTrainedTokenizerBase",
    importance: Importance | None = None,
) -> GgufPlan:
    """Write the model, its config and its tokenizer to `target`. What is not whole does not look like a model."""
    target.mkdir(parents=True, exist_ok=True)
    known = weights_digest(Path(source.name_or_path)) if source.name_or_path else ""
    plan = write_gguf(source, tokenizer, types, target / GGUF_FILE, importance=importance, made_of=known)
    if importance:
        save_importance(importance, target)
    tokenizer.save_pretrained(target)
    if source.generation_config is not None:
        source.generation_config.save_pretrained(target)
    source.config.save_pretrained(target)
    write_modelfile(target, tokenizer, source)
    log.info("%s: %s", target.name, described(plan))
    return plan


def engine_logits(folder: Path, tokens: "torch.Tensor") -> "torch.Tensor":
    """Logits [1, T, V] that the engine of a GGUF or ONNX folder gives for token ids [1, T]."""
    return open_logits(folder, tokens.shape[1])(tokens[0].tolist())[None]
