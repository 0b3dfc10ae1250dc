"""`python -m benchmarks.quantization_aware HOME`: what 4 bits cost, with a training on their grid and without, in a file as large.

HOME is one in which the default run has ended (`.leanpipe`): its finetuned model is trained on its blocks and on the sample's
instructions, for each of three seeds. Every q4_0 is read by llama.cpp, as it is served, and beside it an iq4_nl without a
training. Goals: at most 1.5% more bits than the finetuned model in bf16, in every seed, of text and of answers; and what
llama.cpp reads is what was trained, so that torch, by the weights as they were saved, needs the same bits to 0.5%. Differences between models are by document, with an
interval of 95%. LEANPIPE_BENCH_REPEATS, _TOKENS and _TEXT set seeds, tokens of training, and bytes of held-out text.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import claim, write
from leanpipe.compression.gguf_types import GgufType
from leanpipe.processes.threads import thread_environment

os.environ |= {"HF_HUB_OFFLINE": "1", **thread_environment()}

SEEDS = range(int(os.environ.get("LEANPIPE_BENCH_REPEATS", 3)))
TEXT = int(os.environ.get("LEANPIPE_BENCH_TEXT", 60_000))
CONTEXT = 512
GOAL, AGREEMENT = 1.015, 1.005


def main(home: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        adapted = newest(home, "finetune")
        whole = scored(adapted, home)
        plain, iq4 = (scored(quantized(adapted, out / kind, home, kind), home) for kind in ("q4_0", "iq4_nl"))
        rows = [
            claim("without", plain.ours, whole.ours, "bits/B", 1.05, at_most=True),
            claim("iq4_nl, without", iq4.ours, whole.ours, "bits/B", 1.05, at_most=True),
        ]
        for seed in SEEDS:
            trained, summary = train(home, seed, out / f"seed {seed}")
            engine = scored(quantized(trained, out / f"of seed {seed}", home), home)
            torch = scored(trained, home)
            rows += [
                claim(f"seed {seed}", engine.ours, whole.ours, "bits/B", GOAL, at_most=True),
                claim(f"seed {seed}, beside without", engine.ours, plain.ours, "bits/B", 1.0, at_most=True),
                claim(
                    f"seed {seed}, answers",
                    summary["answer_loss"],
                    summary["unrounded_answer_loss"],
                    "nats",
                    GOAL,
                    at_most=True,
                ),
                claim(f"seed {seed}, torch", torch.ours, engine.ours, "bits/B", AGREEMENT, at_most=True),
                claim(f"seed {seed}, llama.cpp", engine.ours, torch.ours, "bits/B", AGREEMENT, at_most=True),
            ]
            for name, other in (("finetuned", whole), ("without", plain)):
                print(f"  seed {seed} beside {name}: {engine.beside(other)}", flush=True)
    write("quantization_aware", rows)


class Scored:
    """A model's scores by document."""

    def __init__(self, scores: dict[str, Any]):
        from leanpipe.evaluation.paired import Evaluated
        from leanpipe.evaluation.perplexity import bits_per_byte

        self.evaluated, self.ours = Evaluated({}, scores), bits_per_byte(list(scores.values()))

    def beside(self, other: "Scored") -> str:
        """How many more bits it needs than another, with an interval of 95%."""
        from leanpipe.evaluation.paired import common_documents, paired_difference

        documents = common_documents(self.evaluated, other.evaluated)
        found = paired_difference(self.evaluated, other.evaluated, documents, 0.95)
        low, middle, high = (found.share(bits) for bits in (found.low, found.estimate, found.high))
        return f"{middle:+.2%} bits per byte ({low:+.2%} to {high:+.2%}, {len(documents)} documents)"


def newest(home: Path, stage: str) -> Path:
    """The result of a stage that was published last."""
    found = [path.parent for path in (home / "store" / stage).glob("*/manifest.json")]
    if not found:
        sys.exit(f"{home} has no result of {stage}: give the home of a default run that has ended")
    return max(found, key=lambda path: path.stat().st_mtime)


def scored(model: Path, home: Path) -> Scored:
    """Score held-out documents by the engine that runs the model."""
    from leanpipe.engines.gguf_logits import GgufLogits
    from leanpipe.evaluation.held_out import held_out
    from leanpipe.evaluation.perplexity import score_documents
    from leanpipe.models.load import document_start, load_model, load_tokenizer
    from leanpipe.models.offload import is_gguf

    passages = held_out(newest(home, "clean"), TEXT, 4_000)
    tokenizer = load_tokenizer(model)
    engine: Any = GgufLogits(model, CONTEXT) if is_gguf(model) else load_model(model)
    texts = [passage.text for passage in passages]
    scores = score_documents(engine, tokenizer, texts, document_start(tokenizer), CONTEXT)
    return Scored({passage.id: score for passage, score in zip(passages, scores, strict=True)})


def quantized(model: Path, out: Path, home: Path, kind: GgufType = "q4_0") -> Path:
    """Write a model as `kind`, by the importance matrix of the corpus as the default run does."""
    from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, quantize
    from leanpipe.core.report import Silent

    out.mkdir()
    inputs = QuantizeInputs(model, newest(home, "clean"))
    quantize.function(QuantizeConfig(formats=(kind,)), inputs, out, Silent())
    return out / kind


def train(home: Path, seed: int, out: Path) -> tuple[Path, dict[str, Any]]:
    """Train the finetuned model on its grid: the folder, and the stage's figures."""
    from leanpipe.assets.resolve import resolve_instructions
    from leanpipe.compression.quantize_gguf import gguf_types
    from leanpipe.core.home import Home
    from leanpipe.core.report import Silent
    from leanpipe.quantization_aware.quantization_aware import (
        QuantizationAwareConfig,
        QuantizationAwareInputs,
        quantization_aware,
    )
    from leanpipe.settings.flows import PipelineConfig

    settings = PipelineConfig().quantization_aware
    tokens = int(os.environ.get("LEANPIPE_BENCH_TOKENS", settings.tokens))
    embeddings = gguf_types("q4_0", "auto", ()).embeddings
    config = QuantizationAwareConfig(
        **dict(settings) | {"seed": seed, "tokens": tokens, "embeddings": embeddings}
    )
    instructions = resolve_instructions(PipelineConfig().instructions, Home(home)).path
    adapted, blocks, asked = (newest(home, stage) for stage in ("finetune", "tokenize", "cache_teacher"))
    inputs = QuantizationAwareInputs(adapted, blocks, instructions, asked)
    out.mkdir()
    return out, quantization_aware.function(config, inputs, out, Silent())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
