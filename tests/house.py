"""The rules of the house: where a module may lie, what it may import, how long it may be and what it says of itself.

`python -m tests.house [FOLDER]` prints every breach in a tree, one sentence each.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent

# Each may import those before it. A name stands for all below it that has no place of its own.
ORDER = (
    "leanpipe.core",
    "leanpipe.processes",
    "leanpipe.models",
    "leanpipe.corpus",
    "leanpipe.tokens",
    "leanpipe.training",
    "leanpipe.shrink",
    "leanpipe.engines",
    "leanpipe.export",
    "leanpipe.compression",
    "leanpipe.quantization_aware",
    "leanpipe.teacher_text",
    "leanpipe.serving",
    "leanpipe.evaluation",
    "leanpipe.assets",
    "leanpipe.planning",
    "leanpipe.settings",
    "tasks",
    "flows",
    "flows.cli",
    "benchmarks",
    "tests",
)
# Inside training: those on one level know nothing of each other, but for the two that make up the trainer.
TRAINING = (
    ("losses",),
    ("trainer", "distributed"),
    ("distill", "pretrain"),
    ("finetune",),
    ("on_policy",),
)
TRAINER = {"trainer", "distributed"}

PACKAGES = ("leanpipe", "tasks", "flows")
MOST_MODULES = 15
MOST_LINES = 400
MOST_BODY_LINES = 50

# Openings of a first line that makes sense only beside another text.
LEANING = {
    *("Of", "As", "Let", "That", "This", "These", "Those", "They", "Them", "It", "Its", "Such", "Also", "Likewise"),
    *("Same", "Another", "Otherwise", "However", "And", "But", "Or", "So", "Then", "Thus", "Too", "With", "Within"),
    *("Up", "Over", "On", "By", "In", "From", "At", "For", "Here", "There"),
}  # fmt: skip
LEANING_PHRASES = ("The same", "The other", "The rest", "Take that", "What is it", "What it", "See ")
# Bases that document no method: a method of such a class speaks for itself.
PLAIN_BASES = {"object", "BaseModel", "NamedTuple", "Protocol", "Config", "Exception", "Enum", "StrEnum", "ABC", "Generic"}  # fmt: skip

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """A source file: its path below the root, its dotted name and its syntax tree."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    def where(self, node: ast.stmt) -> str:
        return f"{self.path}:{node.lineno}"


def read_modules(root: Path, *packages: str) -> list[Module]:
    """Every module below these folders of `root`, by path."""
    found = []
    for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
        below = path.relative_to(root)
        name = ".".join(below.with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        found.append(Module(below, name, text, ast.parse(text)))
    return found


def breaches_of_room(root: Path) -> list[str]:
    """Folders of more modules than one takes in at a glance."""
    folders = defaultdict(list)
    for module in read_modules(root, *PACKAGES):
        if module.path.name != "__init__.py":
            folders[module.path.parent].append(module)
    return [
        f"{folder} holds {len(inside)} modules, and {MOST_MODULES} are the most: give those that belong together a folder."
        for folder, inside in folders.items()
        if len(inside) > MOST_MODULES
    ]


def breaches_of_names(root: Path) -> list[str]:
    """Modules of the library that share a name, so that neither the name nor a traceback says which is meant."""
    named = defaultdict(list)
    for module in read_modules(root, "leanpipe"):
        if module.path.stem not in ("__init__", "config"):
            named[module.path.name].append(str(module.path))
    return [
        f"{' and '.join(paths)} have one name: rename all but one for what it does."
        for paths in named.values()
        if len(paths) > 1
    ]


def breaches_of_order(root: Path) -> list[str]:
    """Imports of what comes later, in functions and for type checkers too."""
    breaches = []
    for module in read_modules(root, *PACKAGES):
        place = place_in_order(module.name)
        if place is None and module.name != "leanpipe":
            breaches.append(f"{module.path} is in no package of ORDER: move it into one, or add its package.")
        for node, name in imports(module):
            target = place_in_order(name)
            if place is not None and target is not None and ORDER.index(target) > ORDER.index(place):
                breaches.append(
                    f"{module.where(node)} imports {name}, but {target} comes after {place}: "
                    "move what both need down, or pass it in."
                )
    return breaches


def place_in_order(name: str) -> str | None:
    """The longest entry of ORDER that `name` is or lies below."""
    places = [place for place in ORDER if f"{name}.".startswith(f"{place}.")]
    return max(places, key=len, default=None)


def breaches_of_training_order(root: Path) -> list[str]:
    """Imports between the packages of training that go up or sideways."""
    levels = {package: level for level, packages in enumerate(TRAINING) for package in packages}
    breaches = []
    for module in read_modules(root, "leanpipe/training"):
        own = room_of_training(module.name)
        for node, name in imports(module):
            other = room_of_training(name)
            if own not in levels or other not in levels or own == other or {own, other} == TRAINER:
                continue
            if levels[other] >= levels[own]:
                breaches.append(
                    f"{module.where(node)} imports {name}, but training's {own} comes before its {other} or "
                    "beside it: move what both need down, or pass it in."
                )
    return breaches


def room_of_training(name: str) -> str:
    """The package of training in which a module lies, or nothing."""
    parts = name.split(".")
    return parts[2] if parts[:2] == ["leanpipe", "training"] and len(parts) > 2 else ""


def breaches_of_tools(root: Path) -> list[str]:
    """Imports of MLflow or Prefect where neither should be known."""
    breaches = []
    for module in read_modules(root, *PACKAGES):
        for node, name in imports(module):
            tool = name.split(".")[0]
            if tool in ("mlflow", "prefect") and module.path.parts[0] == "leanpipe":
                breaches.append(
                    f"{module.where(node)} imports {name}: the library knows neither; call it from tasks/."
                )
            elif tool == "mlflow" and module.path.parts[:2] != ("tasks", "tracking"):
                breaches.append(
                    f"{module.where(node)} imports {name}: only tasks/tracking/ does; call it from there."
                )
    return breaches


def breaches_of_size(root: Path) -> list[str]:
    """Files and functions too long to read at once."""
    breaches = []
    for module in read_modules(root, *PACKAGES, "benchmarks", "tests"):
        lines = len(module.text.splitlines())
        if lines > MOST_LINES:
            breaches.append(
                f"{module.path} has {lines} lines, and {MOST_LINES} are the most: split it by concern."
            )
        for node in ast.walk(module.tree):
            if isinstance(node, Function) and (length := body_lines(node)) > MOST_BODY_LINES:
                breaches.append(
                    f"{module.where(node)}: {node.name}'s body has {length} lines, and {MOST_BODY_LINES} are the most: "
                    "give its steps names of their own."
                )
    return breaches


def body_lines(function: Function) -> int:
    """Lines from a function's first statement to its last; a docstring is not one of them."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - body[0].lineno + 1 if body and function.end_lineno else 0


def breaches_of_docstrings(root: Path) -> list[str]:
    """Public functions and classes without a docstring, and first lines that lean on another text."""
    modules = read_modules(root, *PACKAGES)
    known = documented_by_protocols(modules)
    breaches = []
    for module in modules:
        for owner, node in public_definitions(module.tree):
            text = ast.get_docstring(node)
            if text is not None and (opening := leaning_opening(text)):
                breaches.append(
                    f"{module.where(node)}: {node.name}'s docstring opens with “{opening}”, which needs another "
                    "text: begin with a verb, or name the subject."
                )
            if text is None and not (owner and speaks_for_itself(owner, node, known)):
                breaches.append(
                    f"{module.where(node)}: {node.name} has no docstring: say in a line what it does."
                )
    return breaches


def public_definitions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, Function | ast.ClassDef]]:
    """Public functions and classes of a module, and public methods with the class that has them."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield None, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, Function) and not inner.name.startswith("_"):
                    yield node, inner


def documented_by_protocols(modules: list[Module]) -> set[str]:
    """Names of the methods that a protocol documents for all who have them."""
    classes = (node for module in modules for node in module.tree.body if isinstance(node, ast.ClassDef))
    return {
        method.name
        for node in classes
        if "Protocol" in bases(node)
        for method in node.body
        if isinstance(method, Function) and ast.get_docstring(method)
    }


def speaks_for_itself(owner: ast.ClassDef, node: ast.stmt, known: set[str]) -> bool:
    """Whether a method needs no docstring: one statement long, or documented by a protocol or a base class."""
    return (
        isinstance(node, Function)
        and (len(node.body) == 1 or node.name in known or bool(bases(owner) - PLAIN_BASES))
    )  # fmt: skip


def bases(node: ast.ClassDef) -> set[str]:
    """Names of a class's bases, without the packages that they are from and without parameters."""
    return {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}


def leaning_opening(docstring: str) -> str:
    """The opening of a docstring that cannot stand alone, or nothing."""
    first = docstring.strip().split("\n")[0]
    phrase = next((phrase.strip() for phrase in LEANING_PHRASES if first.startswith(phrase)), "")
    word = first.split()[0].rstrip(",.:;") if first else ""
    return phrase or (word if word in LEANING else "") or ("Stage …’s" if first.startswith("Stage `") else "")


def imports(module: Module) -> Iterator[tuple[ast.stmt, str]]:
    """Every import of a module with the full name of what it imports, wherever in the file it stands."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
            base = (
                ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            )
            whole = ".".join(part for part in (base, node.module) if part)
            yield from ((node, f"{whole}.{alias.name}") for alias in node.names)


RULES = (
    breaches_of_room,
    breaches_of_names,
    breaches_of_order,
    breaches_of_training_order,
    breaches_of_tools,
    breaches_of_size,
    breaches_of_docstrings,
)


def main() -> None:
    """Print every breach by rule, and end with 1 where there is one."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    total = 0
    for rule in RULES:
        breaches = rule(root)
        total += len(breaches)
        print(f"{rule.__name__.removeprefix('breaches_of_')}: {len(breaches)}", *breaches, sep="\n  ")
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
