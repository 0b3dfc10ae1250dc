"""Against a real MLflow registry on SQLite: versions and their files, and that a failure is no answer."""

import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.store import external
from tasks.run import Run
from tasks.tracking import champion_history, registry
from tasks.tracking.runs import Tracking
from tasks.tracking.versions import Version

NAME = "letters"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    home = Home(tmp_path_factory.mktemp("home"))
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home.mlflow_database}")
    tracking = Tracking(home)
    with tracking.run("run", {"leanpipe.flow_run": "one"}, {}) as run_id:
        yield Run(home, tracking, run_id)
    patch.undo()


def candidate(tmp_path: Path, content: str) -> registry.Candidate:
    folder = tmp_path / content
    folder.mkdir()
    (folder / "model.txt").write_text(content)
    return registry.Candidate(
        content, external(content, folder), {"bits_per_byte": 1.0}, "# card", "the smallest"
    )


def register(run: Run, one: registry.Candidate) -> Version:
    return registry.register.fn(run, NAME, one)


def test_the_same_files_are_the_same_version_and_the_last_is_the_challenger(run: Run, tmp_path: Path):
    first, second = candidate(tmp_path, "a"), candidate(tmp_path, "b")
    assert [register(run, one).version for one in (first, second)] == ["1", "2"]
    client = MlflowClient()
    assert str(client.get_model_version_by_alias(NAME, "challenger").version) == "2"
    assert register(run, first).version == "1"
    assert list(client.get_registered_model(NAME).aliases) == [
        "challenger"
    ]  # nobody becomes champion by that


def test_the_files_of_a_version_are_those_that_were_registered(run: Run):
    model = registry.model_of(NAME, "1")
    assert (model.path / "model.txt").read_text() == "a"
    assert (model.path / "README.md").read_text() == "# card"
    assert registry.model_folder(NAME, "2").joinpath("model.txt").read_text() == "b"


def test_files_that_are_gone_are_named(run: Run, tmp_path: Path):
    version = registry.register.fn(run, "lost", candidate(tmp_path, "lost"))
    shutil.rmtree(registry.model_folder("lost", version.version))
    for fetch in (registry.model_of, registry.model_folder):
        with pytest.raises(UserError, match="the files of lost version 1 are out of reach at"):
            fetch("lost", version.version)


def test_a_model_that_is_not_there_is_named(run: Run):
    with pytest.raises(UserError, match="no model nothing@champion is registered"):
        registry.model_folder("nothing", "champion")


def test_any_flow_may_name_a_registered_model(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for reference, content in ((f"{NAME}@challenger", "a"), (f"{NAME}@2", "b")):
        found = registry.find_registered(reference)
        assert found and found.name == reference and (found.path / "model.txt").read_text() == content
    with pytest.raises(UserError, match="no model nothing@champion is registered"):
        registry.find_registered("nothing@champion")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters@2").mkdir()  # a folder may be called so
    assert [registry.find_registered(one) for one in ("letters@2", "somebody/letters@2", "letters")] == [
        None
    ] * 3


def test_only_what_is_not_there_is_not_there(run: Run):
    """Of a model that has versions: an alias and a version that it lacks. The newest needs no alias."""
    MlflowClient().create_registered_model("without-versions")
    client = MlflowClient()
    assert champion_history.look(client, "without-versions", "a test").version is None
    assert champion_history.look(client, "without-versions", "a test").moves == []
    for which in ("99", "staging", "champion"):
        with pytest.raises(UserError, match=f"no model {NAME}@{which} is registered"):
            registry.model_folder(NAME, which)
    assert registry.model_folder(NAME, "latest").joinpath("model.txt").read_text() == "b"


@pytest.fixture
def answering() -> Iterator[Callable[[int, str], str]]:
    """Start a server that answers every request so, as a proxy does whose MLflow is away; gives its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, "busy"),
        (500, '{"error_code": "INTERNAL_ERROR", "message": "database is locked"}'),
        (400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "what?"}'),
        (401, '{"error_code": "UNAUTHENTICATED", "message": "who?"}'),
        (404, "<html>no such page</html>"),  # a proxy's, or another program's
    ],
)
def test_an_error_of_the_registry_is_not_the_absence_of_a_champion(answering, monkeypatch, status, body):
    _expect_no_answer(answering(status, body), monkeypatch)


def test_nobody_listening_is_not_the_absence_of_a_champion(monkeypatch):
    _expect_no_answer("http://127.0.0.1:9", monkeypatch)


def _expect_no_answer(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=f"the model registry at {address} does not answer"):
        champion_history.look(MlflowClient(), NAME, "a test")
    with pytest.raises(UserError, match=f"the model registry at {address} does not answer"):
        registry.model_folder(NAME, "1")
