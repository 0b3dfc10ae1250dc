"""Tasks are asked of every model if there are any, and cost nothing if there are none."""

from dataclasses import replace

from flows import data_to_deployment, evaluate
from leanpipe.core.estimate import Expected
from leanpipe.planning.references import expected_inputs
from leanpipe.planning.steps import steps_of
from leanpipe.settings.flows import CompareSettings, PipelineConfig
from tests.planning.test_plan import known


def asked(steps) -> list[str]:
    return [one.label for one in steps if one.stage.name == "score_tasks"]


def test_no_model_is_asked_tasks_by_default():
    assert not asked(steps_of(data_to_deployment.stages, PipelineConfig(), known(), "cpu"))
    assert not asked(steps_of(evaluate.stages, CompareSettings(), known(), "cpu"))


def test_every_model_is_asked_the_tasks_that_are_given_or_named(tmp_path):
    file = tmp_path / "capitals.yaml"
    file.write_text("kind: exact_match\nprompt: '{{ question }}'\nfile: capitals.jsonl\n")
    items = ['{"question": "Italy?", "answer": "Rome"}', '{"question": "Spain?", "answer": "Madrid"}']
    (tmp_path / "capitals.jsonl").write_text("\n".join(items))
    given = replace(known(), tasks=(Expected(file),))
    steps = steps_of(data_to_deployment.stages, PipelineConfig(), given, "cpu")
    models = ("teacher", "student", "adapted", "q8_0", "q4_0")
    assert asked(steps) == [f"score_tasks-{model}" for model in models]
    last = steps[-1]
    assert last.portable().inputs == {"model": "quantize-q4_0/q4_0", "tasks": ["tasks.0"]}
    assert last.estimate.work > 0
    planned = expected_inputs(CompareSettings(models=("tiny",), tasks=(str(file), "mmlu-sample")))
    assert [one.path for one in planned.tasks] == [file, None], "what `leanpipe plan` knows of them"
    named = CompareSettings.model_validate({"score_tasks": {"names": ["arc_easy"]}})
    assert len(asked(steps_of(evaluate.stages, named, known(), "cpu"))) == 1
