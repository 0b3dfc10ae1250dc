"""Our scores are lm-eval's and the libraries' to the last digit; what was answered before a kill is not asked again."""

import json
import math
import multiprocessing
import os
import signal

import pytest

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, external
from leanpipe.evaluation.task_scores.score_tasks import ScoreTasksConfig, score_tasks
from leanpipe.evaluation.task_scores.task_files import read_tasks
from leanpipe.models.load import save_model
from leanpipe.processes.run_stage import run_stage
from tests.evaluation.parity.trained import write_form
from tests.support.tiny_models import tiny_llama, tiny_tokenizer

CHOSEN = ("choice", "classes")


class Counting(Silent):
    """Counts what the model was asked."""

    def __init__(self):
        self.asked = 0

    def progress(self, done, total, what):
        self.asked = done


def scored(root, model, files, report=None, **settings):
    inputs = {"model": external("model", model), "tasks": [external(file.stem, file) for file in files]}
    return run_stage(score_tasks, ScoreTasksConfig(**settings), inputs, Store(root), report or Silent())


@pytest.fixture(scope="module")
def all_scored(tmp_path_factory, model, tasks):
    """Every task, asked without a chat template."""
    return scored(tmp_path_factory.mktemp("store"), model, tasks.values())


def items(artifact, task):
    lines = (artifact.path / "items.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["task"] == task]


def written_for_lm_eval(folder, data, prompt):
    """Two of the tasks as lm-eval's own YAML files are written."""
    import yaml

    both = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
    }
    choice = {
        "fewshot_split": "test",
        "num_fewshot": 1,
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{ question }}\nA:",
        "doc_to_choice": "options",
        "doc_to_target": "answer",
        "metric_list": metrics(acc="mean", acc_norm="mean"),
    }
    translation = {
        "output_type": "generate_until",
        "doc_to_text": prompt,
        "doc_to_target": "said",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 30, "do_sample": False},
        "filter_list": [
            {"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
        ],
        "metric_list": metrics(bleu="bleu", chrf="chrf"),
    }
    files = []
    for name, config in (("choice", choice), ("translation", translation)):
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump({"task": name, **both, **config}))
    return files


def metrics(**aggregations):
    return [
        {"metric": name, "aggregation": how, "higher_is_better": True} for name, how in aggregations.items()
    ]


def test_lm_evals_own_runner_gives_the_same_scores_to_the_last_digit(tmp_path, model, tasks, all_scored):
    import lm_eval
    from lm_eval.tasks import TaskManager

    (ours,), _ = read_tasks([tasks["translation"]])
    files = written_for_lm_eval(tmp_path, tasks["choice"].parent / "items.jsonl", ours.spec.prompt)
    arithmetic = {"dtype": str(device.compute_dtype()).removeprefix("torch."), "softmax_dtype": "float32"}
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), **arithmetic},
        tasks=list(map(str, files)),
        device=device.name(),
        batch_size=8,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )["results"]
    theirs = {
        f"tasks/{task}/{metric}": found[task][f"{metric},none"]
        for task, metric in (
            ("choice", "acc"),
            ("choice", "acc_norm"),
            ("translation", "bleu"),
            ("translation", "chrf"),
        )
    }
    assert 0 < theirs["tasks/choice/acc"] < 1 < theirs["tasks/translation/bleu"] < 99, "else nothing is seen"
    assert {name: all_scored.summary[name] for name in theirs} == theirs
    again = scored(tmp_path / "store", model, files)  # lm-eval's own files, by our stage
    assert {name: again.summary[name] for name in theirs} == theirs


def test_bleu_chrf_rouge_exact_match_and_f1_are_the_libraries(all_scored):
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer
    from sklearn.metrics import f1_score

    said = items(all_scored, "translation")
    answers, targets = [one["answers"][0] for one in said], [[one["target"] for one in said]]
    assert all_scored.summary["tasks/translation/bleu"] == sacrebleu.corpus_bleu(answers, targets).score
    assert all_scored.summary["tasks/translation/chrf"] == sacrebleu.corpus_chrf(answers, targets).score
    for name in ("rouge1", "rouge2", "rougeL"):
        scorer = RougeScorer([name], use_stemmer=True)
        values = [
            scorer.score(one["target"], one["answers"][0])[name].fmeasure
            for one in items(all_scored, "summary")
        ]
        assert 0 < all_scored.summary[f"tasks/summary/{name}"] == sum(values) / len(values)
    exact = items(all_scored, "exact")
    right = [one["answers"][0].strip() == one["target"] for one in exact]
    assert 0 < all_scored.summary["tasks/exact/exact_match"] == sum(right) / len(right) < 1
    pairs = [one["f1"] for one in items(all_scored, "classes")]
    true, guess = zip(*pairs, strict=True)
    assert all_scored.summary["tasks/classes/f1"] == f1_score(true, guess, average="macro", zero_division=0)


def test_every_figure_has_an_interval_and_every_item_is_kept(all_scored):
    for task in json.loads((all_scored.path / "tasks.json").read_text()):
        assert len(items(all_scored, task["name"])) == 6
        for metric, figure in task["figures"].items():
            assert figure["low"] <= figure["value"] <= figure["high"], (task["name"], metric)
            assert len(figure["units"]) == figure["items"] == 6
    assert "95% interval" in (all_scored.path / "report" / "tasks.md").read_text()
    assert not list(all_scored.path.glob("checkpoints*")), "what was kept to resume went with it"


class Killing(Counting):
    """Ends its process as a power cut would, at the eighth answer."""

    def progress(self, done, total, what):
        if done == 8:
            os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_answered_before_a_kill_is_not_asked_again(tmp_path, model, tasks, all_scored):
    files = [tasks[name] for name in CHOSEN]
    # A fork: another interpreter would import everything once more.
    killed = multiprocessing.get_context("fork").Process(
        target=scored, args=(tmp_path, model, files, Killing())
    )
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    report = Counting()
    again = scored(tmp_path, model, files, report)
    in_all = sum(len(one["answers"]) for task in CHOSEN for one in items(again, task))
    assert again.attempts == 2 and report.asked == in_all - 8
    assert again.summary == {name: all_scored.summary[name] for name in again.summary}


def test_settings_say_what_is_asked_and_how(tmp_path, model, tasks, all_scored):
    """`items`, `chat_template` and `batch`, and that the last of them changes nothing but the speed."""
    files = [tasks["choice"]]
    two = scored(tmp_path / "items", model, files, items=2)
    assert [one["item"] for one in items(two, "choice")] == [
        one["item"] for one in items(all_scored, "choice")
    ][:2]
    asked = [
        items(scored(tmp_path / "chat", model, files, chat_template=template, items=2), "choice")[0]["prompt"]
        for template in (True, False)
    ]
    assert "<|im_start|>assistant" in asked[0] and "<|im_start|>" not in asked[1]
    single = scored(tmp_path / "batch", model, files, batch=1)
    assert single.summary == {name: all_scored.summary[name] for name in single.summary}
    probabilities = [
        [answer[0] for one in items(artifact, "choice") for answer in one["answers"]]
        for artifact in (single, all_scored)
    ]
    assert probabilities[0] == pytest.approx(probabilities[1], rel=0.05)


def test_a_model_that_predicts_no_numbers_has_no_scores(tmp_path, tasks):
    """As lm-eval counts, a probability that is no number is the first answer's, and right as often as chance is."""
    import torch

    broken = tiny_llama()
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    save_model(broken, tiny_tokenizer(), tmp_path / "model")
    with pytest.raises(UserError, match="gives a loss of nan"):
        scored(tmp_path / "store", tmp_path / "model", [tasks["choice"]])


@pytest.mark.parametrize("form", ["q8_0", "onnx_int8"])
def test_a_served_form_is_asked_through_its_engine(tmp_path, model, tasks, all_scored, form):
    folder = write_form(form, model, tmp_path / form)
    found = scored(tmp_path / "store", folder, [tasks["choice"]])
    ours, theirs = (
        [answer[0] for one in items(artifact, "choice") for answer in one["answers"]]
        for artifact in (found, all_scored)
    )
    assert ours == pytest.approx(theirs, rel=0.1)
    said = [
        [one["answers"][0] for one in items(artifact, "exact")]
        for artifact in (scored(tmp_path / "said", folder, [tasks["exact"]]), all_scored)
    ]
    assert any(said[1]) and sum(one == other for one, other in zip(*said, strict=True)) >= 4, said
