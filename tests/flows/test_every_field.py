"""No setting is read by nothing: with another value a stage does something else, or refuses it.

The values are in tests/flows/alternatives.py; what counts as something else is in tests/flows/workshop.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError

from leanpipe.assets.resolve import (
    resolve_corpus,
    resolve_evaluation_sets,
    resolve_instructions,
    resolve_model,
    resolve_prompts,
    resolve_tasks,
)
from leanpipe.core.config import StageConfig, flatten
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.stage import Summary, stage
from leanpipe.core.store import Store
from leanpipe.evaluation.gate import RegisterConfig, choose
from leanpipe.evaluation.model_card import model_card
from leanpipe.evaluation.paired import Evaluated
from leanpipe.evaluation.verdict import judge
from leanpipe.settings.flows import SETTINGS as OF_EACH_FLOW
from tests.evaluation.scores import evaluated
from tests.flows.alternatives import BASES, GIVEN, MISSING, ROWS, SECTIONS
from tests.flows.schemas import leaves
from tests.flows.workshop import STAGES, Workshop, fingerprint
from tests.support.tiny_models import tiny_model

SETTINGS = set(OF_EACH_FLOW.values())
DECIDED_BY_THE_DEVICE = "auto"  # is one of the other values, and which one depends on the machine


def cases(sections: Iterable[str]) -> list:
    """One for each other value of each setting."""
    return [
        pytest.param(section, name, value, id=f"{section}.{name}={value}")
        for section in sections
        for name, row in SECTIONS[section].items()
        if not row.elsewhere
        for value in row.values
    ]


def bases() -> list:
    """One for each settings that another value is compared with, by section."""
    found = {
        f"{section} {row.base or ''}": (section, {**BASES[section], **row.base})
        for section in STAGES
        for row in SECTIONS[section].values()
    }
    return [pytest.param(*base, id=name.strip()) for name, base in found.items()]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def test_every_setting_of_every_flow_has_other_values():
    assert set(ROWS) == {name for kind in SETTINGS for name in flatten(kind())}
    assert all(row.values for row in ROWS.values())


def test_what_is_shown_elsewhere_is_shown_there():
    for path, row in ROWS.items():
        if row.elsewhere:
            file, function = row.elsewhere.split("::")
            text = (Path(__file__).parents[1] / file).read_text()
            assert f"def {function}(" in text and path.rpartition(".")[2] in text, path


def test_every_choice_that_a_setting_offers_is_among_them():
    for path, field in {
        path: field for kind in SETTINGS for path, field in leaves(kind.model_json_schema())
    }.items():
        offered = [True, False] if field.get("type") == "boolean" else field.get("enum", [])
        section, _, name = path.partition(".")
        first = {**BASES.get(section, {}), **ROWS[path].base}.get(name, field.get("default"))
        tried = [first, DECIDED_BY_THE_DEVICE, *ROWS[path].values]
        assert [choice for choice in offered if choice not in tried] == [], path


@pytest.mark.parametrize(("section", "settings"), bases())
def test_the_same_settings_do_the_same(workshop: Workshop, section: str, settings: dict[str, Any]):
    """Else it would mean nothing that other settings do something else."""
    assert workshop.again(section, settings) == workshop.first(section, settings)


@pytest.mark.parametrize(("section", "name", "value"), cases(STAGES))
def test_another_value_does_something_else(workshop: Workshop, section: str, name: str, value: Any):
    row = SECTIONS[section][name]
    settings = {**BASES[section], **row.base}
    first = workshop.first(section, settings)
    if value in row.refused:
        with pytest.raises((UserError, ValidationError), match=row.refused[value]):
            workshop.again(section, {**settings, name: value})
    else:
        other = workshop.again(section, {**settings, name: value})
        assert other != first, f"{section}.{name} is read by nothing: {value} does what was done without it"


@pytest.mark.parametrize(("section", "name", "value"), cases(["registration"]))
def test_another_value_registers_otherwise(section: str, name: str, value: Any):
    row = SECTIONS[section][name]
    if value in row.refused:
        with pytest.raises(ValidationError, match=row.refused[value]):
            RegisterConfig(**{name: value})
    else:
        assert registered(RegisterConfig(**{name: value})) != registered(RegisterConfig())


@pytest.mark.parametrize("name", GIVEN)
def test_another_place_gives_something_else(tmp_path: Path, name: str):
    places = [
        str(make_given(name, tmp_path / place, count)) for count, place in enumerate(("first", "other"), 1)
    ]
    digests = [given_digests(name, place, tmp_path) for place in places]
    assert digests[0] == given_digests(name, places[0], tmp_path) != digests[1]
    with pytest.raises(UserError, match=GIVEN[name].refused[MISSING]):
        given_digests(name, MISSING, tmp_path)


def make_given(name: str, path: Path, size: int) -> Path:
    if name == "corpus":
        path.mkdir()
        (path / "text.txt").write_text("text " * size)
    elif name in ("instructions", "evaluation_sets", "prompt_set"):
        path.write_text('{"prompt": "a", "completion": "b"}\n' * size)
    elif name == "tasks":
        path.write_text("kind: exact_match\nfile: items.jsonl\nprompt: 'a'\n" + "shots: 1\n" * (size - 1))
        (path.parent / "items.jsonl").write_text('{"answer": "b"}\n')
    else:
        tiny_model(path, layers=size)
    return path


def given_digests(name: str, place: str, root: Path) -> list[str]:
    """What a flow's setting `name` with this value stands for."""
    kind = next(kind for kind in SETTINGS if name in kind.model_fields)
    value = (
        (place,)
        if name in ("corpus", "evaluation_sets", "tasks")
        else (place, place)
        if name == "models"
        else place
    )
    given = getattr(kind(**{name: value}), name)
    home = Home(root)
    if name == "corpus":
        return [one.digest for one in resolve_corpus(given, home)]
    if name == "evaluation_sets":
        return [one.digest for one in resolve_evaluation_sets(given, home)]
    if name == "tasks":
        return [one.digest for one in resolve_tasks(given, home)]
    if name == "instructions":
        return [resolve_instructions(given, home).digest]
    if name == "prompt_set":
        return [resolve_prompts(given, home).digest]
    references = given if name == "models" else (given,)
    return [resolve_model(reference, home, no_stage).digest for reference in references]


def no_stage(*_: Any) -> Any:
    raise AssertionError("a model folder needs no stage to be run")


def registered(policy: RegisterConfig) -> tuple:
    """What is registered of three candidates, how it is called, and which of two challengers wins."""
    candidates = {"adapted": figures(1.00, 160), "int8": figures(1.01, 100), "nf4": figures(1.04, 70)}
    champion = scored(1.00, 100)
    better, smaller = scored(0.97, 100), scored(1.00, 80)
    few, noisy = scored(0.95, 100, documents=9), scored(0.987, 100, noise=0.025)
    a_little_worse, as_good = scored(1.005, 80), scored(1.0, 100, noise=0.005)
    card = model_card(
        name=policy.name, label="nf4", teacher="tiny", corpus="topics", stages={}, rows=candidates, reason="-"
    )
    unsure = scored(0.987, 100, noise=0.008)
    challengers = (better, smaller, few, noisy, a_little_worse, as_good, unsure)
    verdicts = [judge(challenger, champion, policy).outcome for challenger in challengers]
    return choose(candidates, policy).label, verdicts, card


def scored(bits_per_byte: float, megabytes: int, documents: int = 20, noise: float = 0.001) -> Evaluated:
    """An evaluation on documents of equal length, every other of which is a bit harder than the one before it."""
    bits = [bits_per_byte + (noise if number % 2 else -noise) for number in range(documents)]
    return evaluated([(100 * one, 100) for one in bits], megabytes)


def figures(bits_per_byte: float, megabytes: int) -> Summary:
    """Those of `evaluate`, as far as it matters which they are."""
    return {
        "bits_per_byte": bits_per_byte,
        "bits_per_byte_error": 0.01,
        "perplexity": 10.0,
        "size_bytes": megabytes * 1_000_000,
        "held_out_bytes": 1_000,
        "held_out_digest": "text",
        "weights_digest": f"{bits_per_byte} {megabytes}",
        "parameters": 1_000_000,
        "prefill_tokens_per_second": 1.0,
        "decode_tokens_per_second": 1.0,
        "first_token_seconds": 1.0,
        "peak_memory_bytes": 1_000_000,
    }


class IdleConfig(StageConfig):
    """One setting is read, the other is not."""

    read: int = Field(1, ge=0, le=9)
    """Written to a file."""
    unread: int = Field(1, ge=0, le=9)
    """Nothing."""


@dataclass(frozen=True)
class Nothing:
    """Goes in."""


@stage(version=1)
def idle(config: IdleConfig, inputs: Nothing, out: Path, report) -> Summary:
    """Reads one of its settings."""
    (out / "number.txt").write_text(str(config.read))
    return {}


def test_a_setting_that_nothing_reads_is_found(tmp_path: Path):
    shown = [
        fingerprint(idle, IdleConfig(**settings), {}, Store(tmp_path / f"{number}"))
        for number, settings in enumerate(({}, {"read": 2}, {"unread": 2}))
    ]
    assert shown[0] != shown[1]
    assert shown[0] == shown[2]
