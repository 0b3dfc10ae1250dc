"""What the keys of results hold: every setting of every stage is in them, or says why it is not."""

import dataclasses
import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leanpipe.core.config import StageConfig
from leanpipe.core.keys import ByDevice, NotInKey, this_device
from leanpipe.core.stage import Stage, known_stages
from leanpipe.core.store import Artifact, external

MODULES = (
    "leanpipe.settings.flows",
    "leanpipe.assets.resolve",
    "leanpipe.planning.preflight",
    "leanpipe.planning.within_minutes",
)
STAND_INS: dict[Any, Any] = {int: 1, float: 1.0, str: "cpu", bool: False}
"""Values of settings that have no default, by type; any other is an empty list."""
TRAINING = {"micro_batch", "gradient_checkpointing", "checkpoint_every_steps", "log_every_steps"}
EXECUTION = {"executor", "workers", "slurm_partition", "slurm_hours"}
LEFT_OUT = {
    "clean": {f"execution.{name}" for name in EXECUTION},
    "inspect": {f"clean.execution.{name}" for name in EXECUTION},
    "cache_teacher": {"max_gigabytes"},
    "distill": TRAINING | {"teacher_memory"},
    "finetune": TRAINING,
    "pretrain": TRAINING,
    "on_policy": TRAINING - {"gradient_checkpointing"},
    "quantization_aware": TRAINING,
    "parity": {"models"},
    "write": {"streams"},
    "score_tasks": {"batch"},
    "evaluate": {"stored_weights"},
    "low_rank": {"saved"},
    "search_shapes": {"max_cost"},
    "cut_vocabulary": {"max_unseen"},
    "choose_lengths": {"found"},
}
"""The settings that are in no key, by stage. One more is a decision: look whether it really changes no result."""
WITHOUT_DEVICE = {
    "clean",
    "inspect",
    "tokenize",
    "describe_model",
    "seed_model",
    "import_gguf",
    "hold_out_instructions",
    "blind_sheets",
    "count_votes",
    "choose_lengths",
}
HERE = {"kind": "cpu", "arithmetic": "bf16", "model": "A"}


def stages() -> list[Stage]:
    for module in MODULES:
        importlib.import_module(module)
    return [one for one in known_stages().values() if one.address.startswith("leanpipe.")]


def config_of(stage: Stage) -> StageConfig:
    fields = stage.config_type.model_fields.items()
    needed = {name: STAND_INS.get(one.annotation, ()) for name, one in fields if one.is_required()}
    return stage.config_type.model_construct(None, **needed)


def inputs_of(stage: Stage) -> dict[str, Artifact]:
    """Something for each of its roles; there is no such file."""
    roles = (one.name for one in dataclasses.fields(stage.inputs_type))
    return {role: Artifact(name=role, path=Path("/nowhere"), digest=role) for role in roles}


def leaves(config: StageConfig, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that holds no other settings, by its path, and its marks."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, StageConfig):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", field.metadata


def changed(config: StageConfig, path: str) -> StageConfig:
    """The settings with another value at `path`."""
    name, _, rest = path.partition(".")
    value = getattr(config, name)
    return config.model_copy(update={name: changed(value, rest) if rest else another(value)})


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case tuple():
            return (*value, "x")
        case None:
            return 1
    raise TypeError(value)


@pytest.mark.parametrize("stage", stages(), ids=lambda stage: stage.name)
def test_a_setting_is_in_the_key_unless_it_says_why_not(stage: Stage):
    config = config_of(stage)
    left_out = set()
    for path, marks in leaves(config):
        with warnings.catch_warnings(action="ignore"):  # another value may be none that is allowed
            other = stage.key(changed(config, path), inputs_of(stage), HERE)
        same = other == stage.key(config, inputs_of(stage), HERE)
        why = [mark.why for mark in marks if isinstance(mark, NotInKey)]
        assert same == bool(why) and all(len(one.split()) > 3 for one in why), path
        left_out |= {path} if same else set()
    assert left_out == LEFT_OUT.get(stage.name, set())


def test_what_memory_and_patience_decide_is_in_no_key_of_a_training():
    """Whatever the names of such settings: the plan advises them to who ran out of memory."""
    from leanpipe.planning.plan import _KNOBS

    for stage in stages():
        for name in {name for knob in _KNOBS for name in knob} - {"optimizer"}:
            assert name not in stage.config_type.model_fields or name in LEFT_OUT[stage.name]


@pytest.mark.parametrize("stage", stages(), ids=lambda stage: stage.name)
def test_the_device_is_in_the_keys_of_what_is_computed_on_it(stage: Stage):
    config = config_of(stage)

    def same(**other: str) -> bool:
        inputs = inputs_of(stage)
        return stage.key(config, inputs, HERE | other) == stage.key(config, inputs, HERE)

    without = stage.name in WITHOUT_DEVICE
    assert same(kind="cuda") == same(arithmetic="fp32") == without
    assert same(model="B") == (stage.name not in ("evaluate", "kernel_speed"))  # those that measure speeds


def test_an_arithmetic_that_the_device_decides_is_in_the_key_as_what_it_is():
    found = 0
    for stage in stages():
        marks = dict(leaves(config_of(stage)))
        if not any(isinstance(mark, ByDevice) for mark in marks.get("precision", ())):
            assert "precision" not in marks
            continue
        found += 1
        auto, bf16, fp32 = (
            config_of(stage).model_copy(update={"precision": one}) for one in ("auto", "bf16", "fp32")
        )
        old = HERE | {"arithmetic": "fp32"}
        assert stage.key(auto, {}, HERE) == stage.key(bf16, {}, HERE) != stage.key(fp32, {}, HERE)
        assert stage.key(auto, {}, old) == stage.key(fp32, {}, old) != stage.key(bf16, {}, old)
    assert found == 5


def test_by_default_it_is_this_device():
    stage = next(one for one in stages() if one.name == "evaluate")
    assert stage.key(config_of(stage), {}) == stage.key(config_of(stage), {}, this_device())


@pytest.mark.parametrize(
    "name", ["report/told.jsonl", "manifest.json", "more/manifest.json", "told.jsonl", "more/report/a.txt"]
)
def test_every_file_of_a_persons_folder_counts(tmp_path: Path, name: str):
    """Whatever it is called: only results of ours have a report and a manifest."""
    file = tmp_path / "given" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"prompt": "a", "completion": "b"}')
    before = external("given", tmp_path / "given")
    file.write_text('{"prompt": "a", "completion": "c"}')
    assert external("given", tmp_path / "given").digest != before.digest
    file.rename(file.with_name("other"))
    assert external("given", tmp_path / "given").digest != before.digest


def test_inputs_count_by_their_content_and_not_by_their_place():
    stage = next(one for one in stages() if one.name == "evaluate")
    one, moved, other = (
        Artifact(name=name, path=Path(name), digest=digest)
        for name, digest in (("a", "1"), ("b", "1"), ("a", "2"))
    )
    config = config_of(stage)
    keys = [stage.key(config, {"model": model}, HERE) for model in (one, moved, other)]
    assert keys[0] == keys[1] != keys[2]
