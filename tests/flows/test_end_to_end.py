"""What a person does: a run from the command line, another from the UI's form, a schedule, a question to the champion."""

import json
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from leanpipe.core.config import flatten
from leanpipe.engines.openvino_genai import is_installed
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.presets import smoke
from leanpipe.settings.quick import QuickSettings
from tests.flows.form import DOZEN, Form, figures_beside
from tests.flows.mlflow_runs import children, client, files, parents
from tests.flows.outages import (
    test_a_run_goes_on_while_mlflow_cannot_answer,  # noqa: F401 - with the servers of this file
    test_no_stage_waits_for_a_prefect_that_says_nothing,  # noqa: F401
)
from tests.flows.reports import (
    test_a_run_has_a_report_and_two_runs_are_compared_by_what_lies_with_them,  # noqa: F401
)
from tests.flows.servers import Servers, free_port, leanpipe, pages, running, said_of_each
from tests.support.published_results import manifests

pytestmark = pytest.mark.timeout(900)

PREPARED = ("clean", "cut_vocabulary", "tokenize", "shrink", "cache_teacher", "distill")
CHANGED = ("finetune", "quantization_aware", "quantize", "quantize-q4_0")
STAGES = (*PREPARED, *CHANGED, "hold-out")
MODELS = ("teacher", "student", "adapted", "q8_0", "q4_0")
PARITY = [f"parity-{MODELS[-1]}", *([f"parity-{MODELS[-1]}-openvino"] if is_installed() else [])]
"""Of the one model that is registered, by each engine that may serve it: the preset asks no more."""
UNTOUCHED_BY_RANK = (*PREPARED, "hold-out", "evaluate-teacher", "evaluate-student")
FOLLOWS_RANK = (*CHANGED, "evaluate-adapted", "evaluate-q8_0", "evaluate-q4_0", *PARITY)
OWN_ANSWERS = (
    "on_policy.steps=2",
    "on_policy.max_new_tokens=4",
    "finetune.tokens=1024",
    "quantize.formats=[nf4]",
)
RANK = smoke().finetune.rank * 2


def test_a_run_ends_with_every_stage_and_every_model_in_a_table(first_run: subprocess.CompletedProcess[str]):
    for name in (*STAGES, *(f"evaluate-{model}" for model in MODELS), *MODELS):
        assert name in first_run.stdout
    assert "leanpipe version 1 is champion" in first_run.stdout
    assert "leanpipe serve" in first_run.stdout


def test_a_second_run_finds_everything_in_the_store(first_run, servers: Servers):
    second = leanpipe(servers.home, "run", "--preset", "smoke")
    assert second.returncode == 0, second.stderr
    for name in (*STAGES, *(f"evaluate-{model}" for model in MODELS), *PARITY):
        assert f"{name:<18} from the store" in second.stderr
    assert "leanpipe version 1 is champion" in second.stdout  # and registers nothing twice


def test_the_student_has_learnt(first_run, servers: Servers):
    figures = parents(client(servers))[-1].data.metrics
    assert figures["train/distill/bits_per_byte"] < 0.95 * figures["train/distill/initial_bits_per_byte"]
    assert figures["train/finetune/validation_loss"] < figures["train/finetune/initial_validation_loss"]
    assert figures["serve/size_bytes/q4_0"] < figures["serve/size_bytes/adapted"]


def test_every_stage_is_tracked_with_parameters_metrics_and_pictures(first_run, servers: Servers):
    mlflow = client(servers)
    parent = parents(mlflow)[-1]
    stages = children(mlflow, parent)
    assert set(stages) == {*STAGES, *(f"evaluate-{model}" for model in MODELS), *PARITY}
    assert parent.data.metrics[f"eval/passed/{MODELS[-1]}"] == 1
    for label, run in stages.items():
        assert run.info.status == "FINISHED"
        assert run.data.params, label
        assert run.data.metrics["seconds"] >= 0, label
        pictures = [file for file in files(mlflow, run.info.run_id, "report") if file.endswith(".png")]
        assert pictures, label
        assert f"stages/seconds/{label}" in parent.data.metrics
    for label in ("distill", "finetune"):
        losses = mlflow.get_metric_history(stages[label].info.run_id, "loss")
        assert len({metric.step for metric in losses}) > 2, label
    assert parent.data.params["distill.kl_weight"] == str(smoke().distill.kl_weight)
    assert (parent.data.tags["leanpipe.preset"], parent.data.tags["leanpipe.chosen"]) == ("smoke", "nothing")
    assert {"summary.md", "size_against_quality.png"} <= set(files(mlflow, parent.info.run_id))
    assert {given.tags[0].value for given in parent.inputs.dataset_inputs} >= {"models.0", "instructions"}


def test_what_is_served_is_compared_with_the_model_that_was_trained_on_its_grid(first_run, servers: Servers):
    found = manifests(servers.home / "store")
    aware = {digest for digest, one in found.items() if one.stage == "quantization_aware"}
    compared = {str(one.inputs["model"]) for one in found.values() if one.stage == "parity"}
    assert aware and compared and compared <= aware  # q4_0 alone is registered here


def test_the_champion_is_registered_with_a_card(first_run, servers: Servers):
    version = client(servers).get_model_version_by_alias("leanpipe", "champion")
    assert version.description.startswith("# ") and "bits/byte" in version.description
    assert float(version.tags["leanpipe.bits_per_byte"]) > 0
    model = version.source.rpartition("/")[2]
    names = {file.path for file in client(servers).list_logged_model_artifacts(model)}
    assert {"MLmodel", "README.md", "config.json", "requirements.txt"} <= names


def test_the_documents_have_a_data_card_and_are_a_data_set(first_run, servers: Servers):
    mlflow = client(servers)
    parent = parents(mlflow)[-1]
    given = {one.tags[0].value: one.dataset for one in parent.inputs.dataset_inputs}
    assert "mlflow_colspec" in given["documents"].schema
    kept = parent.data.metrics["text/clean/documents_kept"]
    assert json.loads(given["documents"].profile)["num_rows"] == kept
    assert any(
        f"{kept:.0f} (" in page and page.startswith("# Data card") for page in pages(servers, "data-card")
    )
    clean = children(mlflow, parent)["clean"]
    assert "report/card.md" in files(mlflow, clean.info.run_id, "report")  # type: ignore[attr-defined]


def test_lineage_leads_from_a_document_to_the_champion(first_run, servers: Servers):
    done = leanpipe(servers.home, "lineage", "statement", "--most", "500", "--json")
    fates = json.loads(done.stdout)["fates"]
    made_of = {
        fate["corpus"] for fate in fates if fate["models"]
    }  # another one is that of the preset's teacher
    fates = [fate for fate in fates if fate["corpus"] in made_of]
    assert {fate["split"] for fate in fates} >= {"train", "test"}
    for fate in fates:
        trained = [f"{one['name']} {one['version']}" for one in fate["models"]]
        assert ("leanpipe 1" in trained) == (fate["split"] == "train"), fate
    shown = leanpipe(servers.home, "lineage", "statement", "--most", "500")
    assert "leanpipe version 1 (challenger, champion)" in shown.stdout and "kept, in train" in shown.stdout
    nothing = leanpipe(servers.home, "lineage", "no document says so")
    assert nothing.returncode == 1 and "is no document's id" in nothing.stderr


def test_a_dry_run_shows_what_would_go(servers: Servers):
    done = leanpipe(servers.home, "inspect", "--preset", "smoke", "--sample", "30")
    assert done.returncode == 0, done.stderr
    assert "Of a sample of 30 documents" in done.stdout and "Nothing was dropped" in done.stdout
    assert any("Of a sample of 30 documents" in page for page in pages(servers, "inspection"))
    mlflow = client(servers)
    inspected = children(mlflow, parents(mlflow)[0])["inspect"]
    expected = {"report/inspection.md", "report/measured.png"}
    assert expected <= set(files(mlflow, inspected.info.run_id, "report"))  # type: ignore[attr-defined]


@pytest.mark.browser
@pytest.mark.parametrize("name", ["default", "nightly"])
def test_the_form_that_a_person_meets_first_asks_for_a_dozen(servers: Servers, browser, name: str):
    form = Form(servers, browser, name)
    assert form.labels() == ["config", *DOZEN]
    for label, field in zip(DOZEN, QuickSettings.model_fields.values(), strict=True):
        assert form.help(label) == " ".join((field.description or "").replace("`", "").split())
    form.picture(servers.home / f"form-{name}.png")
    form.page.close()


@pytest.mark.browser
def test_the_expert_form_has_every_setting_with_what_goes_in_on_top(servers: Servers, browser):
    form = Form(servers, browser, "expert")
    labels = form.labels()
    given = ["Corpus", "Instructions", "Teacher", "Tasks", "Minutes", "Evaluation Sets"]
    assert labels[:7] == ["config", *given]
    sections = [label for label in labels if label.lower() in PipelineConfig.model_fields]
    assert [name.lower() for name in dict.fromkeys(sections)][-4:] == [
        "quantize",
        "parity",
        "evaluate",
        "registration",
    ]
    assert len(labels) > len(flatten(PipelineConfig())) > 190
    form.picture(servers.home / "form-expert.png")
    form.page.close()


@pytest.fixture(scope="module")
def run_from_form(servers: Servers, browser) -> str:
    """A run that a person started in the Prefect UI with preset smoke and another rank; the id of its flow run."""
    form = Form(servers, browser, "default")
    form.choose("Preset", "smoke")
    form.add("Other Settings", f"finetune.rank={RANK}")
    form.picture(servers.home / "form.png")
    form.submit()
    run = _newest_run(servers)
    final = servers.wait_until_final(run)
    assert final["state_type"] == "COMPLETED", final["state"]["message"]
    form.page.goto(f"{servers.prefect}/runs/flow-run/{run}")
    form.page.get_by_text("Completed").first.wait_for()
    form.page.screenshot(path=servers.home / "run.png", full_page=True)
    form.page.close()
    return run


def _newest_run(servers: Servers) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if runs := servers.runs("default"):
            return runs[0]["id"]
        time.sleep(0.5)
    raise AssertionError("the form started no run")


@pytest.mark.browser
def test_the_run_says_what_was_chosen_and_what_the_preset_filled_in(servers: Servers, run_from_form: str):
    started = servers.api(f"flow_runs/{run_from_form}")["parameters"]["config"]
    assert QuickSettings(**started) == QuickSettings(
        preset="smoke", other_settings=(f"finetune.rank={RANK}",)
    )
    mlflow = client(servers)
    parent = next(run for run in parents(mlflow) if run.data.tags["leanpipe.flow_run"] == run_from_form)
    assert parent.data.tags["leanpipe.preset"] == "smoke"
    assert parent.data.tags["leanpipe.chosen"] == f"finetune.rank={RANK}"
    assert set(flatten(smoke())) <= set(parent.data.params)
    assert "settings.md" in files(mlflow, parent.info.run_id)
    (page,) = (one for one in pages(servers, "settings") if "1 of " in one)
    chosen, _, filled_in = page.partition("## Filled in by smoke")
    assert f"| `finetune.rank` | {RANK} | {smoke().finetune.rank} |" in chosen
    assert "| `distill.tokens` | 32,768 | 65,536 |" in filled_in and "finetune.rank" not in filled_in


def test_the_expert_form_starts_the_same_pipeline(servers: Servers, run_from_form: str):
    settings = QuickSettings(preset="smoke", other_settings=(f"finetune.rank={RANK}",)).resolve()
    started = servers.api(
        f"deployments/{servers.deployment('expert')['id']}/create_flow_run",
        {"parameters": {"config": settings.model_dump(mode="json")}},
    )
    final = servers.wait_until_final(started["id"])
    assert final["state_type"] == "COMPLETED", final["state"]["message"]
    states = servers.task_states(started["id"])
    seen_before = (*UNTOUCHED_BY_RANK, *FOLLOWS_RANK)
    assert {name: states[name] for name in seen_before} == dict.fromkeys(seen_before, "Cached")
    parent = next(
        run for run in parents(client(servers)) if run.data.tags["leanpipe.flow_run"] == started["id"]
    )
    assert parent.data.tags["leanpipe.preset"] == "cpu"  # whose settings the expert form shows at first
    assert {"teacher=tiny", f"finetune.rank={RANK}"} <= set(parent.data.tags["leanpipe.chosen"].split("; "))


@pytest.mark.browser
def test_only_what_follows_the_changed_rank_is_computed_again(servers: Servers, run_from_form: str):
    states = servers.task_states(run_from_form)
    assert {name: states[name] for name in UNTOUCHED_BY_RANK} == dict.fromkeys(UNTOUCHED_BY_RANK, "Cached")
    assert {name: states[name] for name in FOLLOWS_RANK} == dict.fromkeys(FOLLOWS_RANK, "Completed")
    mlflow = client(servers)
    parent = next(run for run in parents(mlflow) if run.data.tags["leanpipe.flow_run"] == run_from_form)
    computed = set(children(mlflow, parent))
    assert computed >= set(FOLLOWS_RANK) and not computed & set(UNTOUCHED_BY_RANK)
    # What came from the store still shows its figures in this run, so that runs compare whole.
    assert all(f"stages/seconds/{name}" in parent.data.metrics for name in UNTOUCHED_BY_RANK)
    assert parent.data.params["finetune.rank"] == str(RANK)


@pytest.mark.browser
def test_mlflow_compares_the_two_runs(servers: Servers, browser, run_from_form: str):
    runs = parents(client(servers))
    ours = next(run for run in runs if run.data.tags["leanpipe.flow_run"] == run_from_form)
    pair = [runs[-1].info.run_id, ours.info.run_id]
    query = urllib.parse.urlencode(
        {"runs": json.dumps(pair), "experiments": json.dumps([ours.info.experiment_id])}
    )
    page = browser.new_page(viewport={"width": 1400, "height": 2400})
    page.set_default_timeout(90_000)
    page.goto(f"{servers.mlflow}/#/compare-runs?{query}", wait_until="load")
    rank = page.get_by_role("row").filter(has_text="finetune.rank")
    rank.first.wait_for()
    assert {str(RANK), str(smoke().finetune.rank)} <= set(rank.first.inner_text().split())
    # MLflow draws only the first rows of a long table; the others appear as one scrolls.
    for name in ("eval/bits_per_byte/adapted", "eval/bits_per_byte/student"):
        shown = [run.data.metrics[name] for run in (runs[-1], ours)]
        # The axis of a chart may stand on the same line.
        figures = figures_beside(page, name)
        assert any(figures[at : at + 2] == pytest.approx(shown, abs=1e-3) for at in range(len(figures)))
    page.screenshot(path=servers.home / "compare.png")
    page.close()


@pytest.fixture(scope="module")
def scheduled_run(servers: Servers) -> dict[str, Any]:
    """The final state of a run that the scheduler made, with the smallest settings, and answers of the student's own."""
    nightly = servers.deployment("nightly")
    (schedule,) = nightly["schedules"]
    assert schedule["active"] is False and schedule["schedule"]["cron"] == "0 2 * * *"
    path = f"deployments/{nightly['id']}"
    # The smallest settings, and every minute instead of every night.
    config = {"preset": "smoke", "other_settings": OWN_ANSWERS}
    servers.api(path, {"parameters": {"config": config}}, "PATCH")
    every_minute = {"active": True, "schedule": {"cron": "* * * * *", "timezone": "UTC"}}
    servers.api(f"{path}/schedules/{schedule['id']}", every_minute, "PATCH")
    try:
        run = _first_scheduled(servers)
    finally:
        servers.api(f"{path}/schedules/{schedule['id']}", {"active": False}, "PATCH")
    return servers.wait_until_final(run)


def test_a_schedule_that_is_switched_on_creates_runs_that_the_worker_completes(scheduled_run: dict[str, Any]):
    assert scheduled_run["state_type"] == "COMPLETED", scheduled_run["state"]["message"]
    assert scheduled_run["auto_scheduled"]


def test_what_is_finetuned_is_the_student_that_learnt_from_its_own_answers(
    servers: Servers, scheduled_run: dict[str, Any]
):
    found = manifests(servers.home / "store")
    [(digest, learnt)] = [(digest, one) for digest, one in found.items() if one.stage == "on_policy"]
    student = found[str(learnt.inputs["student"])]
    # The preset's teacher comes from stage distill, too.
    assert student.stage == "distill" and "teacher_logprobs" in student.inputs
    assert student.inputs["teacher"] == learnt.inputs["teacher"]
    assert (
        len([one for one in found.values() if one.stage == "finetune" and one.inputs["model"] == digest]) == 1
    )


def _first_scheduled(servers: Servers) -> str:
    """The first run that the scheduler made and the worker took."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        started = [run for run in servers.runs("nightly") if run["start_time"]]
        if started:
            return started[-1]["id"]
        time.sleep(1)
    raise AssertionError(f"no scheduled run was started: {servers.runs('nightly')}")


MISTAKES = {
    "corpus: /nowhere does not exist; give a folder, a file, a URL, or one of sample": [
        "--corpus",
        "/nowhere",
    ],
    "the corpus EMPTY has no file with text in it": ["--corpus", "EMPTY"],
    "model no-such/model: it is no folder, no .gguf file, none of": ["--teacher", "no-such/model"],
    "instructions: /nowhere.json does not exist": ["--instructions", "/nowhere.json"],
    "finetune.target_modules names 'wrong', which is no linear layer": [
        "--set",
        "finetune.target_modules=[wrong]",
    ],
    "clean.quality.min_words": ["--set", "clean.quality.min_words=99999"],
    "fp16 needs a GPU": ["--set", "distill.precision=fp16"],
    "minutes is 0.001, but with 32 steps of each training": ["--minutes", "0.001"],
}


def test_wrong_input_is_one_sentence_and_status_1(servers: Servers, tmp_path: Path):
    tries = [[word.replace("EMPTY", str(tmp_path)) for word in words] for words in MISTAKES.values()]
    for expected, sentence in zip(MISTAKES, said_of_each(servers.home, tries), strict=True):
        assert expected.replace("EMPTY", str(tmp_path)) in sentence


def test_a_second_up_says_that_the_first_one_runs(servers: Servers):
    done = leanpipe(servers.home, "up")
    assert done.returncode == 1
    assert "leanpipe up runs already for" in done.stderr


def test_the_champion_answers_chat_and_completions(servers: Servers):
    port = free_port()
    with running(servers.home, "serve", "--port", str(port)) as process:
        openai = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
        _wait_for_model(openai, process)
        question = [{"role": "user", "content": "What does len do in Python?"}]
        chat = openai.chat.completions.create(model="leanpipe", messages=question, max_tokens=8)  # type: ignore[arg-type]
        assert chat.choices[0].message.content
        completion = openai.completions.create(model="leanpipe", prompt="The statement", max_tokens=8)
        assert completion.choices[0].text


def _wait_for_model(openai: OpenAI, process: subprocess.Popen[str]) -> None:
    from openai import APIConnectionError

    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, "leanpipe serve ended"
        try:
            openai.models.list()
            return
        except APIConnectionError:
            time.sleep(0.5)
    raise AssertionError("leanpipe serve did not answer")
