"""By what runs of a flow are compared: the figures that matter first, in groups, and no fact about the inputs among them."""

from pathlib import Path

from leanpipe.compression.quantize import quantize
from leanpipe.core.stage import NOT_COMPARED
from leanpipe.core.store import Artifact
from leanpipe.corpus.clean import clean
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.evaluation.parity.parity import parity
from leanpipe.training.distill.distill import distill
from tasks.figures import compared

EVALUATED = {
    "bits_per_byte": 1.5,
    "held_out_tokens": 400,
    "size_bytes": 7,
    "peak_memory_bytes": 9,
    "digest": "d",
}


def results() -> dict[str, Artifact]:
    """What a run has at its end, by label, in the order in which it was made."""
    made = {
        "clean": (clean, {"documents_in": 330, "documents_kept": 290}),
        "distill": (distill, {"bits_per_byte": 1.4, "teacher_parameters": 134, "peak_memory": 5}),
        "quantize": (quantize, {"full_bytes": 9, "modules_kept": 1, "q8_0_ratio": 0.3}),
        "evaluate-teacher": (evaluate, EVALUATED),
        "evaluate-my-model": (evaluate, EVALUATED),
        "parity-my-model": (parity, {"passed": 1, "kl": 0.1, "fault": ""}),
    }
    return {
        label: Artifact(
            name=stage.name, path=Path(label), digest=label, summary=summary, seconds=1.5, peak_memory=5
        )
        for label, (stage, summary) in made.items()
    }


def test_what_a_person_compares_stands_first_and_in_groups():
    metrics = [name for name, value in compared(results()).items() if not isinstance(value, str)]
    assert metrics[:2] == ["eval/bits_per_byte/my-model", "eval/bits_per_byte/teacher"]
    groups = [name.partition("/")[0] for name in metrics]
    assert list(dict.fromkeys(groups)) == ["eval", "serve", "model", "train", "text", "stages"]
    assert min(groups) == "eval", "MLflow's page of a run has the groups by the alphabet"
    assert groups == sorted(groups, key=list(dict.fromkeys(groups)).index), "each group is together"
    assert {"text/clean/documents_kept", "train/distill/bits_per_byte", "stages/seconds/clean"} <= {*metrics}
    assert "eval/passed/my-model" in metrics, (
        "what one model was checked for stands behind what all were measured by"
    )


def test_what_only_went_in_is_a_tag():
    named = compared(results())
    assert named["clean.documents_in"] == "330" and named["distill.teacher_parameters"] == "134"
    assert named["quantize.full_bytes"] == "9" and "model/quantize/q8_0_ratio" in named
    assert named["evaluate-my-model.held_out_tokens"] == "400" and named["evaluate-teacher.digest"] == "d"
    assert not [name for name in named if "/" in name and ("held_out" in name or "documents_in" in name)]
    assert "" not in named.values(), "a text that says nothing is no tag"


def test_a_stage_s_own_figure_is_not_overwritten_by_what_running_it_took():
    """An evaluation measures the memory of its model; its process takes more."""
    named = compared(results())
    assert named["serve/peak_memory_bytes/teacher"] == 9
    assert named["stages/peak_memory_bytes/evaluate-teacher"] == 5


def test_a_figure_that_is_not_compared_is_one_that_the_stage_has():
    """A misspelt one would be compared as before."""
    for stage in (clean, distill, evaluate, quantize):
        folder = Path(stage.function.__code__.co_filename).parent
        told = "".join(path.read_text() for path in folder.glob("*.py"))
        for name, group in stage.groups.items():
            assert told.count(f'"{name}"') > 1 or group != NOT_COMPARED, name
