"""What people type, feed and delete that cannot work: files of every such kind, and the commands that are given them."""

import json
import pydoc_data.topics
import random
from pathlib import Path
from typing import NamedTuple

from tests.flows.bad_models import write_bad_models
from tests.flows.bad_shapes import shapes
from tests.flows.bad_tasks import write_bad_tasks

LONG = "a" * 5_000


class Case(NamedTuple):
    """A command that cannot work."""

    arguments: list[str]
    says: str
    """Part of the one sentence that the person must read."""
    environment: dict[str, str] = {}  # noqa: RUF012
    nobody: bool = False
    """Whether somebody without rights runs it, where the tests run as root."""


def write_material(folder: Path) -> None:
    """Write models, corpora, instructions, evaluation sets and YAML files, each with one fault, and one good of each."""
    (folder / "theirs").mkdir()
    (folder / "theirs").chmod(0o777)  # the home of somebody else
    write_bad_models(folder / "models")
    _write_corpora(folder / "corpora")
    _write_instructions(folder / "instructions")
    _write_evaluation_sets(folder / "sets")
    _write_yaml(folder / "yaml")


def _write_corpora(folder: Path) -> None:
    for name in ("good", "empty", "pictures", "nothing-in-it", "rows", "table", "closed", "[draft] über"):
        (folder / name).mkdir(parents=True)
    for topic, text in pydoc_data.topics.topics.items():
        (folder / "good" / f"{topic}.txt").write_text(text)
    for number in range(3):
        (folder / "pictures" / f"{number}.png").write_bytes(random.Random(number).randbytes(900))
    (folder / "nothing-in-it" / "a.txt").touch()
    (folder / "rows" / "a.jsonl").write_text("{\n[1\n")
    (folder / "table" / "a.parquet").write_text("PAR1 and no more")
    (folder / "closed" / "a.txt").write_text("One may not read this. " * 50)
    (folder / "closed").chmod(0)
    (folder / "loop").symlink_to(folder / "loop")


def _write_instructions(folder: Path) -> None:
    folder.mkdir()
    good = [{"instruction": f"Say {number}", "output": f"{number} it is"} for number in range(30)]
    (folder / "good.jsonl").write_text("\n".join(map(json.dumps, good)))
    (folder / "empty.jsonl").touch()
    (folder / "other-fields.jsonl").write_text('{"q": "a"}\n')
    (folder / "cut-off.json").write_text('[{"instruction": ')
    (folder / "number.json").write_text("3")
    (folder / "packed.jsonl.gz").write_bytes(b"\x1f\x8b\x08 and no more")
    (folder / "table.parquet").write_text("PAR1 and no more")
    (folder / "table.xlsx").write_bytes(b"PK")
    surrogates = '{"instruction": "a \\ud800", "output": "b \\ud800"}\n'
    (folder / "surrogates.jsonl").write_text(surrogates * 20)


def _write_evaluation_sets(folder: Path) -> None:
    folder.mkdir()
    (folder / "empty.jsonl").touch()
    (folder / "cut-off.jsonl").write_text("{\n")
    (folder / "table.parquet").write_text("PAR1 and no more")
    (folder / "picture.png").write_bytes(random.Random(0).randbytes(900))


def _write_yaml(folder: Path) -> None:
    folder.mkdir()
    texts = {
        "open": "distill: [",
        "list": "- distill\n",
        "words": "just words",
        "twice": "teacher: a\nteacher: b\n",
        "number": "3: 4\n",
        "section": "distill: quick\n",
        "tab": "\tteacher: x\n",
        "nul-corpus": 'corpus: ["a\\0b"]\n',
        "nul-model": 'model: "a\\0b"\n',
        "nul-instructions": 'model: tiny\ninstructions: "a\\0b"\n',
    }
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")


def _run(flow: str, *settings: str) -> list[str]:
    return ["run", flow, "--preset", "smoke", *(word for one in settings for word in ("--set", one))]


def typed() -> dict[str, Case]:
    """What no file is needed for."""
    told = {
        "command": (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        "option": (["run", "--presett", "smoke"], "No such option: --presett"),
        "another-argument": (["run", "evaluate", "twice"], "unexpected extra argument"),
        "no-value": (["run", "--preset"], "requires an argument"),
        "no-number": (["run", "--student-size", "two"], "Invalid value for '--student-size'"),
        "no-port": (["serve", "--port", "x"], "Invalid value for '--port'"),
        "flow": (["run", "evalaute"], "there is no flow evalaute: choose one of"),
        "preset": (["inspect", "--preset", "huge"], "there is no preset huge: choose one of"),
        "setting": (["run", "--set", "distill.temprature=3"], "did you mean temperature?"),
        "deep-setting": (["run", "--set", "distill.seed.x=3"], "distill.seed: "),
        "no-setting": (["run", "--set", ""], "write it as distill.temperature=3"),
        "negative": (["run", "--set", "distill.tokens=-5"], "distill.tokens: "),
        "words": (["run", "--set", "distill.tokens=many"], "distill.tokens: "),
        "not-a-number": (["run", "--set", "distill.temperature=.nan"], "distill.temperature: "),
        "infinite": (["run", "--set", "distill.tokens=1e400"], "distill.tokens: "),
        "section": (["run", "--set", "distill=3"], "distill: "),
        "list": (["run", "--set", "corpus=[[a]]"], "corpus.0: "),
        "open-list": (["run", "--set", "corpus=[a"], "could not be read as YAML"),
        "format": (["run", "--set", "quantize.formats=[int3]"], "quantize.formats.0: "),
        "name": (["run", "--set", "registration.name='a/b'"], "registration.name: "),
        "sample": (["inspect", "--sample", "0"], "inspect.documents: "),
        "examples": (["show-mask", "--examples", "0"], "Invalid value for '--examples'"),
        "short-mask": (["show-mask", "--max-length", "3"], "Invalid value for '--max-length'"),
        "no-document": (["lineage", "x", "--most", "0"], "Invalid value for '--most'"),
        "card": (["plan", "--device", "nonsense"], "nonsense"),
        "no-config": (["config", "--config", "/nowhere/[draft].yaml"], "/nowhere/[draft].yaml could not be"),
        "long-config": (["config", "--config", LONG], "could not be read as YAML"),
        "no-diff": (["config", "--diff", "/nowhere.yaml"], "/nowhere.yaml could not be read as YAML"),
    }
    return {f"typed-{name}": Case(*case) for name, case in told.items()}


def yaml_files(folder: Path) -> dict[str, Case]:
    """Files of settings."""
    told = {
        "open": "could not be read as YAML",
        "list": "must hold settings by name",
        "words": "must hold settings by name",
        "twice": "could not be read as YAML",
        "number": "3",
        "section": "distill: ",
        "tab": "could not be read as YAML",
        "bytes": "could not be read as YAML",
        "loop": "could not be read as YAML",
    }
    return {
        f"yaml-{name}": Case(["config", "--config", str(folder / "yaml" / f"{name}.yaml")], says)
        for name, says in told.items()
    }


def models(folder: Path) -> dict[str, Case]:
    """Models, in each command that reads one."""
    place = folder / "models"

    def evaluated(name: str) -> list[str]:
        chosen = [f"models=[{json.dumps(str(place / name))}]", f"corpus=['{folder / 'corpora' / 'good'}']"]
        return _run("evaluate", *chosen)

    def masked(name: str) -> list[str]:
        good = folder / "instructions" / "good.jsonl"
        return ["show-mask", "--model", str(place / name), "--instructions", str(good)]

    measured = {
        "cut-off": "should be",
        "cut-in-header": "no whole safetensors file",
        "no-weights": "holds no weights",
        "pickle": "never read",
        "template": "is no Jinja template",
        "text-size": "config.json",
        "other-shape": "cannot be read",
        "more-layers": "would be random",
        "empty": "is no model: give a folder with a config.json",
        "none.gguf": "cannot be read",
        "nowhere": "no hub model that can be reached from here",
    }
    shown = {
        "no-tokenizer": "the tokenizer in",
        "list-tokenizer": "the tokenizer in",
        "list-tokenizer-config": "the tokenizer in",
        "template": "is no Jinja template",
        "nowhere": "no hub model that can be reached from here",
    }
    planned = {
        "broken-config": "config.json",
        "binary-config": "config.json",
        "deep-config": "config.json",
        "no-layers": "0 layers",
        "heads": "config.json",
        "unheard-of": "config.json",
        "none.gguf": "cannot be read",
    }
    return {
        **{f"evaluate-{name}": Case(evaluated(name), says) for name, says in measured.items()},
        **{f"mask-{name}": Case(masked(name), says) for name, says in shown.items()},
        **{
            f"plan-{name}": Case(["plan", "compress", "--set", f"model='{place / name}'"], says)
            for name, says in planned.items()
        },
        "evaluate-long": Case(_run("evaluate", f"models=[{LONG}]"), "File name too long"),
        "compress-nul": Case([*_run("compress"), "--config", str(folder / "yaml/nul-model.yaml")], "model"),
        "evaluate-somebody": Case(_run("evaluate", "models=['~nobody-here/x']"), "~nobody-here/x"),
    }


def corpora(folder: Path) -> dict[str, Case]:
    """Corpora and evaluation sets."""
    place = folder / "corpora"
    told = {
        "empty": "has no file with text in it",
        "pictures": "3 others were passed over",
        "nothing-in-it": "has no file with text in it",
        "rows": "no document could be read",
        "table": "no document could be read",
        "loop": "corpora/loop",
        "[draft] über": "[draft] über has no file with text in it",
        "nowhere": "does not exist",
    }
    cases = {f"corpus-{name}": (str(place / name), says) for name, says in told.items()}
    cases |= {
        "corpus-blank": ("", "a blank names nothing"),
        "corpus-long": (LONG, "cannot be read"),
        "corpus-url": ("http://127.0.0.1:9/x.txt", "check the URL"),
        "corpus-address": ("http://[::1", "check the URL"),
    }
    sets = {
        "empty.jsonl": "empty.jsonl",
        "cut-off.jsonl": "cut-off.jsonl",
        "table.parquet": "table.parquet",
        "picture.png": "picture.png",
        "nowhere.txt": "does not exist",
    }
    good = ["inspect", "--preset", "smoke", "--corpus", str(place / "good")]
    return {
        **{
            name: Case(["inspect", "--preset", "smoke", "--corpus", one], says)
            for name, (one, says) in cases.items()
        },
        **{
            f"set-{name}": Case([*good, "--evaluation-sets", str(folder / "sets" / name)], says)
            for name, says in sets.items()
        },
        "corpus-closed": Case(
            [*good[:-1], str(place / "closed")],
            "closed",
            {"LEANPIPE_HOME": str(folder / "theirs")},
            nobody=True,
        ),
        "corpus-roots": Case(good, "outside the permitted folders", {"LEANPIPE_ROOTS": "/nowhere"}),
        "corpus-nul": Case(
            [*_run("prepare-corpus"), "--config", str(folder / "yaml/nul-corpus.yaml")], "corpus"
        ),
    }


def instructions(folder: Path) -> dict[str, Case]:
    """Instructions, in both commands that read them."""
    place = folder / "instructions"
    told = {
        "empty.jsonl": "is empty; accepted are",
        "other-fields.jsonl": "has the fields q at line 1; accepted are",
        "cut-off.json": "accepted are",
        "number.json": "has '3' at record 1; accepted are",
        "packed.jsonl.gz": "cannot be read",
        "table.parquet": "cannot be read",
        "table.xlsx": "holds no .json",
        "nowhere.json": "does not exist",
    }
    model = str(folder / "models" / "good")
    measured = (f"models=['{model}']", f"corpus=['{folder / 'corpora' / 'good'}']")
    asked = ("human-evaluation", f"models=['{model}', '{model}']")
    return {
        "evaluate-answers": Case(
            _run("evaluate", *measured, f"instructions='{place / 'empty.jsonl'}'"), told["empty.jsonl"]
        ),
        "people-prompts": Case(
            _run(*asked, f"prompt_set='{place / 'other-fields.jsonl'}'"), "asks nothing at line 1"
        ),
        "people-votes": Case(_run(*asked, "votes=['/nowhere.csv']"), "/nowhere.csv is no file"),
        "people-version": Case(_run("human-evaluation"), "no model leanpipe@champion is registered"),
        **{
            f"mask-{name}": Case(["show-mask", "--model", model, "--instructions", str(place / name)], says)
            for name, says in told.items()
        },
        "mask-blank": Case(["show-mask", "--model", model, "--instructions", ""], "a blank names nothing"),
        "finetune-other-fields": Case(
            _run("finetune", f"model='{model}'", f"instructions='{place / 'other-fields.jsonl'}'"),
            "accepted are",
        ),
        "finetune-nul": Case(
            [*_run("finetune"), "--config", str(folder / "yaml/nul-instructions.yaml")], "instructions"
        ),
        "finetune-module": Case(
            _run("finetune", f"model='{model}'", "finetune.target_modules=[nosuch]"), "nosuch"
        ),
    }


def tasks(folder: Path) -> dict[str, Case]:
    """Tasks with known answers."""
    chosen = [f"models=['{folder / 'models' / 'good'}']", f"corpus=['{folder / 'corpora' / 'good'}']"]
    return {
        f"task-{name}": Case(_run("evaluate", *chosen, f"tasks=['{folder / 'tasks' / name}']"), says)
        for name, says in write_bad_tasks(folder / "tasks").items()
    }


def served(folder: Path, taken: int) -> dict[str, Case]:
    """Servers: what is served, and where."""
    place, port = folder / "models", ["--port", str(taken)]
    return {
        "serve-nowhere": Case(["serve", "nowhere"], "nowhere"),
        "serve-version": Case(["serve", "leanpipe@77"], "leanpipe"),
        "serve-markup": Case(["serve", "[bold] x"], "[bold] x"),
        "serve-long": Case(["serve", LONG], "a"),
        "serve-empty": Case(["serve", str(place / "empty")], "empty"),
        "serve-taken": Case(["serve", str(place / "good"), *port], f"cannot listen at 127.0.0.1:{taken}"),
        "serve-port": Case(["serve", str(place / "good"), "--port", "99999"], "--port"),
        "serve-host": Case(["serve", str(place / "good"), "--host", "no.such.host.invalid"], "--host"),
        "lineage-nowhere": Case(["lineage", "[(* 100%'; drop"], "cleaned"),
        "up-taken": Case(["up", "--prefect-port", str(taken)], "--prefect-port"),
        "up-port": Case(["up", "--mlflow-port", "99999"], "Invalid value for '--mlflow-port'"),
        "deploy-nowhere": Case(
            ["deploy"], "no Prefect server answers", {"PREFECT_API_URL": "http://127.0.0.1:9"}
        ),
    }


def in_one_process(folder: Path, taken: int) -> dict[str, Case]:
    """Every case that needs no process of its own, by name."""
    groups = (
        typed(),
        yaml_files(folder),
        models(folder),
        corpora(folder),
        instructions(folder),
        tasks(folder),
    )
    cut = {name: Case(*case) for name, case in shapes(folder).items()}
    return {name: case for group in (*groups, cut, served(folder, taken)) for name, case in group.items()}
