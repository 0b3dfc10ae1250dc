"""Low-rank adapters through peft: put in, checked, and merged.

LoRA: Hu et al. 2021, arXiv 2106.09685. DoRA, which learns each output's size apart from its direction: Liu et al. 2024,
arXiv 2402.09353. rsLoRA, which divides by the root of the rank: Kalajdzievski 2023, arXiv 2312.03732. QLoRA, adapters on a
4-bit base: Dettmers et al. 2023, arXiv 2305.14314.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core import device
from leanpipe.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PretrainedConfig, PreTrainedModel

ALL_LINEAR = "all-linear"


def check_targets(config: "PretrainedConfig", targets: Sequence[str], model: object) -> None:
    """Raise UserError if a target is no linear layer of a model with this config, which the error calls `model`.

    One whose weight another layer uses too is refused as well: merging would change that other layer, which learnt nothing.
    """
    from leanpipe.models.count import empty_model

    empty = empty_model(config)
    names = _linear_names(empty)
    for target in targets:
        if target != ALL_LINEAR and not any(name == target or name.endswith(f".{target}") for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            raise UserError(
                f"finetune.target_modules names {target!r}, which is no linear layer of {model}: "
                f"choose from {', '.join(known)}, or {ALL_LINEAR}"
            )
    for name, others in _shared_weights(empty).items():
        if any(name == target or name.endswith(f".{target}") for target in targets):
            raise UserError(
                f"finetune.target_modules names {name}, whose weight is also that of {', '.join(others)} in {model} "
                f"(tied weights): an adapter merged into one would spoil the other, so leave it out, or use {ALL_LINEAR}"
            )


def lora_config(
    rank: int, alpha: float, dropout: float, targets: Sequence[str], kind: str = "lora"
) -> "LoraConfig":
    """Return the settings that peft needs. `kind` is lora, dora or rslora."""
    from peft import LoraConfig, TaskType

    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=ALL_LINEAR if ALL_LINEAR in targets else list(targets),
        use_dora=kind == "dora",
        use_rslora=kind == "rslora",
    )


def load_nf4(path: Path, dtype: "torch.dtype") -> "PreTrainedModel":
    """Load the model in the folder `path` with the weights of its linear layers in 4 bits, computing in `dtype`."""
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from leanpipe.models.load import weights_of

    wanted = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    with weights_of(path):
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            quantization_config=wanted,
            device_map=device.name(),
            trust_remote_code=False,
            weights_only=True,
        )
    # On processors with AVX512-BF16 the first evaluation packs the weights for kernels that know no gradient, and training
    # would go on with wrong ones without a word.
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def save_adapter(model: "PreTrainedModel", path: Path) -> None:
    """Write the adapter so that plain peft loads it onto the base model: `PeftModel.from_pretrained(base, path)`."""
    model.save_pretrained(path)
    (path / "README.md").unlink(missing_ok=True)
    config_file = path / "adapter_config.json"
    config = json.loads(config_file.read_text())
    # Where the base model lay is no part of the result; and a set has another order in every process.
    config |= {"base_model_name_or_path": None, "target_modules": sorted(config["target_modules"])}
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True))


def merge(base: Path, adapter: Path) -> "PreTrainedModel":
    """Load the base model in float32 and add the adapter's weights to its own: merging in bf16 would round them away.

    Raises UserError if the merged model does not predict what the base model with the adapter beside it does.
    """
    import torch
    from peft import PeftModel

    from leanpipe.models.load import load_model
    from leanpipe.training.finetune.masked_lora import mask_adapters, set_zeros, zeros_of

    whole = load_model(base, torch.float32)
    zeros = zeros_of(whole, base)
    adapted = PeftModel.from_pretrained(whole, adapter)
    mask_adapters(adapted, base)
    before = sample_logits(adapted)
    merged = adapted.merge_and_unload()
    set_zeros(merged, zeros)
    check_same_predictions(before, sample_logits(merged))
    return merged


_AGREEMENT = 1e-2
"""How far apart logits may be that should be the same, both computed in float32, of which TF32 keeps 3 digits. The trained
model itself is not compared: in bfloat16 its logits for such tokens are up to 0.3 of their norm from float32's."""


def sample_logits(model: "PreTrainedModel") -> "torch.Tensor":
    """Compute a model's logits for a few tokens, (T, V), in float32; a constant that is added to all of them says nothing."""
    import torch

    training = model.training
    model.eval()
    vocabulary = model.get_input_embeddings().num_embeddings
    tokens = torch.arange(1, vocabulary, max(1, vocabulary // 8), device=model.device)[:8]
    with torch.no_grad():
        logits = model(input_ids=tokens[None], use_cache=False).logits[0].float()
    model.train(training)
    return (logits - logits.mean(-1, keepdim=True)).cpu()


def check_same_predictions(adapted: "torch.Tensor", merged: "torch.Tensor") -> None:
    """Raise UserError if logits before and after a merge are further apart, as a share of their norm, than rounding explains."""
    apart = float((adapted - merged).norm() / merged.norm().clamp(min=1e-30))
    if not apart <= _AGREEMENT:
        raise UserError(
            f"the merged model does not predict what was trained: for a few tokens their logits are {apart:.2g} of their "
            "norm apart, so it is not saved: choose other finetune.target_modules, or another finetune.adapter"
        )


def _shared_weights(model: "PreTrainedModel") -> dict[str, list[str]]:
    """Names of the linear layers whose weight other layers use too, and those others."""
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        if (weight := getattr(module, "weight", None)) is not None:
            users.setdefault(id(weight), []).append(name)
    linear = _linear_names(model)
    return {
        name: [other for other in names if other != name]
        for names in users.values()
        for name in names
        if len(names) > 1 and name in linear
    }


def _linear_names(model: "PreTrainedModel") -> list[str]:
    import torch
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]
