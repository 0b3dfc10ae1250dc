"""What `leanpipe show-mask` prints: what finetuning would learn of some instructions, in colours."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from leanpipe.assets.resolve import resolve_instructions, resolve_model
from leanpipe.core.config import StageConfig
from leanpipe.core.home import Home
from leanpipe.core.report import Silent
from leanpipe.core.stage import Inputs, Stage
from leanpipe.core.store import Artifact, Store
from leanpipe.models.load import load_tokenizer
from leanpipe.processes.run_stage import run_stage
from leanpipe.training.finetune.chat import encode_all, learned_runs
from leanpipe.training.finetune.instructions import read_instructions
from leanpipe.training.finetune.template import check_template

LEARNT, READ = "bold green", "dim"


def show_mask(
    home: Home, model: str, instructions: str, examples: int, max_length: int, console: Console
) -> None:
    """Print the first conversations as the model reads them: what it learns in green, what it only reads faintly.

    Raises UserError for a model or instructions that are not there or cannot be used.
    """
    read = read_instructions(resolve_instructions(instructions, home).path)
    console.print(f"{instructions}: {read.describe()}; {read.skipped:,} records skipped", soft_wrap=True)
    tokenizer = load_tokenizer(_model(home, model))
    check_template(tokenizer)
    encoded = encode_all(read.conversations[:examples], tokenizer, max_length)
    if encoded.refused:
        console.print(f"left out: {encoded.describe()}", soft_wrap=True, markup=False)
    for number, example in enumerate((one for some in encoded.conversations for one in some), 1):
        console.rule(f"{number}: {example.learned} of {len(example.tokens)} tokens are learnt")
        console.print(_coloured(learned_runs(example, tokenizer)), soft_wrap=True)


def _coloured(runs: Sequence[tuple[str, bool]]) -> Text:
    """Put what is learnt in brackets too, for where there are no colours."""
    text = Text()
    for part, learnt in runs:
        text.append(f"⟦{part}⟧" if learnt else part, style=LEARNT if learnt else READ)
    return text


def _model(home: Home, reference: str) -> Path:
    def run(stage: Stage, config: StageConfig, inputs: Inputs) -> Artifact:
        return run_stage(stage, config, inputs, Store(home.store), Silent())

    return resolve_model(reference, home, run).path
