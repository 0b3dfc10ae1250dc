"""A model folder with fewer rows in its embeddings and head, and a tokenizer that has only the tokens that stay."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.models.count import whole_parameters
from leanpipe.models.load import load_on_host, load_tokenizer
from leanpipe.training.vocabulary.cut_tokenizer import CutTokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

KEPT = "kept_tokens.json"
"""In the folder of a model that was cut: the old id of each of its tokens."""


def write_cut_model(model: Path, out: Path, tokenizer: CutTokenizer, kept: set[int]) -> list[int]:
    """Write the model in the folder `model` with the tokens `kept` and their parts only; give their old ids.

    Weights keep their type. What a model of the other tokens' size would have is still in its config, for sizes that are a
    share of it (`whole_parameters`).
    """
    described, old = tokenizer.cut(kept)
    whole = load_on_host(model)
    whole.config.uncut_parameters = whole_parameters(whole.config)
    keep_rows(whole, old)
    whole.save_pretrained(out)
    load_tokenizer(model).save_pretrained(out)
    (out / "tokenizer.json").write_text(json.dumps(described, ensure_ascii=False))
    _renumber_decoder(out / "tokenizer_config.json", {index: number for number, index in enumerate(old)})
    (out / KEPT).write_text(json.dumps(old))
    return old


def keep_rows(model: "PreTrainedModel", kept: list[int]) -> None:
    """Leave the model the rows `kept` of its embeddings and head, in this order, and its special tokens their new ids."""
    import torch

    head = model.get_output_embeddings()
    rows = {"embeddings": model.get_input_embeddings().weight, "head": head.weight, "bias": head.bias}
    saved = {name: value.detach()[kept].clone() for name, value in rows.items() if value is not None}
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(saved["embeddings"])
        model.get_output_embeddings().weight.copy_(saved["head"])
        if "bias" in saved:
            model.get_output_embeddings().bias.copy_(saved["bias"])
    new = {index: number for number, index in enumerate(kept)}
    for config in (model.config, model.config.get_text_config(), model.generation_config):
        _renumber(config, new)


def _renumber(config: "PretrainedConfig | Any", new: Mapping[int, int]) -> None:
    """Set every id of a token that the config names to its new one; None, or left out of a list, if that is gone."""
    for name, value in list(vars(config).items()):
        if not name.endswith(("token_id", "token_ids", "suppress_tokens")) or value is None:
            continue
        setattr(
            config,
            name,
            [new[one] for one in value if one in new] if isinstance(value, list) else new.get(value),
        )


def _renumber_decoder(file: Path, new: Mapping[int, int]) -> None:
    """Older configs list added tokens by their ids, too."""
    config = json.loads(file.read_text())
    if decoder := config.get("added_tokens_decoder"):
        config["added_tokens_decoder"] = {
            str(new[int(index)]): token for index, token in decoder.items() if int(index) in new
        }
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False))
