"""The `leanpipe` command. Prefect reads its settings when imported, so nothing here imports it before they are set."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from flows.cli.completion import complete_flow
from flows.cli.console import console, error_console
from flows.cli.options import takes_quick_settings
from flows.cli.read_settings import read_settings, settings_for
from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError, sentence_of
from leanpipe.core.home import Home
from leanpipe.settings.flows import CORPUS_FLOWS, SETTINGS, PipelineConfig
from leanpipe.settings.overrides import write_override
from leanpipe.settings.presets import Preset, find_preset
from leanpipe.settings.quick import QuickSettings
from tasks.environment import check_prefect, prepare_environment

app = typer.Typer(
    help="From a folder of text to a small, fast, evaluated, registered and served language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

PIPELINE = "data-to-deployment"
_UNREADABLE: Any = typer.BadParameter.__mro__[2]
"""Click's ClickException, which typer brings along without a public name."""

FlowName = Annotated[str, typer.Argument(help=f"One of {', '.join(SETTINGS)}.", autocompletion=complete_flow)]
ConfigFile = Annotated[
    Path | None,
    typer.Option(help="YAML file of settings that replace the preset's: `leanpipe config` prints one."),
]
InPlace = Annotated[bool, typer.Option("--in-place", help="Run every stage in this process, for a debugger.")]


@app.command()
@takes_quick_settings()
def run(
    flow: FlowName = PIPELINE, config: ConfigFile = None, in_place: InPlace = False, **chosen: Any
) -> None:
    """Run the pipeline, or one flow of it, here and now."""
    _run(flow, settings_for(flow, config, chosen), find_preset(chosen["preset"]), in_place)


def _run(flow: str, settings: StageConfig, preset: Preset, in_place: bool) -> None:
    from tasks.environment import terminal_environment

    os.environ.update(terminal_environment(in_place))
    home = _prepare()
    check_prefect()
    from tasks.prefect_server.temporary import TemporaryServer

    server = TemporaryServer()
    from flows.cli.terminal import print_result
    from flows.deployments import FLOWS
    from tasks.run import import_early, warm_up

    if not home.store.exists():
        warm_up()  # nothing will come from the store: do not wait for Prefect's server first
    elif flow not in CORPUS_FLOWS:
        import_early()
    if isinstance(settings, PipelineConfig):
        settings = QuickSettings.describing(settings, preset)  # the run says what was chosen
    server.wait()
    print_result(FLOWS[flow](settings), home)


@app.command()
@takes_quick_settings()
def plan(
    flow: FlowName = PIPELINE,
    device: Annotated[str, typer.Option(help="This, or the gigabytes of a card: 8, 24 or 80.")] = "this",
    config: ConfigFile = None,
    **chosen: Any,
) -> None:
    """Say what memory, disk and time a run would take, and what would not fit; what never ran here is timed for a few steps."""
    settings = settings_for(flow, config, chosen)
    home = _prepare()
    from flows.cli.plan import print_plan

    print_plan(flow, settings, device, home)


@app.command()
@takes_quick_settings()
def config(
    flow: FlowName = PIPELINE,
    config: ConfigFile = None,
    diff: Annotated[
        Path | None, typer.Option(help="Print only what this YAML file changes of the preset.")
    ] = None,
    **chosen: Any,
) -> None:
    """Print every setting with its help, as a YAML file that --config reads, or what such a file changes."""
    from flows.cli.config import print_differences, print_settings

    settings = settings_for(flow, diff or config, chosen)
    if diff:
        base = read_settings(type(settings), find_preset(chosen["preset"]))
        print_differences(diff.name, settings, chosen["preset"], base)
    else:
        print_settings(flow, chosen["preset"], settings)


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.", min=1, max=65535)] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.", min=1, max=65535)] = 5000,
) -> None:
    """Start Prefect, MLflow and a GPU worker, and register the deployments; Ctrl-C stops everything."""
    from flows.cli.up import Servers

    Servers(Home.from_environment(), prefect_port, mlflow_port).run()


@app.command()
def worker(
    with_healthcheck: Annotated[
        bool,
        typer.Option("--with-healthcheck", help="Answer at /health, port 8080, for a container's engine."),
    ] = False,
) -> None:
    """Run a worker for a Prefect server that runs already, and look after its runs; `up` has one of its own."""
    home = _prepare()
    from flows.cli.worker import run_worker

    run_worker(home, lambda said: console().print(said, soft_wrap=True), with_healthcheck)


@app.command()
def deploy() -> None:
    """Register the work pool and the deployments with a Prefect server that runs already; `up` does so itself."""
    home = _prepare()
    if "PREFECT_API_URL" not in os.environ:
        raise UserError(
            "there is no Prefect server to register with: start leanpipe up, or set PREFECT_API_URL"
        )
    check_prefect()
    from flows.deployments import deploy as register
    from tasks.tracking.runs import Tracking

    Tracking(home)  # the experiment, before runs that start together would each create it
    console().print(f"Deployed  {', '.join(register())}", soft_wrap=True)


@app.command()
def serve(
    model: Annotated[
        str, typer.Argument(help="Registered model as NAME or NAME@ALIAS or NAME@VERSION, or a folder.")
    ] = "leanpipe",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    engine: Annotated[
        str,
        typer.Option(
            help="How the engine runs: auto (measured once on this machine), or such as threads=2,spins=100 or arithmetic=fp32."
        ),
    ] = "auto",
) -> None:
    """Answer OpenAI-style chat and completion requests with the champion."""
    _prepare()
    from leanpipe.serving.serve import serve as serve_folder

    folder = Path(model)
    # A folder may have the name of the model, as in this repository.
    if not (folder / "config.json").is_file():
        from tasks.tracking.registry import model_folder

        name, _, which = model.partition("@")
        folder = model_folder(name, which or "champion")
    serve_folder(folder, host, port, engine=engine)


@app.command()
@takes_quick_settings(SETTINGS["compress"])
def compress(
    model: Annotated[
        str | None, typer.Argument(help="A folder, a .gguf file or a hub id; see the setting `model`.")
    ] = None,
    max_mb: Annotated[
        float | None, typer.Option(help="Give each weight its type so that the file is no larger.")
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="… loses no more: KL divergence from the full model, nats per token.")
    ] = None,
    min_tokens_per_second: Annotated[
        float | None, typer.Option(help="… writes at least as fast on this machine.")
    ] = None,
    config: ConfigFile = None,
    in_place: InPlace = False,
    **chosen: Any,
) -> None:
    """Quantise a model, to named formats or within bounds of size, loss and speed."""
    given = {
        "model": model,
        "quantize.max_mb": max_mb,
        "quantize.max_loss": max_loss,
        "quantize.min_tokens_per_second": min_tokens_per_second,
    }
    options = [write_override(path, value) for path, value in given.items() if value is not None]
    chosen["other_settings"] = [*options, *(chosen["other_settings"] or ())]
    settings = settings_for("compress", config, chosen)
    _run("compress", settings, find_preset(chosen["preset"]), in_place)


@app.command()
def compare(
    run: Annotated[str, typer.Argument(help="Id or name of a run, as MLflow or Prefect shows it.")],
    other: Annotated[str, typer.Argument(help="The run that it is compared with.")],
) -> None:
    """Say how much better the models of one run are than those of another, and which stage made the difference."""
    _prepare()
    from flows.cli.compare_runs import print_comparison
    from tasks.report import compare_runs

    print_comparison(compare_runs(run, other), console())


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Registered model.")] = "leanpipe",
    to: Annotated[
        str | None, typer.Option(help="Number of the version; without it the champion before this one.")
    ] = None,
    why: Annotated[str, typer.Option(help="Why, for whoever reads the champion's history.")] = "",
) -> None:
    """Make the champion of before champion again, or the version that you name; the one of now gets it back by hand only."""
    home = _prepare()
    from flows.rollback import said
    from tasks.tracking.champion.back import roll_back, user

    done = roll_back(home, name, to, f"{user()} (leanpipe rollback)", why)
    console().print(said(done), soft_wrap=True)


@app.command()
@takes_quick_settings(SETTINGS["inspect-corpus"])
def inspect(
    sample: Annotated[int | None, typer.Option(help="How many documents are looked at.")] = None,
    config: ConfigFile = None,
    in_place: InPlace = False,
    **chosen: Any,
) -> None:
    """Show what cleaning would drop of a sample of a corpus, rule by rule; nothing is dropped."""
    if sample is not None:
        chosen["other_settings"] = [f"inspect.documents={sample}", *(chosen["other_settings"] or ())]
    settings = settings_for("inspect-corpus", config, chosen)
    _run("inspect-corpus", settings, find_preset(chosen["preset"]), in_place)


@app.command()
def show_mask(
    model: Annotated[
        str, typer.Option(help="Folder, .gguf file or hub id of the model to be finetuned.")
    ] = "smollm2-135m-instruct",
    instructions: Annotated[str, typer.Option(help=".json or .jsonl of instructions.")] = "alpaca-sample",
    examples: Annotated[int, typer.Option(help="How many conversations.", min=1, max=1_000)] = 3,
    max_length: Annotated[int, typer.Option(help="Cut after so many tokens.", min=8, max=131_072)] = 256,
) -> None:
    """Show what finetuning would learn: some conversations, with the tokens that are learnt in green."""
    home = _prepare()
    from flows.cli.mask import show_mask as show

    show(home, model, instructions, examples, max_length, console())


@app.command()
def lineage(
    doc: Annotated[
        str, typer.Argument(help="Id or SHA-256 (8 hex digits or more), path, or a phrase of the document.")
    ],
    most: Annotated[int, typer.Option(help="At most so many documents.", min=1, max=100_000)] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what became of a document, and which registered models were trained on it."""
    home = _prepare()
    from flows.cli.lineage import nothing_found, print_lineage
    from tasks.lineage import trace

    answer = trace(home, doc, most)
    if json:
        typer.echo(answer.model_dump_json(indent=2))
    elif answer.fates:
        print_lineage(answer, console())
    else:
        raise UserError(nothing_found(answer))


def _prepare() -> Home:
    home = Home.from_environment()
    prepare_environment(home)
    return home


def main() -> None:
    """Run the command; what a person did wrong is one sentence, and the exit status 1, or 2 where it cannot be read as a command."""
    try:
        status = app(prog_name="leanpipe", standalone_mode=False)
    except UserError as error:
        _refuse(str(error))
    except _UNREADABLE as error:
        if not error.format_message():  # nothing was typed
            error.show()
            sys.exit(error.exit_code)
        said = error.format_message().rstrip(".")
        command = error.ctx.command_path if getattr(error, "ctx", None) else "leanpipe"
        _refuse(f"{said}: {command} --help says what can be given", error.exit_code)
    except typer.Abort:
        sys.exit(1)
    except Exception as error:
        said = sentence_of(error)
        if said is None:
            raise
        _refuse(said)
    sys.exit(status if isinstance(status, int) else 0)


def _refuse(sentence: str, status: int = 1) -> NoReturn:
    line = " ".join(part.strip() for part in sentence.splitlines())
    error_console().print(Text.assemble(("leanpipe:", "bold red"), f" {line}"), soft_wrap=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
