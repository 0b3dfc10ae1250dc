"""Tiny models that were really trained, so that they are sure of something and end their answers, and forms made of them."""

import copy
from pathlib import Path

from leanpipe.compression.formats import GGUF, ONNX
from leanpipe.compression.quantize import (
    QuantizeConfig,
    quantization_config,
    split_modules,
    write_quantized,
)
from leanpipe.compression.quantize_gguf import gguf_types, write_folder
from leanpipe.compression.quantize_transformers import (
    COMPRESSED,
    Rounding,
    write_auto_round_int4,
    write_compressed,
    write_torchao_int8,
)
from leanpipe.export.onnx_export import OnnxTypes, write_onnx_folder
from leanpipe.models.load import load_model, load_tokenizer, save_model
from tests.support.tiny_models import SEPARATOR, tiny_llama, tiny_text, tiny_tokenizer

PROMPTS = ("What is a list?", "Say it again.", "Why does that matter?")
FORMS = ("safetensors", "int8", "nf4")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ANSWERS = (
    "It is a sequence of items, and each of them has a place.",
    "I have said so before.",
    "It does not matter at all, but it is true.",
)


def tokenizer_with_bos():
    """The tiny tokenizer as Llama's is: a BOS before every text, also in the template, and a pad token of its own."""
    from tokenizers import processors

    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.bos_token = tokenizer.pad_token = SEPARATOR
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{SEPARATOR} $A", pair=None, special_tokens=[(SEPARATOR, tokenizer.bos_token_id)]
            ),
        ]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def conversations() -> list[list[dict[str, str]]]:
    """Every prompt with its answer, and passages of real text with their beginnings asked for."""
    asked = [*zip(PROMPTS, _ANSWERS, strict=True)]
    asked += [(f"Go on: {text[:20]}", text[20:60]) for text in tiny_text()[:3]]
    return [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in asked]


def train(model, tokenizer, steps: int):
    """Train the model in place on the conversations, for so many steps."""
    import torch

    rows = [tokenizer.apply_chat_template(turns, return_dict=False)[:64] for turns in conversations()]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def passages(length: int) -> list[list[int]]:
    """Eight passages of real text, of so many tokens."""
    return [tokenizer_with_bos()(text)["input_ids"][:length] for text in tiny_text()[:8]]


def write_trained(path: Path, steps: int = 100, seed: int = 0, **shape) -> Path:
    """Write a trained tiny model, and return its folder; `shape` is that of `tiny_llama`."""
    import torch

    tokenizer = tokenizer_with_bos()
    model = tiny_llama(seed=seed, **shape)
    model.generation_config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = model.config.bos_token_id = tokenizer.bos_token_id
    save_model(train(model, tokenizer, steps), tokenizer, path, dtype=torch.bfloat16)
    return path


def write_form(form: str, source: Path, target: Path) -> Path:
    """Write a form of the model in `source` as the pipeline does, and return its folder."""
    import torch

    if form == "safetensors":
        save_model(load_model(source), load_tokenizer(source), target)
        return target
    if form in GGUF:
        types = gguf_types(form, "q8_0", [])
        write_folder(load_model(source, torch.float32), target, types, load_tokenizer(source))
        return target
    if form in ONNX:
        write_onnx_folder(load_model(source, torch.float32), target, OnnxTypes(form), load_tokenizer(source))
        return target
    if form == "torchao_int8":
        write_torchao_int8(source, target, ["lm_head"], load_tokenizer(source))
        return target
    if form in COMPRESSED:
        write_compressed(
            load_model(source, torch.float32),
            target,
            form,
            ["lm_head"],
            load_tokenizer(source),
            group_size=32,
        )
        return target
    if form == "auto_round_int4":
        texts = [torch.tensor([row]) for row in passages(32)]
        model, rounding = load_model(source, torch.bfloat16), Rounding(group_size=32, steps=3)
        write_auto_round_int4(model, target, ["lm_head"], load_tokenizer(source), texts, rounding)
        return target
    model, config = load_model(source), QuantizeConfig()
    kept, _ = split_modules(model, ())
    write_quantized(source, target, quantization_config(form, config, kept), load_tokenizer(source))
    return target
