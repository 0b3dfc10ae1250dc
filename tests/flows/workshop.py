"""Runs single stages on tiny inputs and writes down everything by which two runs can be told apart."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from leanpipe.core.config import StageConfig
from leanpipe.core.report import Report, Silent
from leanpipe.core.stage import Inputs, Stage, Summary, known_stages, stage
from leanpipe.core.store import MANIFEST, REPORT, Artifact, Manifest, Store, external
from leanpipe.corpus.clean import CleanConfig, CleanInputs, clean, clean_documents
from leanpipe.corpus.sources.file_index import FileIndex
from leanpipe.processes.run_stage import run_stage
from leanpipe.settings import flows as _  # noqa: F401 - brings in every stage that has settings
from leanpipe.tokens.tokenize import tokenize
from leanpipe.training.distill.teacher_cache import cache_teacher
from tests.flows.alternatives import BASES, Overrides
from tests.flows.material import write_corpus, write_evaluation, write_instructions
from tests.support.file_indexes import listed
from tests.support.tiny_models import tiny_model


@stage(version=1)
def clean_without_report(config: CleanConfig, inputs: CleanInputs, out: Path, report: Report) -> Summary:
    """All of `clean` but its report, which is no evidence, and of so small a corpus three quarters of the work."""
    file_indexes = [FileIndex.load(path) for path in inputs.corpus]
    return {"files_read": clean_documents(config, inputs, file_indexes, out, report)}


_STAGE_OF = {"clean": clean_without_report.name, "cache": "cache_teacher"}
"""Stages whose section in the settings has another name."""
STAGES: dict[str, Stage] = {
    section: known_stages()[_STAGE_OF.get(section, section)]
    for section in BASES
    if _STAGE_OF.get(section, section) in known_stages()
}
"""By section of the settings: all that the flows' settings bring in."""
_MADE_AS = {"teacher": "model", "evaluations": "evaluation"}
_MEASURED = (
    "per_second",
    "seconds",
    "peak_memory",
    "peak_memory_bytes",
    "mfu",
    "joules_per_token",
)  # these differ from run to run
# That a setting is written down does not show that anything else reads it; and the second carries timings.
_NO_EVIDENCE = ("adapter_config.json", "evaluation.json")

Fingerprint = dict[str, Any]


class Workshop:
    """Inputs for every stage, made once, under `root`, and a new store for every run."""

    def __init__(self, root: Path):
        self._root, self._runs = root, 0
        self._first: dict[str, Fingerprint] = {}

    @cached_property
    def corpus(self) -> Artifact:
        return listed(write_corpus(self._root / "corpus"), self._root / "listings")

    @cached_property
    def evaluation(self) -> Artifact:
        return external("evaluation", write_evaluation(self._root / "evaluation.jsonl"))

    @cached_property
    def instructions(self) -> Artifact:
        return external("instructions", write_instructions(self._root / "instructions.jsonl"))

    @cached_property
    def model(self) -> Artifact:
        return external("model", tiny_model(self._root / "model", layers=4))

    @cached_property
    def student(self) -> Artifact:
        return external("student", tiny_model(self._root / "student", layers=1, seed=1))

    @cached_property
    def documents(self) -> Artifact:
        config = configured(clean.config_type, BASES["clean"])
        return run_stage(clean, config, self._inputs("clean"), self._new_store(), Silent())

    @cached_property
    def blocks(self) -> Artifact:
        config = configured(tokenize.config_type, BASES["tokenize"])
        return run_stage(tokenize, config, self._inputs("tokenize"), self._new_store(), Silent())

    @cached_property
    def teacher_logprobs(self) -> Artifact:
        # As much as any other value of a setting lets a student read.
        config = configured(cache_teacher.config_type, {**BASES["cache"], "blocks": 100})
        return run_stage(cache_teacher, config, self._inputs("cache"), self._new_store(), Silent())

    def first(self, stage: str, settings: Overrides) -> Fingerprint:
        """That of the first run with these settings, which is kept."""
        name = f"{stage} {settings}"
        if name not in self._first:
            self._first[name] = self.again(stage, settings)
        return self._first[name]

    def again(self, stage: str, settings: Overrides) -> Fingerprint:
        """That of a new run. Raises what the stage raises, and ValidationError."""
        config = configured(STAGES[stage].config_type, settings)
        return fingerprint(STAGES[stage], config, self._inputs(stage), self._new_store())

    def _inputs(self, section: str) -> Inputs:
        """What the stage asks for by its inputs class: each of its roles is something that is made here, or left out."""
        roles = (one.name for one in dataclasses.fields(STAGES[section].inputs_type))
        found = {role: getattr(self, _MADE_AS.get(role, role), None) for role in roles}
        several = {"corpus", "evaluations"}
        return {
            role: (value,) if role in several else value for role, value in found.items() if value is not None
        }

    def _new_store(self) -> Store:
        self._runs += 1
        return Store(self._root / f"store-{self._runs}")


class Witness:
    """A report that also looks at what lies in the store meanwhile, and at what torch does."""

    def __init__(self, root: Path):
        self._root = root
        self.reported: list[tuple] = []
        """Steps with the names of the figures, and progress, in their order."""
        self.checkpoints: set[str] = set()
        self.read: list[tuple[int, ...]] = []
        """Shape of every batch of tokens that a model read."""
        self.kept = 0
        """Bytes that were kept for backward passes, all in all."""

    def metrics(self, values, step=None) -> None:
        self.reported.append((step, sorted(values)))
        self._look()

    def progress(self, done, total, what) -> None:
        # Some progress is told by the clock: only how far it came in the end is the same every time.
        if self.reported and self.reported[-1][-1] == what:
            self.reported.pop()
        self.reported.append((done, total, what))
        self._look()

    @contextmanager
    def of_torch(self) -> Iterator[None]:
        import torch

        # Two threads spend longer waiting for each other than one on batches of this size.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        hook = torch.nn.modules.module.register_module_forward_pre_hook(self._see)
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            try:
                yield
            finally:
                hook.remove()
                torch.set_num_threads(threads)

    def _look(self) -> None:
        self.checkpoints |= {path.name for path in self._root.glob(".partial/*/checkpoints/checkpoint-*")}

    def _see(self, module, arguments) -> None:
        if type(module).__name__ == "Embedding":
            self.read.append(tuple(arguments[0].shape))

    def _keep(self, tensor):
        self.kept += tensor.nbytes
        return tensor


@contextmanager
def pictures_left_out() -> Iterator[None]:
    """Have pictures drawn and not painted: they are no evidence, and each takes 0.12 s of a core."""
    paint = Figure.savefig
    Figure.savefig = lambda self, path, **options: Path(path).touch()  # type: ignore[method-assign]
    try:
        yield
    finally:
        Figure.savefig = paint  # type: ignore[method-assign]


def fingerprint(stage: Stage, config: StageConfig, inputs: Inputs, store: Store) -> Fingerprint:
    """Whatever a run of the stage shows, but for timings and memory. Raises what the stage raises."""
    witness = Witness(store.root)
    with witness.of_torch(), pictures_left_out():
        artifact = run_stage(stage, config, inputs, store, witness)
    files = Manifest.model_validate_json((artifact.path / MANIFEST).read_text()).files
    return {
        "files": {name: digest for name, digest in files.items() if _is_evidence(name)},
        "summary": {name: value for name, value in artifact.summary.items() if not name.endswith(_MEASURED)},
        "repeats": _repeats(artifact.path / "evaluation.json"),
        "reported": witness.reported,
        "checkpoints": witness.checkpoints,
        "read": witness.read,
        "kept": witness.kept,
    }


def configured(kind: type[StageConfig], settings: Mapping[str, Any]) -> Any:
    """`kind` with `{"quality.min_words": 3}` and the like; raises ValidationError."""
    nested: dict[str, Any] = {}
    for path, value in settings.items():
        *sections, name = path.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return kind.model_validate(nested)


def _is_evidence(name: str) -> bool:
    return not name.startswith(f"{REPORT}/") and Path(name).name not in _NO_EVIDENCE


def _repeats(evaluation: Path) -> dict[str, int]:
    """How often each speed was measured."""
    if not evaluation.exists():
        return {}
    speed = json.loads(evaluation.read_text())["speed"]
    return {name: len(value) for name, value in speed.items() if isinstance(value, list | dict)}
