"""Every rule of the house holds in this tree, and catches a breach of each kind in a small bad one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import house

LONG_BODY = "def walk():\n    '''Walk.'''\n" + "    print()\n" * 51


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_this_tree_has_no_breach(rule: Callable[[Path], list[str]]):
    if breaches := rule(house.ROOT):
        pytest.fail("\n".join(breaches), pytrace=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("extra", [0, 1])
def test_a_folder_holds_fifteen_modules_and_its_init(tmp_path: Path, extra: int):
    names = ["__init__", *(f"m{number}" for number in range(15 + extra))]
    breaches = house.breaches_of_room(write(tmp_path, {f"flows/cli/{name}.py": "" for name in names}))
    assert len(breaches) == extra
    assert all(one.startswith("flows/cli holds 16 modules") for one in breaches)


def test_two_modules_of_one_name(tmp_path: Path):
    names = [
        "core/__init__",
        "core/config",
        "core/growth",
        "corpus/__init__",
        "corpus/config",
        "corpus/a/growth",
    ]
    [breach] = house.breaches_of_names(write(tmp_path, {f"leanpipe/{name}.py": "" for name in names}))
    assert breach.startswith("leanpipe/core/growth.py and leanpipe/corpus/a/growth.py have one name")


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("leanpipe/core/a.py", "from leanpipe.processes.b import c", "leanpipe.processes.b.c"),
        ("leanpipe/core/a.py", "def f():\n    from leanpipe import planning", "leanpipe.planning"),
        ("leanpipe/core/a.py", "import leanpipe.tokens.pack as pack", "leanpipe.tokens.pack"),
        ("leanpipe/core/a.py", "if TYPE_CHECKING:\n    from tasks import run", "tasks.run"),
        ("leanpipe/core/a.py", "from ..corpus import clean", "leanpipe.corpus.clean"),
        ("leanpipe/core/__init__.py", "from ..corpus.clean import clean", "leanpipe.corpus.clean.clean"),
        ("leanpipe/training/trainer/a.py", "from leanpipe.serving import serve", "leanpipe.serving.serve"),
        ("flows/distill.py", "from flows.cli import console", "flows.cli.console"),
        ("tasks/run.py", "from tests.tiny import tiny_text", "tests.tiny.tiny_text"),
    ],
)
def test_an_import_upwards_wherever_it_stands(tmp_path: Path, file: str, text: str, found: str):
    [breach] = house.breaches_of_order(write(tmp_path, {file: text}))
    assert breach.startswith(f"{file}:") and f" imports {found}, " in breach


def test_imports_downwards_and_of_neighbours_are_none(tmp_path: Path):
    text = "import torch\nfrom leanpipe import core\nfrom leanpipe.settings.flows import x\nfrom . import sibling"
    assert not house.breaches_of_order(
        write(tmp_path, {"leanpipe/settings/a.py": text, "flows/cli/a.py": text})
    )


def test_a_module_outside_every_package_has_no_place(tmp_path: Path):
    files = {"leanpipe/__init__.py": "", "leanpipe/nursery.py": "", "leanpipe/text/clean.py": ""}
    breaches = house.breaches_of_order(write(tmp_path, files))
    assert [one.split()[0] for one in breaches] == ["leanpipe/nursery.py", "leanpipe/text/clean.py"]


@pytest.mark.parametrize(
    ("package", "other", "breach"),
    [
        ("losses", "trainer", True),
        ("trainer", "finetune", True),
        ("distill", "finetune", True),
        ("pretrain", "on_policy", True),
        ("trainer", "distributed", False),
        ("distributed", "trainer", False),
        ("on_policy", "finetune", False),
        ("trainer", "trainer", False),
    ],
)
def test_training_is_built_in_levels(tmp_path: Path, package: str, other: str, breach: bool):
    file = f"leanpipe/training/{package}/a.py"
    text = f"def f():\n    from leanpipe.training.{other}.b import c"
    assert len(house.breaches_of_training_order(write(tmp_path, {file: text}))) == breach


@pytest.mark.parametrize(
    ("file", "text", "breach"),
    [
        ("leanpipe/core/a.py", "import mlflow", True),
        ("leanpipe/core/a.py", "def f():\n    from prefect.artifacts import b", True),
        ("tasks/lineage.py", "from mlflow.exceptions import MlflowException", True),
        ("flows/a.py", "import mlflow.tracking", True),
        ("tasks/tracking/runs.py", "from mlflow import MlflowClient", False),
        ("tasks/run.py", "from prefect import task", False),
        ("leanpipe/core/a.py", "import mlflowers", False),
    ],
)
def test_who_knows_mlflow_and_prefect(tmp_path: Path, file: str, text: str, breach: bool):
    assert len(house.breaches_of_tools(write(tmp_path, {file: text}))) == breach


@pytest.mark.parametrize("package", ["leanpipe", "tasks", "flows", "benchmarks", "tests"])
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\n" * 400, ""),
        ("\n" * 401, "has 401 lines"),
        (LONG_BODY, "walk's body has 51 lines"),
        (LONG_BODY.removesuffix("    print()\n"), ""),
        ("class A:\n  async " + LONG_BODY.replace("\n", "\n  ").rstrip(), "walk's body has 51 lines"),
    ],
)
def test_files_and_functions_too_long(tmp_path: Path, package: str, text: str, found: str):
    breaches = house.breaches_of_size(write(tmp_path, {f"{package}/a.py": text}))
    assert len(breaches) == bool(found)
    assert found in "".join(breaches)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(): pass", "f has no docstring"),
        ("async def f(): pass", "f has no docstring"),
        ("class A: pass", "A has no docstring"),
        ("class A:\n  '''A box.'''\n  def f(self):\n    a()\n    b()", "f has no docstring"),
        ("class A(BaseModel):\n  '''A box.'''\n  def f(self):\n    a()\n    b()", "f has no docstring"),
        ("def f():\n  '''The same for a file.'''", "f's docstring opens with “The same”"),
        ("def f():\n  '''Take that back.'''", "f's docstring opens with “Take that”"),
        ("def f():\n  '''\n  As `g` does it.'''", "f's docstring opens with “As”"),
        ("class A:\n  '''It, again.'''", "A's docstring opens with “It”"),
        (
            "class A:\n  '''A box.'''\n  def f(self):\n    '''Of stage `x`.'''",
            "f's docstring opens with “Of”",
        ),
        ("def f():\n  '''Stage `x`'s memory.'''", "f's docstring opens with “Stage"),
        ("def _f(): pass", ""),
        ("def f():\n  '''Write the file.'''", ""),
        ("def f():\n  '''Ofcom's list of numbers.'''", ""),
        ("class A:\n  '''A box.'''\n  def f(self): return 1\n  def __len__(self):\n    a()\n    b()", ""),
        ("class A(TrainerCallback):\n  '''A box.'''\n  def on_save(self):\n    a()\n    b()", ""),
        (
            "class P(Protocol):\n  '''A hook.'''\n  def go(self):\n    '''Begin.'''\n"
            "class A:\n  '''A box.'''\n  def go(self):\n    a()\n    b()",
            "",
        ),
    ],
)
def test_what_a_docstring_says_stands_alone(tmp_path: Path, text: str, found: str):
    breaches = house.breaches_of_docstrings(write(tmp_path, {"tasks/a.py": text}))
    assert len(breaches) == bool(found)
    assert found in "".join(breaches)


@pytest.mark.parametrize(("text", "status"), [("", 0), ("import mlflow", 1)])
def test_the_report_names_each_rule_and_its_breaches(tmp_path: Path, text: str, status: int):
    write(tmp_path, {"flows/a.py": text})
    command = [sys.executable, "-m", "tests.house", str(tmp_path)]
    done = subprocess.run(command, cwd=house.ROOT, capture_output=True, text=True)
    assert done.returncode == status
    assert f"tools: {status}\n" in done.stdout
    assert ("flows/a.py:1 imports mlflow" in done.stdout) == bool(status)
