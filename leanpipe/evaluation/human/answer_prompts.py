"""Stage `answer_prompts`: what a model answers to a set of prompts, by the engine that serves it, for people to read."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.estimate import (
    Estimate,
    Expected,
    ExpectedInputs,
    Repeated,
    bytes_of_weight,
    host_bytes,
    process_bytes,
    read_arithmetic,
)
from leanpipe.core.lineage import MEASURES, NOTHING
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage
from leanpipe.core.store import REPORT
from leanpipe.evaluation.evaluate import EvaluateConfig
from leanpipe.evaluation.evaluation_files import generations_markdown
from leanpipe.evaluation.generate import Generation, encode_prompt, generate
from leanpipe.evaluation.human.prompt_set import read_prompts
from leanpipe.evaluation.served import generate_served
from leanpipe.models.count import check_context, expected_config, tokenizer_folder
from leanpipe.models.load import load_for_inference, load_tokenizer
from leanpipe.models.offload import is_exported

ANSWERS_FILE = "generations.jsonl"
_SHOWN = 100  # answers in the report


class AnswerPromptsConfig(StageConfig):
    """What the models are asked, and how long their answers may be."""

    prompts: tuple[str, ...] = Field(
        EvaluateConfig.model_fields["prompts"].default, min_length=1, max_length=10_000
    )
    """What is asked where no prompt_set is given, through the model's chat template if it has one."""

    max_new_tokens: int = Field(200, ge=1, le=100_000)
    """Longest answer, in tokens; a longer one is cut there."""


@dataclass(frozen=True)
class AnswerPromptsInputs:
    """A model folder, and a file of prompts."""

    model: Path
    prompt_set: Path | None = None


def check_answer_prompts(config: AnswerPromptsConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for prompts that cannot be read, or that are with their answers longer than the model can read."""
    model: Expected = inputs["model"]
    prompts = _prompts(config, inputs["prompt_set"].path if "prompt_set" in inputs else None)
    if folder := tokenizer_folder(model):
        tokenizer = load_tokenizer(folder)
        longest = max(encode_prompt(tokenizer, prompt).shape[1] for prompt in prompts)
        asked = "answer_prompts.max_new_tokens with the longest prompt"
        check_context(model, longest + config.max_new_tokens, asked)


def estimate_answer_prompts(config: AnswerPromptsConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """Estimate what `answer_prompts` takes: the model, and what it writes."""
    from leanpipe.training.trainer.memory import size_of

    model = expected_config(inputs["model"])
    size = size_of(model)
    weights = bytes_of_weight() * size.parameters
    prompts = _prompts(config, inputs["prompt_set"].path if "prompt_set" in inputs else None)
    written = float(len(prompts) * config.max_new_tokens)
    parts = {"process": process_bytes(kind), "weights": weights}
    peak = sum(parts.values())
    arithmetic = read_arithmetic()
    repeated = Repeated("write", model, written, length=config.max_new_tokens, arithmetic=arithmetic)
    disk = round(8 * written)
    work = 2.0 * size.parameters * written
    return Estimate(peak, host_bytes(kind, peak), disk, work, parts, weights, repeated=(repeated,))


@stage(
    version=1,
    uses_device=True,
    check=check_answer_prompts,
    estimate=estimate_answer_prompts,
    reads={"model": MEASURES, "prompt_set": NOTHING},
)
def answer_prompts(
    config: AnswerPromptsConfig, inputs: AnswerPromptsInputs, out: Path, report: Report
) -> Summary:
    """Write `generations.jsonl`: each prompt with the model's greedy answer, one JSON line each."""
    prompts = _prompts(config, inputs.prompt_set)
    tokenizer = load_tokenizer(inputs.model)
    if is_exported(inputs.model):
        answers = generate_served(inputs.model, tokenizer, prompts, config.max_new_tokens)
    else:
        model, answers = load_for_inference(inputs.model), []
        for number, prompt in enumerate(prompts):
            report.progress(number, len(prompts), "prompts")
            answers += generate(model, tokenizer, [prompt], config.max_new_tokens)
    report.progress(len(prompts), len(prompts), "prompts")
    lines = [json.dumps(dataclasses.asdict(one), ensure_ascii=False) for one in answers]
    (out / ANSWERS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / REPORT).mkdir(parents=True, exist_ok=True)
    (out / REPORT / "generations.md").write_text(generations_markdown(answers[:_SHOWN]), encoding="utf-8")
    return {
        "prompts": len(answers),
        "tokens": sum(one.tokens for one in answers),
        "ended": sum(one.stopped for one in answers),
    }


def read_answers(folder: Path) -> list[Generation]:
    """Read what `answer_prompts` wrote into its folder."""
    # Not splitlines: a model may write U+2028, at which that breaks a line and JSON does not.
    lines = (folder / ANSWERS_FILE).read_text(encoding="utf-8").split("\n")
    return [Generation(**json.loads(line)) for line in lines if line]


def _prompts(config: AnswerPromptsConfig, prompt_set: Path | None) -> list[str]:
    return read_prompts(prompt_set) if prompt_set else list(dict.fromkeys(config.prompts))
