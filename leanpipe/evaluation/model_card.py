"""The model card: what a registered model is, where it came from, and what it was measured to do."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leanpipe.compression.formats import BITSANDBYTES, GGUF, ONNX
from leanpipe.core.files import expanded
from leanpipe.core.stage import Summary
from leanpipe.evaluation.compare import comparison, to_markdown
from leanpipe.evaluation.generate import Generation
from leanpipe.evaluation.task_scores.task_results import TASKS_MEASURED, TaskResult, side_by_side
from leanpipe.models.card import Told, front_matter, inherited, licence_name

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_card(
    *,
    name: str,
    label: str,
    teacher: str,
    corpus: str,
    stages: Mapping[str, str],
    rows: Mapping[str, Summary],
    reason: str,
    generations: Sequence[Generation] = (),
    steps: str = "",
    tasks: Mapping[str, Sequence[TaskResult]] = {},
    folder: Path | None = None,
) -> str:
    """Markdown with the front matter of the Hugging Face hub.

    `label` says which of `rows` this model is; `rows` are summaries of `evaluate` by label, the teacher among them;
    `stages` gives the store's key of every stage that led here, in order; `reason` is why this one was chosen;
    `steps` says in Markdown what each stage did to the model, and `tasks` has what models scored on tasks, by label. In
    `folder` lies the model; what its own card says of licence, base model and digests goes into this one.
    """
    own = front_matter(folder) if folder else {}
    told = inherited(folder) if folder else {}
    parts = [
        _front_matter(name, label, teacher, told, own.get("leanpipe")),
        f"# {name}: {label}\n\n{_opening(label, teacher, corpus, rows[label])}\n\nWhy this one: {reason}\n",
        f"## Figures\n\n{to_markdown(comparison(rows))}\n{_how_measured(rows[label])}\n",
        f"## Tasks\n\n{TASKS_MEASURED}\n\n{side_by_side(tasks)}" if tasks else "",
        f"## What each stage did\n\n{steps}\n" if steps else "",
        _answers(generations),
        f"## Where it comes from\n\n{_lineage(teacher, corpus, stages)}\n",
        _limits(told),
        (_USE_GGUF if label in GGUF else _USE_ONNX if label in ONNX else _USE).format(name=name),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(name: str, label: str, teacher: str, told: Told, digests: object) -> str:
    import yaml

    # A folder may be written as a hub id is.
    on_hub = _HUB_ID.fullmatch(teacher) and not expanded(teacher).exists()
    base = {"base_model": teacher} if on_hub else {}
    facts: dict[str, Any] = {
        **base,
        **told,
        "library_name": "gguf" if label in GGUF else "onnx" if label in ONNX else "transformers",
        "pipeline_tag": "text-generation",
        "model_name": name,
    }
    facts["tags"] = [
        "leanpipe",
        "distillation",
        "lora",
        *(["bitsandbytes"] if label in BITSANDBYTES else []),
        *(["gguf"] if label in GGUF else []),
        *(["onnx"] if label in ONNX else []),
    ]
    if digests:
        facts["leanpipe"] = digests
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n"


def _opening(label: str, teacher: str, corpus: str, summary: Summary) -> str:
    return (
        f"A language model of {summary['parameters'] / 1e6:.1f} million parameters, {summary['size_bytes'] / 1e6:.1f} MB "
        f"on disk, distilled from {teacher} on {corpus} and made by leanpipe as its candidate `{label}`."
    )


def _how_measured(summary: Summary) -> str:
    return (
        f"Every model was scored on the same {summary['held_out_bytes']:,} bytes of held-out text (digest "
        f"`{summary['held_out_digest'][:12]}`). Bits per byte compare between tokenizers, perplexities do not; the error "
        "is the standard error over documents. Speed is that of one request at a time on the machine that made the model, "
        "memory what loading and using it took there."
    )


def _answers(generations: Sequence[Generation]) -> str:
    if not generations:
        return ""
    first = generations[0].sampling
    shown = (one for one in generations if one.sampling == first)
    answers = (f"**{one.prompt}**\n\n```\n{one.text.strip()}\n```\n" for one in shown)
    return f"## What it answers ({first})\n\n" + "\n".join(answers)


def _lineage(teacher: str, corpus: str, stages: Mapping[str, str]) -> str:
    lines = [f"- teacher: {teacher}", f"- corpus: {corpus}"]
    return "\n".join([*lines, *(f"- {stage}: `{key}`" for stage, key in stages.items())])


def _limits(told: Told) -> str:
    known = licence_name(told)
    return _LIMITS.format(known=f" What it was made of is licensed as {known}." if known else "")


_LIMITS = """## Limits

It is small: it states false things fluently, and repeats what its teacher and its corpus got wrong. It was not trained to
refuse anything, nor tested for safety. Its licence is that of its teacher, its corpus and its instructions together: check
them before you pass it on.{known}
"""

_USE = """## How to use it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForCausalLM.from_pretrained("PATH")
turns = [{{"role": "user", "content": "What is a river?"}}]
inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0], skip_special_tokens=True))
```

Or `leanpipe serve`, and any OpenAI client with the model name `{name}`.
"""

_USE_GGUF = """## How to use it

`leanpipe serve`, and any OpenAI client with the model name `{name}`. `model.gguf` alone, which has the tokenizer and the chat
template within it, is read by llama.cpp and whatever is built on it:

```sh
llama-server --model PATH/model.gguf
```
"""

_USE_ONNX = """## How to use it

`leanpipe serve`, and any OpenAI client with the model name `{name}`. Or plain onnxruntime, with the tokenizer beside the file:
`model.onnx` takes `input_ids`, `attention_mask` and `past_key_values.N.key` and `.value` (at first of length 0), and gives
`logits` and `present.N.key` and `.value`, which are the next step's past.
"""
