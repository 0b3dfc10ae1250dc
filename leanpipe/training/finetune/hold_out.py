"""Stage `hold_out_instructions`: the conversations that finetuning does not learn from, as a file for evaluation to read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from leanpipe.core.config import StageConfig
from leanpipe.core.lineage import NOTHING
from leanpipe.core.plots import draw_bars
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, stage
from leanpipe.core.store import REPORT
from leanpipe.models.load import load_tokenizer
from leanpipe.training.finetune.conversations import split_conversations
from leanpipe.training.finetune.finetune import FinetuneConfig

FOLDER = "conversations"
"""Where in the result they lie."""


class HoldOutConfig(StageConfig):
    """The settings of `finetune` by which it holds conversations out."""

    max_length: int
    """As in finetune: of what is longer, nothing may be left to learn."""
    thoughts: bool
    """As in finetune."""
    validation_share: float
    """As in finetune."""
    seed: int
    """As in finetune."""

    @classmethod
    def of(cls, config: FinetuneConfig) -> Self:
        """Take them from the settings of `finetune`."""
        return cls(**{name: getattr(config, name) for name in cls.model_fields})


@dataclass(frozen=True)
class HoldOutInputs:
    """The model folder that is finetuned, of which only the tokenizer is read, and the instructions."""

    model: Path
    instructions: Path


@stage(
    version=1,
    reads={"model": NOTHING, "instructions": NOTHING},
    groups=dict.fromkeys(("held_out_conversations", "learnt_conversations"), NOT_COMPARED),
)
def hold_out_instructions(config: HoldOutConfig, inputs: HoldOutInputs, out: Path, report: Report) -> Summary:
    """Write the conversations that `finetune` with these settings holds out of what it learns."""
    split = split_conversations(config, inputs.instructions, load_tokenizer(inputs.model))
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    records = (
        {"messages": one.messages} | ({"tools": one.tools} if one.tools else {}) for one in split.held_out
    )
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    (out / FOLDER / "held_out.jsonl").write_text("".join(f"{line}\n" for line in lines))
    counts = (("learnt", len(split.train)), ("held out", len(split.held_out)))
    draw_bars(out / REPORT / "split.png", "What became of the conversations", counts, unit="conversations")
    return {"held_out_conversations": len(split.held_out), "learnt_conversations": len(split.train)}
