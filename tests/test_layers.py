"""flows → tasks → leanpipe: found out by importing, which sees what another library imports; test_house.py reads the rest."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "matplotlib")
# TRL imports MLflow where it finds it, if it is not told otherwise.
WITH_TRL = """
assert "trl" not in sys.modules
from leanpipe.training.on_policy import on_policy_trainer
on_policy_trainer._trainer_type()
assert "trl.trainer.distillation_trainer" in sys.modules
"""


def modules(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]


def imported_by(names: list[str], then: str = "") -> set[str]:
    """Top-level packages in a fresh interpreter that has imported `names` and done what `then` says."""
    code = (
        f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\n{then}\n"
        "print(*{m.split('.')[0] for m in sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(result.stdout.split())


def test_the_library_knows_neither_prefect_nor_mlflow_nor_the_layers_above():
    loaded = imported_by(modules("leanpipe"), WITH_TRL)
    assert "torch" in loaded  # the modules were really imported
    assert not loaded & {"prefect", "mlflow", "tasks", "flows"}


def test_tasks_do_not_know_flows():
    loaded = imported_by(modules("tasks"))
    assert "prefect" in loaded and "mlflow" in loaded
    assert "flows" not in loaded


def test_settings_and_stages_are_known_without_loading_torch():
    """`leanpipe --help`, the form and the flow itself must not wait ten seconds for libraries that a stage needs."""
    modules = ["flows.cli.main", "leanpipe.processes.fork_client", "leanpipe.planning.preflight"]
    # Nor is Prefect loaded before `leanpipe` has set what it reads.
    assert not imported_by(modules) & {*HEAVY, "prefect", "mlflow"}
