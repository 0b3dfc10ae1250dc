"""`make pictures`: every picture in docs/images, from a real run and real servers.

A private LEANPIPE_HOME and free ports, so that nothing of yours is touched. `leanpipe up` starts the servers, the preset
is run as it is and once more with another rank of LoRA (which computes only what follows from it), a headless Chromium
photographs the pages, the run's own pictures are copied, and everything is stopped. The default preset takes about ten
minutes on two cores; `make pictures ARGS="--preset smoke"` two, with the figures of a toy.
"""

import json
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from mlflow import MlflowClient
from PIL import Image

from docs import pipeline_picture
from tests.flows.servers import Servers, leanpipe, up

IMAGES = Path(__file__).parent / "images"
_WIDTH, _HEIGHT, _TALLEST = 1280, 1000, 1400
_COLORS = 128
"""So many colors are enough for pages and plots, and a third of the size of a full PNG."""
_OTHER_RANK = "finetune.rank=8"
"""What the second run changes: a value that no preset has."""
_QUIET = ("quic", "background-networking", "component-update", "sync", "gpu")


def main(
    preset: Annotated[str, typer.Option(help="what is run")] = "default",
    deployment: Annotated[str, typer.Option(help="whose form is shown")] = "default",
    home: Annotated[
        Path | None, typer.Option(help="a LEANPIPE_HOME to use and keep, so that a second time is quick")
    ] = None,
) -> None:
    """Make all pictures anew."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    IMAGES.mkdir(exist_ok=True)
    pipeline_picture.draw(IMAGES)
    with tempfile.TemporaryDirectory(prefix="leanpipe-pictures-") as scratch:
        place = (home or Path(scratch) / "home").resolve()
        with up(place) as servers:
            for settings in ((), ("--set", _OTHER_RANK)):
                _run(servers, preset, *settings)
            _copy_plots(servers)
            with _chromium() as browser:
                _photograph(servers, browser, deployment)
    for path in sorted(IMAGES.iterdir()):
        print(f"{path.stat().st_size / 1000:7.0f} kB  {path}")


def _run(servers: Servers, preset: str, *settings: str) -> None:
    print("leanpipe run --preset", preset, *settings, flush=True)
    done = leanpipe(servers.home, "run", "--preset", preset, *settings, timeout=3_600)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def _copy_plots(servers: Servers) -> None:
    """What the first run drew itself, as MLflow keeps it."""
    client = MlflowClient(servers.mlflow)
    run = _flow_runs(client)[0]
    _copy(client, run.info.run_id, "size_against_quality.png", "result.png")
    stages = _stage_runs(client, run)
    _copy(client, stages["clean"], "report/flow.png", "documents.png")
    _copy(client, stages["distill"], "report/loss.png", "distillation.png")


def _copy(client: MlflowClient, run: str, plot: str, name: str) -> None:
    there = [file.path for file in client.list_artifacts(run, plot.rpartition("/")[0] or None)]
    if plot not in there:
        raise SystemExit(f"the MLflow run {run} has no {plot}, but {', '.join(there)}")
    with tempfile.TemporaryDirectory() as folder:
        _publish(Path(client.download_artifacts(run, plot, folder)), name)


def _flow_runs(client: MlflowClient) -> list[Any]:
    """MLflow's runs of whole flows, oldest first."""
    experiment = client.get_experiment_by_name("leanpipe")
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
    return [run for run in runs if "leanpipe.flow_run" in run.data.tags]


def _stage_runs(client: MlflowClient, flow_run: Any) -> dict[str, str]:
    """The ids of MLflow's runs of the flow's stages, by label; of what came from the store, the run that made it."""
    of_parent = f"tags.`mlflow.parentRunId` = '{flow_run.info.run_id}'"
    computed = client.search_runs([flow_run.info.experiment_id], of_parent)
    cached = "leanpipe.cached."
    stored = {
        name.removeprefix(cached): run for name, run in flow_run.data.tags.items() if name.startswith(cached)
    }
    return stored | {run.data.tags["leanpipe.stage"]: run.info.run_id for run in computed}


def _photograph(servers: Servers, browser: Any, deployment: str) -> None:
    client = MlflowClient(servers.mlflow)
    first, *_, last = _flow_runs(client)
    page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
    page.set_default_timeout(90_000)
    _form(page, f"{servers.prefect}/deployments/deployment/{servers.deployment(deployment)['id']}/run")
    _flow_run(page, f"{servers.prefect}/runs/flow-run/{last.data.tags['leanpipe.flow_run']}")
    runs = json.dumps([_stage_runs(client, run)["finetune"] for run in (first, last)])
    query = urllib.parse.urlencode({"runs": runs, "experiments": json.dumps([first.info.experiment_id])})
    _comparison(page, f"{servers.mlflow}/#/compare-runs?{query}")
    page.close()


def _form(page: Any, address: str) -> None:
    """From its head to its button, or as much of it as fits."""
    page.set_viewport_size({"width": _WIDTH, "height": _TALLEST})
    page.goto(address)
    submit = page.get_by_role("button", name="Submit")
    submit.wait_for()
    page.wait_for_timeout(2_000)
    button = submit.bounding_box()
    _shoot(page, "prefect-form.png", button and button["y"] + button["height"] + 24)
    page.set_viewport_size({"width": _WIDTH, "height": _HEIGHT})


def _flow_run(page: Any, address: str) -> None:
    page.goto(address)
    page.get_by_text("Completed").first.wait_for()
    page.get_by_role("tab", name="Task Runs").or_(page.get_by_text("Task Runs", exact=True)).first.click()
    _shoot(page, "prefect-run.png")


def _comparison(page: Any, address: str) -> None:
    """The parameters and figures of one stage in two runs; what MLflow shows above and beside them is folded away."""
    page.goto(address, wait_until="load")
    page.get_by_text("rank", exact=True).first.wait_for()
    for name in ("Close", "Visualizations", "Run details"):
        button = page.get_by_role("button", name=name, exact=True)
        if button.count():
            button.first.click()
    for table in ("Parameters", "Metrics"):
        page.get_by_label(f"{table} - Show diff only").first.click()
    page.wait_for_timeout(2_000)
    artifacts = page.get_by_role("button", name="Artifacts", exact=True).bounding_box()
    _shoot(page, "mlflow-compare.png", artifacts and artifacts["y"] - 4)


def _shoot(page: Any, name: str, bottom: float | None = None) -> None:
    """The page once it has stopped moving, from its top down to `bottom`."""
    page.mouse.move(_WIDTH - 5, 5)  # so that nothing is shown as pointed at
    page.wait_for_timeout(4_000)
    height = min(bottom or _TALLEST, page.viewport_size["height"])
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / name
        page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": _WIDTH, "height": height})
        _publish(picture, name)


def _publish(picture: Path, name: str) -> None:
    """Write it to docs/images, in few colors."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(_COLORS, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)


@contextmanager
def _chromium() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise SystemExit("make pictures needs Chromium (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{feature}" for feature in _QUIET)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


if __name__ == "__main__":
    typer.run(main)
