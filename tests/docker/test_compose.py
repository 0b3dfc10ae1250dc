"""There is no Docker engine here: these tests hold docker/ against what is installed and against itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from leanpipe.core.allowed_paths import Roots
from leanpipe.core.home import Home
from tasks.environment import environment as home_environment
from tests.docker.compose import DOCKER, ROOT, VARIABLE, copied, environment, services, settings

COMPOSE = (DOCKER / "compose.yaml").read_text()
GPU = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
EXAMPLE = dict(
    line.split("=", 1)
    for line in (DOCKER / "example.env").read_text().splitlines()
    if line and not line.startswith("#")
)
OURS = [name for name, service in services().items() if service["image"].startswith("leanpipe")]
_SUBCOMMAND_WORDS = {"prefect": 2, "mlflow": 1, "leanpipe": 1}


@pytest.mark.parametrize("name", OURS)
def test_the_installed_program_knows_every_option(name: str) -> None:
    program, *words = services()[name]["command"]
    subcommand = words[: _SUBCOMMAND_WORDS[program]]
    used = {word.split("=")[0] for word in words if word.startswith("-")}
    # Wide, because rich breaks long option names.
    wide = os.environ | {"COLUMNS": "250", "TERMINAL_WIDTH": "250", "NO_COLOR": "1"}
    command = [str(Path(sys.executable).parent / program), *subcommand, "--help"]
    said = subprocess.run(command, env=wide, capture_output=True, text=True, timeout=280)
    assert said.returncode == 0, said.stderr
    assert used <= set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", said.stdout)), said.stdout


def test_the_installed_programs_know_every_setting() -> None:
    from mlflow import environment_variables
    from mlflow.cli import server
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_valid_setting_names

    prefect = {name.upper() for name in _get_valid_setting_names(Settings)}
    mlflow = {str(option.envvar) for option in server.params} | set(dir(environment_variables))
    set_somewhere = set(settings(DOCKERFILE)).union(
        *(service.get("environment", {}) for service in services().values())
    )
    assert {name for name in set_somewhere if name.startswith("PREFECT_")} <= prefect
    # MLflow's client reads MLFLOW_TRACKING_URI by a name that it keeps elsewhere.
    assert {name for name in set_somewhere if name.startswith("MLFLOW_")} <= mlflow | {"MLFLOW_TRACKING_URI"}


def test_the_image_has_the_environment_of_leanpipe_up() -> None:
    home = home_environment(Home(Path("/var/lib/leanpipe")))
    # Containers are told where the servers are, and never start one of their own.
    elsewhere = {name for name in home if "EPHEMERAL" in name} | {"MLFLOW_TRACKING_URI"}
    image = settings(DOCKERFILE)
    assert {name: image.get(name) for name in home.keys() - elsewhere} == {
        name: home[name] for name in home.keys() - elsewhere
    }


def test_the_form_permits_the_folder_of_texts_and_what_leanpipe_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEANPIPE_ROOTS", settings(DOCKERFILE)["LEANPIPE_ROOTS"])
    roots = Roots.from_environment()
    assert roots.permits("/data/mine") and roots.permits("/var/lib/leanpipe/assets")
    assert not roots.permits("/etc/passwd") and not roots.permits("/data/../etc")


def test_the_worker_is_supervised_and_known_again_after_its_container_was_made_anew() -> None:
    from tasks.supervise import STOP_SECONDS

    worker = services()["worker"]
    assert worker["command"][:2] == ["leanpipe", "worker"]
    assert worker["hostname"] and worker["init"]
    # Longer than the worker, its runs and the last words to the server may take.
    assert int(worker["stop_grace_period"].removesuffix("s")) > STOP_SECONDS + 30


def test_every_port_is_open_to_this_machine_alone() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+_PORT:-(\d+)\}:\1", port) for port in ports), ports
    assert not any(service.get("network_mode") for service in services().values())


def test_the_example_names_every_variable_with_its_default() -> None:
    used = VARIABLE.findall(COMPOSE)
    assert {name for name, _, _ in used} == set(EXAMPLE)
    for name, operator, rest in used:
        assert EXAMPLE[name] == (rest if operator == ":-" else "")


def test_no_password_has_a_default() -> None:
    used = [(name, operator) for name, operator, _ in VARIABLE.findall(COMPOSE) if "PASSWORD" in name]
    assert set(used) == {("POSTGRES_PASSWORD", ":?")}, "compose must refuse to start without it"
    for name in services():
        for key, value in services()[name].get("environment", {}).items():
            assert "PASSWORD" not in key or value.startswith("${POSTGRES_PASSWORD:?"), (name, key)
    assert not any(
        "@" in value for name in OURS for value in environment(name, POSTGRES_PASSWORD="x").values()
    )


def test_one_service_builds_the_image_that_the_others_use() -> None:
    (built,) = [service for service in services().values() if "build" in service]
    assert {services()[name]["image"] for name in OURS} == {built["image"]}
    assert (DOCKER / built["build"]["context"]).resolve() == ROOT
    assert (ROOT / built["build"]["dockerfile"]) == DOCKER / "Dockerfile"
    assert f" AS {built['build']['target']}\n" in DOCKERFILE
    assert {service["pull_policy"] for service in services().values() if service is built} == {"build"}
    assert all(services()[name]["pull_policy"] == "never" for name in OURS if services()[name] is not built)


def test_images_are_named_without_a_registry() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    images = {*bases, *(service["image"] for service in services().values())}
    assert images == {"python:3.11-slim-bookworm", "postgres:15-bookworm", "leanpipe:local"}


def test_the_dockerfile_copies_what_exists_and_the_context_lets_through() -> None:
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    for path in copied(DOCKERFILE):
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignore


def test_the_image_runs_as_somebody_who_is_not_root() -> None:
    final = DOCKERFILE.split("\nFROM ")[-1]
    (user,) = re.findall(r"^USER (\S+)", final, re.MULTILINE)
    assert f"useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin {user}" in final
    assert f"--owner {user} --group {user} {settings(DOCKERFILE)['LEANPIPE_HOME']}" in final
    assert not any("user" in service for service in services().values())


def test_a_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "pyproject.toml", "leanpipe", "tasks", "flows"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    if not tracked:
        pytest.skip("this is no git checkout, so that nobody can say which files belong to leanpipe")
    source = tmp_path / "source"
    for file in tracked:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_bytes((ROOT / file).read_bytes())
    build = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "--list", str(wheel)], capture_output=True, text=True
    )
    inside = {line.split()[0] for line in listed.stdout.splitlines()}
    assert set(tracked) - {"pyproject.toml"} <= inside


def test_services_wait_for_what_they_need() -> None:
    for name, service in services().items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services()[other], (name, other)
            else:
                assert how["condition"] == "service_completed_successfully", (name, other)
                assert services()[other]["restart"] == "no", (name, other)


def test_what_keeps_running_is_watched_and_started_again() -> None:
    for name in services().keys() - {"deploy"}:
        assert services()[name]["restart"] == "unless-stopped"
        assert services()[name]["healthcheck"]["test"][0] == "CMD"


def test_health_is_asked_at_the_port_that_the_service_listens_on() -> None:
    for name in ("prefect", "mlflow", "serve"):
        words = " ".join(services()[name]["command"])
        (port,) = re.findall(r"--port[ =](\d+)", words)
        assert f"127.0.0.1:{port}/" in services()[name]["healthcheck"]["test"][-1]
        assert services()[name]["ports"][0].endswith(f":{port}")


def test_volumes_and_networks_are_declared_and_used() -> None:
    whole = yaml.safe_load(COMPOSE)
    mounted = {entry.split(":")[0] for service in services().values() for entry in service.get("volumes", [])}
    assert {name for name in mounted if re.fullmatch(r"\w+", name)} == set(whole["volumes"])
    networks = {name for service in services().values() for name in service.get("networks", [])}
    assert networks == set(whole["networks"])
    assert whole["networks"]["database"]["internal"] is True
    assert services()["postgres"]["networks"] == ["database"]
    assert (DOCKER / "postgres" / "mlflow.sql").exists()


def test_the_card_goes_to_services_that_exist() -> None:
    assert set(GPU["services"]) == {"worker", "serve"} <= set(services())
    for service in GPU["services"].values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("deploy", "there is no Prefect server to register with"),
        ("worker", "there is no Prefect server to work for"),
    ],
)
def test_what_needs_a_server_says_so_when_there_is_none(tmp_path: Path, command: str, sentence: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    said = subprocess.run(
        [str(Path(sys.executable).parent / "leanpipe"), command],
        env=env | {"LEANPIPE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.returncode == 1
    assert said.stderr.startswith(f"leanpipe: {sentence}")
