"""Against a real Prefect server: what is deployed a second time leaves alone what a person changed in the UI.

Each test changes a deployment of its own.
"""

import contextvars
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import PrefectHTTPStatusError
from prefect.testing.utilities import prefect_test_harness

from flows.deployments import NIGHTLY, POOL, deploy, deployments, version_of
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.store import Artifact
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.human.blind_sheets import SheetKey
from leanpipe.evaluation.verdict import Outcome, Verdict
from tasks.approval import approved
from tasks.tracking.versions import Version
from tasks.votes import gather_votes
from tests.evaluation.human.sheets import blinded

NIGHTLY_RUN, FIRST_FORM, EXPERT = (f"data-to-deployment/{name}" for name in ("nightly", "default", "expert"))


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    """Of a server of its own, on which everything was deployed once."""
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        deploy()
        yield client


def save(client: SyncPrefectClient, name: str, **changes: Any) -> None:
    """Save changes of a deployment as the UI does."""
    client.update_deployment(client.read_deployment_by_name(name).id, DeploymentUpdate(**changes))


def test_what_is_made_is_switched_off_and_one_at_a_time(client: SyncPrefectClient):
    (schedule,) = client.read_deployment_by_name(NIGHTLY_RUN).schedules
    assert (schedule.active, schedule.schedule.cron) == (False, NIGHTLY)
    assert client.read_work_pool(POOL).concurrency_limit == 1
    assert len(client.read_deployments()) == len(deployments())


def test_only_what_is_not_known_there_already_is_told_again(client: SyncPrefectClient):
    """Prefect's server takes as long to be told what it knows; one deployment that lacks what the code says gets it."""
    deploy()
    before = {one.name + one.entrypoint: one.updated for one in client.read_deployments()}
    deploy()
    assert {one.name + one.entrypoint: one.updated for one in client.read_deployments()} == before
    older = client.read_deployment_by_name("shrink/default")
    save(client, "shrink/default", description="as an older release had it", parameter_openapi_schema={})
    deploy()
    after = client.read_deployment_by_name("shrink/default")
    assert (after.description, after.parameter_openapi_schema) == (
        older.description,
        older.parameter_openapi_schema,
    )
    changed = {one.name + one.entrypoint: one.updated for one in client.read_deployments()}
    assert [name for name in before if changed[name] != before[name]] == [older.name + older.entrypoint]


def test_a_schedule_that_was_switched_on_and_moved_stays_so(client: SyncPrefectClient):
    before = client.read_deployment_by_name(NIGHTLY_RUN)
    (schedule,) = before.schedules
    monday = CronSchedule(cron="30 4 * * 1", timezone="Europe/Berlin")
    client.update_deployment_schedule(before.id, schedule.id, active=True, schedule=monday)
    deploy()
    (after,) = client.read_deployment_by_name(NIGHTLY_RUN).schedules
    assert (after.id, after.active, after.schedule) == (schedule.id, True, monday)


def test_a_schedule_that_was_added_stays(client: SyncPrefectClient):
    """With a slug: of those Prefect's server takes care in another way."""
    weekly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 3 * * 0"), active=True, slug="weekly")
    body = [weekly.model_dump(mode="json", exclude_unset=True)]
    place = {"id": client.read_deployment_by_name(EXPERT).id}
    client.request("POST", "/deployments/{id}/schedules", path_params=place, json=body)
    deploy()
    assert [one.slug for one in client.read_deployment_by_name(EXPERT).schedules] == ["weekly"]


def test_a_pause_tags_limits_and_surroundings_stay(client: SyncPrefectClient):
    name, here = "distill/default", str(Path.cwd())
    there = client.read_deployment_by_name(name)
    surroundings = {"env": {"OMP_NUM_THREADS": "1"}, "working_dir": "/elsewhere"}
    save(client, name, paused=True, tags=["mine"], concurrency_limit=3, job_variables=surroundings)
    client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=2))
    deploy()
    after = client.read_deployment_by_name(name)
    assert after.paused and after.tags == ["mine"]
    assert after.global_concurrency_limit is not None and after.global_concurrency_limit.limit == 3
    assert after.job_variables == {**surroundings, "working_dir": here} and there.job_variables == {
        "working_dir": here
    }
    assert client.read_work_pool(POOL).concurrency_limit == 2


def test_what_the_code_says_is_brought_up_to_date(client: SyncPrefectClient):
    name = "evaluate/default"
    wanted = client.read_deployment_by_name(name)
    anything = {"type": "object", "properties": {}}
    save(client, name, entrypoint="gone.flow", description="old", parameter_openapi_schema=anything)
    deploy()
    after = client.read_deployment_by_name(name)
    assert (after.entrypoint, after.description) == (wanted.entrypoint, wanted.description)
    assert after.parameter_openapi_schema == wanted.parameter_openapi_schema != anything


def test_parameters_that_were_edited_stay(client: SyncPrefectClient):
    config = client.read_deployment_by_name(FIRST_FORM).parameters["config"]
    config |= {"preset": "24gb", "corpus": ["/data/mine"]}
    save(client, FIRST_FORM, parameters={"config": config})
    deploy()
    assert client.read_deployment_by_name(FIRST_FORM).parameters == {"config": config}


def test_of_parameters_that_no_longer_fit_the_rest_stays(client: SyncPrefectClient, caplog):
    """As after a version in which one setting was renamed and another got narrower bounds."""
    before = client.read_deployment_by_name(NIGHTLY_RUN).parameters["config"]
    edited = {"corpus": ["/data/mine"], "tokens_of_old": 7, "preset": "huge"}
    anything = {"type": "object", "properties": {}}
    save(client, NIGHTLY_RUN, parameters={"config": before | edited}, parameter_openapi_schema=anything)
    with caplog.at_level(logging.WARNING):
        deploy()
    after = client.read_deployment_by_name(NIGHTLY_RUN).parameters
    assert after == {"config": before | {"corpus": ["/data/mine"]}}
    (said,) = [message for message in caplog.messages if NIGHTLY_RUN in message]
    assert "tokens_of_old=7" in said and "preset=huge" in said and "/data/mine" not in said


def test_defaults_that_nobody_changed_become_those_of_now(client: SyncPrefectClient):
    """They were written by an earlier version, which had others."""
    name = "finetune/default"
    wanted = client.read_deployment_by_name(name).parameters
    old = json.loads(json.dumps(wanted))
    old["config"]["model"] = "an-old-model"
    save(client, name, parameters=old, version=version_of(old))
    deploy()
    assert client.read_deployment_by_name(name).parameters == wanted


@flow
def asks(policy: RegisterConfig) -> Verdict:
    """What becomes of a challenger that is to be promoted, if a person is asked."""
    version = Version(name="asked", version="2", aliases=[], digest="", documents="")
    return approved(Verdict(Outcome.PROMOTE, "It is better.", best=True), version, "1", policy)


def answer(client: SyncPrefectClient, **given: Any) -> str:
    """Resume the run that is paused, as a person does on its page, and return what is said there."""
    for _ in range(600):
        paused = [one for one in client.read_flow_runs() if one.state and one.state.is_paused()]
        if paused and paused[0].state and (keys := paused[0].state.state_details.run_input_keyset):
            try:
                said = client.read_flow_run_input(paused[0].id, keys["description"])
            except PrefectHTTPStatusError:  # the run is paused before it says what it asks
                time.sleep(0.1)
                continue
            client.resume_flow_run(paused[0].id, run_input=given)
            return said
        time.sleep(0.1)
    return ""


@pytest.mark.parametrize(("approve", "outcome"), [(True, Outcome.PROMOTE), (False, Outcome.KEEP)])
def test_approval_is_asked_for_on_the_page_of_the_run(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, approve: bool, outcome: Outcome
):
    monkeypatch.setattr("tasks.approval._POLL", 1)
    context = contextvars.copy_context()
    given = {"approve": approve, "by": "Anna", "why": "I read its answers"}
    Thread(target=lambda: context.run(answer, client, **given), daemon=True).start()
    verdict = asks(RegisterConfig(approval=True))
    assert verdict.outcome is outcome and verdict.best is approve
    assert verdict.reason.startswith("Anna (I read its answers)") and "It is better." in verdict.reason


def test_approval_is_waited_for_approval_hours(client: SyncPrefectClient):
    verdict = asks(RegisterConfig(approval=True, approval_hours=0.0005))
    assert verdict.outcome is Outcome.KEEP and "Nobody approved of it" in verdict.reason


@flow
def votes(
    home: Home, sheets: Artifact, given: tuple[str, ...] = (), wait_hours: float = 0.1
) -> Artifact | None:
    """What is voted on the sheets, if a person is asked."""
    return gather_votes(home, sheets, given, wait_hours)


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Those of two models with three answers each."""
    return blinded(tmp_path_factory.mktemp("sheets"), ["a", "b", "c"], ["d", "e", "f"])


def filled(sheets: Artifact, vote: str = "left") -> str:
    sheet = SheetKey.read(sheets.path).sheet
    return f"sheet,item,vote,rater\n{sheet},1,{vote},Anna\n{sheet},2,tie,Anna\n"


def test_votes_are_asked_for_on_the_page_of_the_run_until_they_can_be_read(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sheets: Artifact
):
    """The first that are given have a slip: the page says which, and the run goes on with the next."""
    monkeypatch.setattr("tasks.votes._POLL", 1)
    (tmp_path / "ben.csv").write_text(filled(sheets).replace("Anna", "Ben"))
    asked: list[str] = []

    def resume() -> None:
        for given in ([filled(sheets, "lefft")], [filled(sheets), str(tmp_path / "ben.csv")]):
            asked.append(answer(client, sheets=given))

    context = contextvars.copy_context()
    Thread(target=lambda: context.run(resume), daemon=True).start()
    kept = votes(Home(tmp_path), sheets)
    assert kept is not None and kept.path.parent == Home(tmp_path).votes
    assert "Not taken" not in asked[0] and "row 2 of the pasted sheet 1 says 'lefft'" in asked[1]
    assert kept.path.read_text().count("Anna") == kept.path.read_text().count("Ben") == 2


def test_votes_are_waited_for_wait_hours(client: SyncPrefectClient, tmp_path: Path, sheets: Artifact):
    with pytest.raises(
        UserError, match=r"nobody gave votes within 0\.0005 hours \(wait_hours\): have the sheets filled in"
    ):
        votes(Home(tmp_path), sheets, wait_hours=0.0005)
    assert votes(Home(tmp_path), sheets, wait_hours=0) is None


def test_votes_that_are_given_are_not_asked_for(client: SyncPrefectClient, tmp_path: Path, sheets: Artifact):
    kept = votes(Home(tmp_path), sheets, given=(filled(sheets),))
    assert kept is not None and "Anna" in kept.path.read_text()
    with pytest.raises(UserError, match="'lefft', which is no vote"):
        votes(Home(tmp_path), sheets, given=(filled(sheets, "lefft"),))
