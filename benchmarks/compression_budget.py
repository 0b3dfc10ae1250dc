"""`python -m benchmarks.compression_budget [MODEL]`: what choosing each part's type gains over one type for all.

By default of SmolLM2-135M-Instruct; MODEL is a folder, or the home of a default run that has ended (`.leanpipe`), of which
the finetuned student is taken. Ten budgets lie evenly between the smallest and the largest file of one type. For each: the
mean KL divergence from the full model with the solver's types, and with the best file of one type that is no larger, its
embeddings in its type, Q5_0 or Q8_0, rounded by the same importance matrix. Both are files, read by llama.cpp as they are served, on text
of the split `test`, which nothing was measured or fitted on. Beside it stands what was foretold before the file was written, on the
split `validation`: by the sum of what parts lose, which the solver chooses by, and by measuring what it chose, as `quantize` does.
LEANPIPE_BENCH_TOKENS sets how much of it. `python -m benchmarks.compression_budget types` compares the squared errors of our
types with llama.cpp's own rounding.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.report import claim, write
from leanpipe.processes.threads import thread_environment

HOME = Path(__file__).parent / ".compression"
TOKENS = int(os.environ.get("LEANPIPE_BENCH_TOKENS", 4_096))
BUDGETS = 10
TYPES = ("q4_0", "iq4_nl", "q4_k", "q4_1", "q5_0", "q5_k", "q5_1", "q6_k", "q8_0")
"""From the smallest to the largest."""
EMBEDDINGS = ("q5_0", "q8_0")
"""What embeddings may have beside layers of a smaller type."""


def main(model: str) -> None:
    from leanpipe.compression.budget.choose import Budget, choose_measured, choose_types
    from leanpipe.compression.budget.sensitivity import Sensitivity

    source, documents, measured = material(model)
    bench = Bench(source, documents)
    sensitivity, sizes = Sensitivity.read(measured), bench.uniform()
    smallest, largest = min(sizes.values()), max(sizes.values())
    budgets = [smallest + (largest - smallest) * (number + 0.5) / BUDGETS for number in range(BUDGETS)]
    rows, wins, near = [], 0, 0
    rivals = bench.rivals(sizes, budgets)
    for budget in budgets:
        chosen, foretold = choose_measured(
            bench.model,
            Budget(budget / 1e6),
            lambda asked: choose_types(bench.model, bench.tokenizer, asked, frozenset(), sensitivity),
            bench.validation,
            bench.importance,
            sensitivity.engine,
        )
        best = min((pair for pair in rivals if sizes[pair] <= budget), key=rivals.__getitem__)
        ours, theirs = bench.loss(chosen.types), rivals[best]
        wins += ours < theirs
        near += abs(foretold / ours - 1) <= 0.1
        rows.append(
            {
                "name": f"{budget / 1e6:.1f} MB",
                "MB": chosen.bytes / 1e6,
                "KL": ours,
                "foretold": foretold,
                "off by": foretold / ours - 1,
                "by the sum of parts": chosen.loss,
                "best type for all": f"{best[0]}, embeddings {best[1]}",
                "its KL": theirs,
                "parts": chosen.parts,
            }
        )
        print({name: value for name, value in rows[-1].items() if name != "parts"}, flush=True)
    rows.append(claim("budgets won", wins, BUDGETS, "", 0.9))
    rows.append(claim("losses foretold within 10%", near, BUDGETS, "", 0.9))
    write("compression_budget", rows)


class Bench:
    """A model, and how far files of it are from it, as llama.cpp reads them."""

    def __init__(self, source: Path, documents: Path):
        import torch

        from leanpipe.compression.budget.sensitivity import SensitivityConfig
        from leanpipe.compression.calibration import (
            calibration_texts,
            measure_importance_matrix,
            validation_texts,
        )
        from leanpipe.compression.quantize import QuantizeConfig
        from leanpipe.models.load import load_model, load_tokenizer

        self.model, self.tokenizer = load_model(source, torch.float32), load_tokenizer(source)
        config, calibration = self.model.config, QuantizeConfig().calibration_tokens
        self.importance = measure_importance_matrix(
            self.model, calibration_texts(documents, self.tokenizer, config, calibration)
        )
        self.texts = validation_texts(documents, self.tokenizer, config, TOKENS, "test")
        whole_tokens = SensitivityConfig().whole_tokens
        self.validation = validation_texts(documents, self.tokenizer, config, whole_tokens)
        with torch.inference_mode():
            self.expected = [self.model(input_ids=text).logits[0].log_softmax(-1) for text in self.texts]
        self.bytes: dict[tuple[str, str], Any] = {}
        self.seen: dict[tuple[str, ...], tuple[Any, dict[int, float]]] = {}

    def uniform(self) -> dict[tuple[str, str], int]:
        """Bytes of the files of one type, by it and its embeddings' (no smaller one); of those that store the same, one."""
        from leanpipe.compression.gguf_export import GgufTypes, plan_gguf

        found, seen = {}, set()
        for kind in TYPES:
            for embeddings in (kind, *(one for one in EMBEDDINGS if TYPES.index(one) > TYPES.index(kind))):
                plan = plan_gguf(self.model, self.tokenizer, GgufTypes(kind, embeddings))
                stored = tuple(one.type for one in plan.tensors)
                if stored not in seen:
                    found[kind, embeddings] = plan.bytes
                    seen.add(stored)
        return found

    def rivals(self, sizes: Mapping[tuple[str, str], int], budgets: Sequence[float]) -> dict[Any, float]:
        """Losses of those files of one type that could be the best one within a budget.

        All are measured on a quarter of the text, and on all of it those that are not far behind the best there.
        """
        from leanpipe.compression.gguf_export import GgufTypes

        quick = {}
        for pair, size in sizes.items():
            quick[pair] = self.loss(GgufTypes(*pair), 4)
            print(
                f"{pair[0]}, embeddings {pair[1]}: {size / 1e6:.1f} MB, about {quick[pair]:.5f}", flush=True
            )
        found = {}
        for budget in budgets:
            fit = [pair for pair, size in sizes.items() if size <= budget]
            least = min(quick[pair] for pair in fit)
            for pair in fit:
                if quick[pair] <= 1.2 * least:
                    found[pair] = self.loss(GgufTypes(*pair))
        return found

    def loss(self, types: Any, every: int = 1) -> float:
        """Mean KL divergence in nats per token from the full model to a file of these types, on all texts or every n-th."""
        import torch

        engine, losses = self.engine(types)
        texts = range(0, len(self.texts), every)
        for number in texts:
            if number not in losses:
                expected = self.expected[number]
                actual = torch.log_softmax(engine(self.texts[number][0].tolist()), -1)
                losses[number] = float((expected.exp() * (expected - actual)).sum())
        return sum(losses[number] for number in texts) / sum(self.texts[number].numel() for number in texts)

    def engine(self, types: Any) -> tuple[Any, dict[int, float]]:
        """What reads a file of these types, and what it lost by text."""
        from leanpipe.compression.gguf_export import plan_gguf, write_tensors
        from leanpipe.engines.gguf_logits import GgufLogits
        from leanpipe.models.offload import GGUF_FILE

        stored = tuple(one.type for one in plan_gguf(self.model, self.tokenizer, types).tensors)
        if stored not in self.seen:
            with TemporaryDirectory() as folder:
                self.model.config.save_pretrained(folder)
                write_tensors(self.model, self.tokenizer, types, Path(folder, GGUF_FILE), self.rounded)
                self.seen[stored] = GgufLogits(Path(folder), max(text.numel() for text in self.texts)), {}
        return self.seen[stored]

    def rounded(self, tensor: Any, stored: Any) -> Any:
        """The bytes of a weight as a file holds them, which are computed once for each type."""
        from leanpipe.compression.gguf_types import bytes_of_weights

        key = tensor.name, stored.type
        if key not in self.bytes:
            self.bytes[key] = bytes_of_weights(tensor.read(), stored.type, self.importance.get(stored.module))
        return self.bytes[key]


def material(model: str) -> tuple[Path, Path, Path]:
    """The model, the documents and what was measured, made by leanpipe's own stages and kept."""
    from benchmarks.quantization_aware import newest
    from leanpipe.assets.resolve import resolve_corpus, resolve_model
    from leanpipe.compression.budget.sensitivity import SensitivityConfig, sensitivity
    from leanpipe.core.home import Home
    from leanpipe.core.report import Silent
    from leanpipe.core.stage import Inputs, Stage
    from leanpipe.core.store import Artifact, Store
    from leanpipe.corpus.clean import CleanConfig, clean
    from leanpipe.processes.run_stage import run_stage

    ended = (Path(model) / "store" / "finetune").is_dir()
    home = Home(Path(model)) if ended else Home(HOME)

    def run(stage: Stage, config: Any, inputs: Inputs) -> Artifact:
        return run_stage(stage, config, inputs, Store(home.store), Silent())

    source = resolve_model(str(newest(home.root, "finetune")) if ended else model, home, run)
    documents = run(clean, CleanConfig(), {"corpus": resolve_corpus(("sample",), home)})
    measured = run(sensitivity, SensitivityConfig(), {"model": source, "documents": documents})
    return source.path, documents.path, measured.path


def compare_types() -> None:
    """Squared errors of rounding 4 million weights, with llama.cpp's own rounding as 1."""
    import torch

    from leanpipe.compression.gguf_types import rounded_weights

    made = torch.Generator().manual_seed(0)
    values = torch.randn(4_096, 1_024, generator=made) * torch.rand(4_096, 1, generator=made)
    counts = torch.randn(1_024, generator=made).square()
    rows = []
    for kind in (*TYPES[:3], "iq4_nl", "q5_0", *TYPES[3:]):
        for name, importance in (("", None), (" with importance", counts)):
            ours = error(values, rounded_weights(values, kind, importance), importance)
            rows.append(
                claim(
                    f"{kind}{name}",
                    ours,
                    error(values, theirs(values, kind, importance), importance),
                    "",
                    1.02,
                    at_most=True,
                )
            )
    write("compression_types", rows)


def error(values: Any, read: Any, counts: Any = None) -> float:
    """Squared error of weights that were read back, each counted as its input says."""
    return float((((values - read) ** 2) * (1 if counts is None else counts)).sum())


def theirs(values: Any, kind: str, counts: Any = None) -> Any:
    """What llama.cpp itself, as it is installed here, rounds weights to."""
    import ctypes

    import gguf
    import numpy as np
    import torch
    import xllamacpp

    from leanpipe.compression.gguf_types import sizes_of

    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    block, size = sizes_of(kind)
    rows, row = values.shape
    out, given = np.zeros((rows, row // block * size), np.uint8), values.numpy()
    matrix = None if counts is None else counts.numpy().ctypes.data
    type_ = gguf.GGMLQuantizationType[kind.upper()]
    library.ggml_quantize_chunk(int(type_), given.ctypes.data, out.ctypes.data, 0, rows, row, matrix)
    return torch.from_numpy(gguf.quants.dequantize(out, type_))


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", **thread_environment()}
    if sys.argv[1:] == ["types"]:
        compare_types()
    else:
        main((sys.argv[1:] or ["smollm2-135m-instruct"])[0])
