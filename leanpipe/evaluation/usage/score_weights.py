"""Stage `score_weights`: how well the weights of a GGUF file predict without the engine that serves them.

`evaluate` scores a GGUF file by llama.cpp, as it is served. That figure holds two losses: what the stored bits cost, and what
the engine's arithmetic costs. Here transformers reads the stored weights back, and scores them in the arithmetic in which the
model was scored that they were made of. So the step from that model to these weights is quantisation alone, and the step from
them to the evaluation is what serving costs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError, reason
from leanpipe.core.keys import ARITHMETIC
from leanpipe.core.lineage import MEASURES, NOTHING, TESTED_ON
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, stage
from leanpipe.evaluation.answer_scores import (
    answer_quality,
    can_converse,
    held_out_answers,
    score_answers,
)
from leanpipe.evaluation.evaluate import EvaluateConfig, progress_of
from leanpipe.evaluation.evaluation_files import score_records
from leanpipe.evaluation.held_out import held_out
from leanpipe.evaluation.perplexity import quality, score_documents
from leanpipe.models.load import document_start, load_tokenizer
from leanpipe.models.offload import GGUF_FILE, is_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LABEL = "weights-"
"""What a run's results of this stage are called, before the form's name."""


class ScoreWeightsConfig(StageConfig):
    """The settings of `evaluate` by which it scores text and answers."""

    text_bytes: int
    """As in evaluate."""
    document_bytes: int
    """As in evaluate."""
    context: int
    """As in evaluate."""
    stride: int
    """As in evaluate."""
    conversations: int
    """As in evaluate."""

    @classmethod
    def of(cls, config: EvaluateConfig) -> Self:
        """Take them from the settings of `evaluate`."""
        return cls(**{name: getattr(config, name) for name in cls.model_fields})


@dataclass(frozen=True)
class ScoreWeightsInputs:
    """A model folder with a GGUF file, and what it is scored on, as in `evaluate`."""

    model: Path
    documents: Path
    instructions: Path | None = None


@stage(
    version=1,
    uses_device=True,
    depends_on=ARITHMETIC,
    reads={"model": MEASURES, "documents": TESTED_ON, "instructions": NOTHING},
    groups=dict.fromkeys(
        ("held_out_bytes", "held_out_tokens", "held_out_documents", "answers_scored"), NOT_COMPARED
    ),
)
def score_weights(
    config: ScoreWeightsConfig, inputs: ScoreWeightsInputs, out: Path, report: Report
) -> Summary:
    """Write `evaluation.json` with each document's score by the stored weights alone, without the engine that serves them."""
    passages = held_out(inputs.documents, config.text_bytes, config.document_bytes)
    tokenizer, model = load_tokenizer(inputs.model), load_stored(inputs.model)
    step = config.stride or max(1, config.context // 2)
    scores = score_documents(
        model,
        tokenizer,
        [passage.text for passage in passages],
        document_start(tokenizer),
        config.context,
        step,
        progress_of(report, "documents"),
    )
    asked = []
    if inputs.instructions is not None and config.conversations and can_converse(tokenizer):
        asked = held_out_answers(inputs.instructions, config.conversations)
    answers = score_answers(model, tokenizer, asked, config.context, step, progress_of(report, "answers"))
    summary = {**quality(scores), **answer_quality(answers), "engine": "transformers"}
    records = score_records(passages, scores, answers, {"context": config.context, "stride": step})
    (out / "evaluation.json").write_text(json.dumps({"summary": summary, **records}, indent=2))
    return summary


def load_stored(folder: Path) -> "PreTrainedModel":
    """Load the weights that a GGUF file stores into a model of transformers. Raises UserError if it has no code for them."""
    from transformers import AutoModelForCausalLM, GgufConfig

    if not is_gguf(folder):
        raise UserError(f"{folder} holds no GGUF file: its weights are scored by the engine that serves them")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=GGUF_FILE,
            quantization_config=GgufConfig(dequantize=True),
            dtype=device.compute_dtype(),
            device_map=device.name(),
        )
    except (ValueError, NotImplementedError, KeyError) as error:
        raise UserError(
            f"transformers cannot read the weights of {folder / GGUF_FILE} back ({reason(error)}): leave "
            "evaluate.stored_weights off"
        ) from error
    return model.eval()
