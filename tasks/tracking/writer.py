"""Telling MLflow what a spool holds, in order. Each entry may be told twice: the second time changes nothing."""

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

from leanpipe.core.home import Home
from leanpipe.processes.run_lock import RunIsHeld, hold, is_held
from tasks.tracking.patience import short
from tasks.tracking.spool import Entry, Spool, home_id, is_dead, names

log = logging.getLogger("leanpipe.tracking")

EXPERIMENT = "leanpipe"
PARENT = "mlflow.parentRunId"
OWNER = "leanpipe.owner"
"""Tag of a run: which LEANPIPE_HOME it belongs to, and which spool there."""
ERROR = "leanpipe.error"
KEY = "leanpipe.key"
GONE = "its process ended without a word: it was killed, or the machine went down; run it again to go on"

_MOST = 100  # parameters or tags of one request
_MOST_METRICS = 500  # of one request
_PERMANENT = {ErrorCode.Name(code) for code in (INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST)}
_SETTLING_SECONDS = 2.0


class Writer:
    """Tells MLflow what is in one spool."""

    def __init__(self, spool: Spool):
        self._spool = spool
        self._state = spool.state

    @cached_property
    def client(self) -> MlflowClient:
        return MlflowClient()

    @cached_property
    def experiment_id(self) -> str:
        return experiment(self.client, self._spool.home)

    def send(self) -> Iterator[None]:
        """Tell everything there is, yielding whenever MLflow took some of it. Raises what the client raises if it does not answer."""
        self._spool.sync()
        while entries := self._spool.unsent():
            for _, together in groupby(entries, _belongs_to):
                group = list(together)
                self._tell([entry for entry, _ in group])
                self._spool.mark_sent(group[-1][1])
                yield

    def _tell(self, entries: Sequence[Entry]) -> None:
        """What MLflow will never take is set aside: nothing after it waits for that."""
        try:
            self._apply(entries)
        except (MlflowException, FileNotFoundError) as error:
            if isinstance(error, MlflowException) and error.error_code not in _PERMANENT:
                raise
            if len(entries) > 1:
                for entry in entries:
                    self._tell([entry])
                return
            reason = str(error).partition("\n")[0][:300]
            place = self._spool.refuse(entries[0], reason)
            log.warning("MLflow refuses %s (%s): it is kept in %s", entries[0]["do"], reason, place)

    def _apply(self, entries: Sequence[Entry]) -> None:
        run = entries[0]["run"]
        run_id = str(self._state.ids.get(run, run))
        match entries[0]:
            case {"do": "metrics"}:
                self._metrics(run, run_id, entries)
            case {"do": "open", "name": name, "tags": tags, "key": key}:
                self._begin(run, name, tags, key)
            case {"do": "end", "status": status, "error": error, "time": ended}:
                self._end(run, run_id, status, error, ended)
            case {"do": "parameters", "values": values}:
                self._parameters(run_id, values)
            case {"do": "tags", "values": values}:
                self._tags(run_id, values)
            case {"do": "origin", "label": label, "key": key}:
                if origin := self._find({KEY: key}):
                    self.client.set_tag(run_id, f"leanpipe.cached.{label}", origin.info.run_id)
            case {"do": "inputs", "values": values}:
                self.client.log_inputs(run_id, [_input(*value) for value in values])
            case {"do": "files", "place": place}:
                folder = self._spool.folder / place
                if folder.exists():  # else it was sent before
                    self.client.log_artifacts(run_id, str(folder))
                    shutil.rmtree(folder)

    def _begin(self, run: str, name: str, tags: dict[str, str], key: str) -> None:
        """Find the run that carries these tags, or an unfinished one to go on with, or create it."""
        tags = {name: self._state.ids.get(value, value) for name, value in tags.items()}
        own = {OWNER: self._owner}
        if key:
            own[KEY] = key
        if key:
            self._settle_earlier(key)
        with hold(self._spool.home.spool, "adopting"):  # two runs must not go on with the same one
            found = self._find(tags) or (self._adopt(key, tags) if key else None)
            if found:
                run_id = found.info.run_id
                self._tags(run_id, tags | own)
                self.client.update_run(run_id, status="RUNNING")
            else:
                created = self.client.create_run(self.experiment_id, tags=tags | own, run_name=name)
                run_id = created.info.run_id
        self._state.ids[run] = run_id
        self._state.told[run] = dict.fromkeys(found.data.metrics) if found else {}
        if run not in self._state.open:
            self._state.open.append(run)

    def _end(self, run: str, run_id: str, status: str, error: str, ended: int) -> None:
        if error:
            self.client.set_tag(run_id, ERROR, error[:5000])
        elif ERROR in self.client.get_run(run_id).data.tags:  # of an earlier attempt
            self.client.delete_tag(run_id, ERROR)
        self.client.set_terminated(run_id, status, ended)
        self._state.told.pop(run, None)
        self._state.open = [one for one in self._state.open if one != run]

    @property
    def _owner(self) -> str:
        return f"{home_id(self._spool.home)}/{self._spool.name}"

    def _find(self, tags: dict[str, str], *conditions: str) -> Run | None:
        """The latest run that carries the tags."""
        equal = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        query = " and ".join([*equal, *conditions])
        found = self.client.search_runs([self.experiment_id], query, max_results=1)
        return found[0] if found else None

    def _adopt(self, key: str, tags: dict[str, str]) -> Run | None:
        """Take over the latest run in which `key` was begun here and not finished, if nobody works at it.

        The flow run that began it finds it by a tag.
        """
        found = self._unfinished(key)
        if found is None or not self._is_free(_spool_of(found)):
            return None
        begun_by = found.data.tags.get(PARENT)
        if begun_by and begun_by != tags.get(PARENT):
            self.client.set_tag(found.info.run_id, "leanpipe.begun_by", begun_by)
            resumed = f"leanpipe.resumed.{tags.get('leanpipe.stage', '')}"
            self.client.set_tag(begun_by, resumed, found.info.run_id)
        return found

    def _unfinished(self, key: str) -> Run | None:
        home = home_id(self._spool.home)
        return self._find({KEY: key}, "attributes.status != 'FINISHED'", f"tags.`{OWNER}` LIKE '{home}/%'")

    def _settle_earlier(self, key: str) -> None:
        """If the process that began `key` is dead, tell first what it left."""
        home, found = self._spool.home, self._unfinished(key)
        if found is None or self._is_free(name := _spool_of(found)):
            return
        until = time.monotonic() + _SETTLING_SECONDS
        while is_held(home.spool, name) and time.monotonic() < until:
            time.sleep(0.1)  # its process may just be ending, or another one be telling what it left
        if is_dead(home, name):
            settle(home, name)

    def _is_free(self, name: str) -> bool:
        """Whether nobody works at what the run `name` began, and all that is known of it was told."""
        home = self._spool.home
        return name == self._spool.name or not (is_held(home.spool, name) or name in names(home))

    def _parameters(self, run_id: str, values: dict[str, str]) -> None:
        known = self.client.get_run(run_id).data.params  # they cannot change, and a resumed run has them
        entries = [Param(name, value) for name, value in values.items() if name not in known]
        for start in range(0, len(entries), _MOST):
            self.client.log_batch(run_id, params=entries[start : start + _MOST])

    def _tags(self, run_id: str, values: dict[str, str]) -> None:
        tags = [RunTag(name, value) for name, value in values.items()]
        for start in range(0, len(tags), _MOST):
            self.client.log_batch(run_id, tags=tags[start : start + _MOST])

    def _metrics(self, run: str, run_id: str, entries: Sequence[Entry]) -> None:
        """What an earlier attempt told of a step stays: a stage that resumes does its last steps once more."""
        metrics = [
            Metric(name, value, entry["time"], entry["step"] or 0)
            for entry in entries
            for name, value in entry["values"].items()
            if math.isfinite(value)
            and (entry["step"] is None or entry["step"] > self._last_step(run, run_id, name))
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            self.client.log_batch(run_id, metrics=metrics[start : start + _MOST_METRICS])

    def _last_step(self, run: str, run_id: str, name: str) -> int:
        """The last step of a figure that an earlier attempt told.

        It is written down before this attempt tells any, so that the same is left out if it is told twice.
        """
        told = self._state.told.get(run, {})
        if name not in told:
            return -1
        if told[name] is None:
            told[name] = max(metric.step for metric in self.client.get_metric_history(run_id, name))
            self._spool.save()
        return told[name] or 0


def end_dead_runs(home: Home) -> list[str]:
    """Tell MLflow the rest of every run whose process on this machine is gone, and that it is: KILLED, and why.

    Gives the names of those that are settled. It only reads one folder if there is none. If MLflow does not answer, what is
    left waits for the next call; until then this one lasts as long as a request does.
    """
    return [name for name in names(home) if is_dead(home, name) and _try_to_settle(home, name)]


def _try_to_settle(home: Home, name: str) -> bool:
    try:
        settle(home, name)
        return True
    except RunIsHeld:
        return False
    except Exception as error:  # noqa: BLE001 - the next call tries again
        log.info("what MLflow is to be told of run %s waits in %s: %s", name, home.spool, short(error))
        return False


def settle(home: Home, name: str) -> None:
    """Tell MLflow what a dead run left. Raises what the client raises if it does not answer, and RunIsHeld."""
    with hold(home.spool, name):
        if name not in names(home):
            return
        spool = Spool(home, name)
        try:
            end_begun(spool)
            for _ in Writer(spool).send():
                pass
        finally:
            spool.close()


def end_begun(spool: Spool) -> None:
    """Add to a spool that the runs which its last process had begun ended with that."""
    ended = int(spool.last_written() * 1000)
    for run in reversed(spool.begun()):
        spool.append(do="end", run=run, status="KILLED", error=GONE, time=ended)


def experiment(client: MlflowClient, home: Home) -> str:
    """The id of the experiment `leanpipe`, which is created if it is not there."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        return found.experiment_id
    # On a server of somebody else's the server says where artifacts go; in our own home we do.
    own = str(home.mlflow_database) in os.environ.get("MLFLOW_TRACKING_URI", "")
    try:
        return client.create_experiment(EXPERIMENT, home.mlflow_artifacts.as_uri() if own else None)
    except MlflowException:
        created_meanwhile = client.get_experiment_by_name(EXPERIMENT)
        if created_meanwhile is None:
            raise
        return created_meanwhile.experiment_id


def _belongs_to(numbered: tuple[Entry, int]) -> Any:
    """Metrics of one run that follow each other go together, all else alone."""
    entry, end = numbered
    return ("metrics", entry["run"]) if entry["do"] == "metrics" else end


def _spool_of(run: Run) -> str:
    return run.data.tags[OWNER].partition("/")[2]


def _input(role: str, described: dict[str, Any]) -> DatasetInput:
    return DatasetInput(Dataset(**described), [InputTag("mlflow.data.context", role)])
