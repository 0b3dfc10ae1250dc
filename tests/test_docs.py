"""What README and docs/ say is there: links, pictures, commands, settings, sentences, and the map of the tree."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import regex
import yaml
from typer.main import get_command

from docs.pipeline_picture import THEMES, svg
from flows.cli.main import app
from leanpipe.core.config import flatten
from leanpipe.settings.flows import SETTINGS
from leanpipe.settings.presets import PRESETS

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "docker" / "README.md"]
PACKAGES = sorted(
    path.parent for top in ("leanpipe", "tasks", "flows") for path in (ROOT / top).rglob("__init__.py")
)
NOT_OURS = ("Body() got", "No space left", "Validation failed")
"""Beginnings of sentences that other programs say."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page: Path) -> list[str]:
    """Lines in fences, and what stands in backticks."""
    text = page.read_text()
    fenced = [
        line for block in re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()
    ]
    return fenced + re.findall(r"`([^`]+)`", prose(text))


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```\n", "", text, flags=re.M | re.S)


def targets(page: Path) -> list[str]:
    """Where links and pictures lead, but for other hosts."""
    text = prose(page.read_text())
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    return [target for target in found if not target.startswith(("http:", "https:"))]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_link_and_picture_is_there(page: Path):
    broken = []
    for target in targets(page):
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert not broken


def test_every_picture_is_shown_and_small():
    shown = {(page.parent / target).resolve() for page in PAGES for target in targets(page)}
    pictures = set(IMAGES.iterdir())
    assert pictures <= shown
    assert len(pictures) <= 8
    assert {path.name for path in pictures if path.stat().st_size > 200_000} == set()


@pytest.mark.parametrize("theme", THEMES)
def test_the_picture_of_the_pipeline_is_the_one_that_its_script_draws(theme: str):
    assert (IMAGES / f"pipeline-{theme}.svg").read_text() == svg(THEMES[theme])


@every_page
def test_every_make_target_exists(page: Path):
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for line in code(page) for name in re.findall(r"\bmake ([a-z][\w-]*)", line)}
    assert named <= known


@every_page
def test_every_command_and_option_exists(page: Path):
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for line in code(page):
        for name, rest in re.findall(r"(?:^|\s)leanpipe ([a-z][a-z-]*)([^#]*)", line):
            assert name in commands, line
            known = {option for one in commands[name].params for option in one.opts} | {"--help"}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known, line


@every_page
def test_every_flow_and_preset_exists(page: Path):
    for line in code(page):
        flows = re.findall(r"leanpipe (?:run|plan) ([a-z][a-z-]*)", line)
        presets = re.findall(r"--preset ([\w-]+)", line)
        assert set(flows) <= set(SETTINGS), line
        assert set(presets) <= set(PRESETS), line


def settings() -> set[str]:
    """Every setting of every flow, and every section of them, by its path."""
    leaves = {name for kind in SETTINGS.values() for name in flatten(kind())}
    return {".".join(name.split(".")[: n + 1]) for name in leaves for n in range(name.count(".") + 1)}


def named_settings(page: Path) -> Iterator[str]:
    """What is given to `--set`, and what stands in backticks and begins with the name of a section."""
    sections = {name.partition(".")[0] for name in settings() if "." in name}
    for line in code(page):
        yield from re.findall(r"--set '?([\w.]+)=", line)
        for name in re.findall(r"(?<![\w./@-])([a-z_]+(?:\.[a-z_0-9]+)+)(?![\w/])", line):
            first, _, rest = name.partition(".")
            if first in sections and rest not in ("py", "md", "png", "json", "jsonl"):
                yield name


@every_page
def test_every_setting_exists(page: Path):
    unknown = set(named_settings(page)) - settings()
    assert not unknown


def test_every_extra_that_is_named_can_be_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"]
    places = [
        ROOT / "pyproject.toml",
        ROOT / "Makefile",
        *PAGES,
        *(path for path in (ROOT / "docker").glob("*") if path.is_file()),
    ]
    places += [path for package in ("leanpipe", "tasks", "flows") for path in (ROOT / package).rglob("*.py")]
    named = {
        extra.strip()
        for path in places
        for extras in re.findall(r"\bleanpipe\[([a-z,-]+)\]", path.read_text())
        for extra in extras.split(",")
    }
    assert len(named) > 4 and named <= set(declared), named - set(declared)


def test_settings_are_named_at_all():
    assert len({name for page in PAGES for name in named_settings(page)}) > 60


@every_page
def test_every_yaml_is_valid(page: Path):
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S):
        SETTINGS["data-to-deployment"].model_validate(yaml.safe_load(block))


def test_readme_is_short():
    """Words of its prose: without code, tables, pictures and HTML."""
    lines = [
        line for line in prose(README.read_text()).splitlines() if not line.lstrip().startswith(("|", "<"))
    ]
    words = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", "\n".join(lines)).split()
    assert 900 <= len(words) <= 1_100


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_package_is_in_the_map(package: Path):
    section = README.read_text().partition("## The map\n")[2].partition("\n## ")[0]
    assert f"{package.name}/" in section


def templates() -> Iterator[list[str | None]]:
    """Every text in the code that has values filled in, as its constant parts with None for each value."""
    for top in ("leanpipe", "tasks", "flows"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield [part.value if isinstance(part, ast.Constant) else None for part in node.values]  # type: ignore[misc]
                elif (
                    isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
                ):
                    # "%s" as logging fills it in.
                    yield [
                        None if part.startswith("%") else part
                        for part in re.split("(%[sd])", node.value)
                        if part
                    ]


def says(template: list[str | None], quoted: str) -> bool:
    """Whether `quoted` is what the template says with some values, or the beginning of that."""
    constant = [part.strip() for part in template if part]
    if len(constant) == len(template) == 1 and quoted in constant[0]:
        return True  # a sentence without values may be quoted in part
    if sum(len(shared(part, quoted)) for part in constant) < 10:
        return False
    pattern = "".join(".+?" if part is None else re.escape(part) for part in template)
    return regex.fullmatch(pattern, quoted, partial=True) is not None


def shared(part: str, quoted: str) -> str:
    """The part if it is quoted, else the beginning of it with which the quotation breaks off."""
    if part in quoted:
        return part
    return next((part[:n] for n in range(len(part), 0, -1) if quoted.endswith(part[:n])), "")


def test_every_sentence_that_troubleshooting_explains_is_one_that_leanpipe_says():
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    symptoms = re.findall(r"^\*\*.*?(?=\n- |\n\n)", text, re.M | re.S)
    bold = [part for symptom in symptoms for part in re.findall(r"`([^`]+)`", symptom)]
    quoted = [
        " ".join(one.split())
        for one in bold
        if " " in one and not one.startswith(("leanpipe ", "make ", *NOT_OURS))
    ]
    assert len(quoted) > 25
    known = list(templates())
    untrue = [one for one in quoted if not any(says(template, one) for template in known)]
    assert not untrue
