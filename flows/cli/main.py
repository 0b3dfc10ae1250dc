"""The `leanpipe` command. Prefect reads its settings when imported, so nothing here imports it before they are set."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.console import Console

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from tasks.environment import prepare_environment

app = typer.Typer(
    help="From a folder of text to a small, fast, evaluated, registered and served language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def run(
    flow: Annotated[
        str,
        typer.Argument(
            help="data-to-deployment, inspect-corpus, prepare-corpus, distill, pretrain, finetune, compress or evaluate"
        ),
    ] = "data-to-deployment",
    preset: Annotated[str, typer.Option(help="default or smoke")] = "default",
    config: Annotated[Path | None, typer.Option(help="YAML file whose settings replace the preset's")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="one setting, as distill.temperature=3")
    ] = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="folder or file of text; may be given again")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="folder, .gguf file or hub id of the teacher")] = None,
    instructions: Annotated[str | None, typer.Option(help=".json or .jsonl of instructions")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="run every stage in this process")] = False,
) -> None:
    """Run the pipeline, or one flow of it, here and now."""
    from flows.cli.read_settings import settings
    from leanpipe.settings.flows import SETTINGS

    if flow not in SETTINGS:
        raise UserError(f"there is no flow {flow}: choose one of {', '.join(SETTINGS)}")
    named = {"corpus": corpus, "teacher": teacher, "instructions": instructions}
    overrides = [f"{name}={_yaml(value)}" for name, value in named.items() if value] + (set_ or [])
    chosen = settings(SETTINGS[flow], preset, config, overrides)
    _run(flow, chosen, in_place)


def _run(flow: str, settings: BaseModel, in_place: bool) -> None:
    from tasks.environment import terminal_environment

    os.environ.update(terminal_environment(in_place))
    home = _prepare()
    from flows.cli.terminal import print_result
    from flows.deployments import FLOWS
    from leanpipe.settings.flows import CORPUS_FLOWS
    from tasks.run import import_early, warm_up

    if not home.store.exists():
        warm_up()  # nothing will come from the store: do not wait for Prefect's server first
    elif flow not in CORPUS_FLOWS:
        import_early()
    print_result(FLOWS[flow](settings), home)


@app.command()
def plan(
    flow: Annotated[
        str, typer.Argument(help="data-to-deployment, distill, pretrain, finetune, compress, evaluate …")
    ] = "data-to-deployment",
    device: Annotated[str, typer.Option(help="this, or the gigabytes of a card: 8, 24 or 80")] = "this",
    preset: Annotated[str, typer.Option(help="default or smoke")] = "default",
    config: Annotated[Path | None, typer.Option(help="YAML file whose settings replace the preset's")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="one setting, as distill.micro_batch=1")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="folder, .gguf file or hub id of the teacher")] = None,
) -> None:
    """Say what memory, disk and time a run would take, and what would not fit; nothing is loaded or run."""
    from flows.cli.read_settings import settings
    from leanpipe.settings.flows import SETTINGS

    if flow not in SETTINGS:
        raise UserError(f"there is no flow {flow}: choose one of {', '.join(SETTINGS)}")
    overrides = ([f"teacher={_yaml(teacher)}"] if teacher else []) + (set_ or [])
    home = _prepare()
    from flows.cli.plan import print_plan

    print_plan(flow, settings(SETTINGS[flow], preset, config, overrides), device, home)


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="port of the Prefect server")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="port of the MLflow server")] = 5000,
) -> None:
    """Start Prefect, MLflow and a GPU worker, and register the deployments; Ctrl-C stops everything."""
    from flows.cli.up import Servers

    Servers(Home.from_environment(), prefect_port, mlflow_port).run()


@app.command()
def deploy() -> None:
    """Register the work pool and the deployments with a Prefect server that runs already; `up` does so itself."""
    home = _prepare()
    if "PREFECT_API_URL" not in os.environ:
        raise UserError(
            "there is no Prefect server to register with: start leanpipe up, or set PREFECT_API_URL"
        )
    from flows.deployments import deploy as register
    from tasks.tracking.runs import Tracking

    Tracking(home)  # the experiment, before runs that start together would each create it
    Console(highlight=False).print(f"Deployed  {', '.join(register())}", soft_wrap=True)


@app.command()
def serve(
    model: Annotated[
        str, typer.Argument(help="registered model as NAME or NAME@ALIAS or NAME@VERSION, or a folder")
    ] = ("leanpipe"),
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 8000,
) -> None:
    """Answer OpenAI-style chat and completion requests with the champion."""
    _prepare()
    from leanpipe.serving.serve import serve as serve_folder

    folder = Path(model)
    if not (
        folder / "config.json"
    ).is_file():  # a folder may have the name of the model, as in this repository
        from tasks.tracking.registry import model_folder

        name, _, which = model.partition("@")
        folder = model_folder(name, which or "champion")
    serve_folder(folder, host, port)


@app.command()
def inspect(
    corpus: Annotated[
        list[str] | None, typer.Option(help="folder or file of text; may be given again")
    ] = None,
    sample: Annotated[int | None, typer.Option(help="how many documents are looked at")] = None,
    preset: Annotated[str, typer.Option(help="default or smoke")] = "default",
    config: Annotated[Path | None, typer.Option(help="YAML file whose settings replace the preset's")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="one setting, as clean.quality.min_words=20")
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="run the stage in this process")] = False,
) -> None:
    """Show what cleaning would drop of a sample of a corpus, rule by rule; nothing is dropped."""
    from flows.cli.read_settings import settings
    from leanpipe.settings.flows import SETTINGS

    named = {"corpus": corpus, "inspect.documents": sample}
    overrides = [f"{name}={_yaml(value)}" for name, value in named.items() if value is not None]
    _run(
        "inspect-corpus",
        settings(SETTINGS["inspect-corpus"], preset, config, overrides + (set_ or [])),
        in_place,
    )


@app.command()
def show_mask(
    model: Annotated[
        str, typer.Option(help="folder, .gguf file or hub id of the model to be finetuned")
    ] = "smollm2-135m-instruct",
    instructions: Annotated[str, typer.Option(help=".json or .jsonl of instructions")] = "alpaca-sample",
    examples: Annotated[int, typer.Option(help="how many conversations", min=1, max=1_000)] = 3,
    max_length: Annotated[int, typer.Option(help="cut after so many tokens", min=8, max=131_072)] = 256,
) -> None:
    """Show what finetuning would learn: some conversations, with the tokens that are learnt in green."""
    home = _prepare()
    from flows.cli.console import console
    from flows.cli.mask import show_mask as show

    show(home, model, instructions, examples, max_length, console())


@app.command()
def lineage(
    doc: Annotated[
        str, typer.Argument(help="id or SHA-256 (8 hex digits or more), path, or a phrase of the document")
    ],
    most: Annotated[int, typer.Option(help="at most so many documents", min=1, max=100_000)] = 20,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what became of a document, and which registered models were trained on it."""
    home = _prepare()
    from flows.cli.console import console
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


def _yaml(value: object) -> str:
    import yaml

    return yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("\n...")


def main() -> None:
    """The command; what a person did wrong is one sentence, and the exit status 1."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]leanpipe:[/bold red] {error}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
