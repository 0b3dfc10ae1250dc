"""What a person chose of the pipeline's settings and what the preset filled in, where the run is looked at."""

from collections.abc import Mapping
from typing import Any

from leanpipe.core.config import flatten
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.overrides import write_override
from leanpipe.settings.presets import PRESETS
from leanpipe.settings.quick import QuickSettings
from tasks.run import Run
from tasks.tracking.about import description
from tasks.tracking.pages import show_page
from tasks.tracking.progress import say


def show_settings(run: Run, choice: QuickSettings) -> None:
    """Put the preset and what was chosen into the run's tags, and a page of both into Prefect and MLflow."""
    chosen = "; ".join(write_override(path, value) for path, value in choice.chosen().items()) or "nothing"
    say(f"  preset {choice.preset}; chosen: {chosen}")
    page = settings_page(choice)
    show_page(page, "settings", "What was chosen, and what the preset filled in")
    run.tracking.log_text(run.mlflow_run, page, "settings.md")
    tags = {"leanpipe.preset": str(choice.preset), "leanpipe.chosen": chosen}
    tags |= description(f"Preset {choice.preset}; chosen: {chosen}")
    run.tracking.log_figures(run.mlflow_run, tags)


def settings_page(choice: QuickSettings) -> str:
    """Write the page in Markdown."""
    preset, default = flatten(PRESETS[choice.preset]()), flatten(PipelineConfig())
    resolved = flatten(choice.resolve())
    chosen = {path: value for path, value in resolved.items() if path in choice.chosen()}
    return "\n".join(
        [
            f"# Settings: preset {choice.preset}",
            "",
            f"{len(chosen)} of {len(resolved)} settings were chosen; all are among the parameters of the MLflow run.",
            *_table("Chosen", chosen, f"in {choice.preset}", preset),
            *_table(f"Filled in by {choice.preset}", choice.filled_in(), "by default", default),
            "",
        ]
    )


def _table(title: str, rows: Mapping[str, Any], other: str, others: Mapping[str, Any]) -> list[str]:
    if not rows:
        return ["", f"## {title}", "", "Nothing."]
    lines = [f"| `{path}` | {_shown(value)} | {_shown(others[path])} |" for path, value in rows.items()]
    return ["", f"## {title}", "", f"| setting | value | {other} |", "| --- | --- | --- |", *lines]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    number = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if number else str(value).replace("|", "\\|")
