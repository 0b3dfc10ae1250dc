from typing import ClassVar

import pytest
from pydantic import Field, ValidationError

from leanpipe.core.config import StageConfig, flatten


class Inner(StageConfig):
    """Settings within settings."""

    zebra: int = Field(1, ge=0, le=9)
    """Declared first."""
    apple: float = Field(0.5, gt=0, le=1)
    """Declared second."""


class Outer(StageConfig):
    """Settings."""

    inner: Inner = Inner()
    """The inner ones."""
    names: tuple[str, ...] = ("a", "b")
    """A list."""


def test_flatten_names_every_leaf_by_its_path_and_keeps_lists_whole():
    assert flatten(Outer()) == {"inner.zebra": 1, "inner.apple": 0.5, "names": ["a", "b"]}


def test_the_form_shows_fields_in_the_order_of_their_declaration_with_their_docstrings():
    properties = Inner.model_json_schema()["properties"]
    assert [properties[name]["position"] for name in ("zebra", "apple")] == [0, 1]
    assert properties["zebra"]["description"] == "Declared first."
    assert properties["apple"]["exclusiveMinimum"] == 0


@pytest.mark.parametrize("values", [{"zebra": 10}, {"zebra": -1}, {"zebrra": 1}, {"apple": 0}])
def test_what_is_out_of_bounds_or_misspelt_is_refused(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        Inner(**values)


def test_settings_cannot_change_under_a_run():
    with pytest.raises(ValidationError):
        Inner().zebra = 2  # type: ignore[misc]


class Renamed(StageConfig):
    """Settings of which one had another name once."""

    renamed: ClassVar[dict[str, str]] = {"colour": "color"}

    color: str = "red"
    """Of what."""


def test_an_old_name_is_refused_with_the_new_one():
    with pytest.raises(ValidationError, match="colour is called color now: write color"):
        Renamed.model_validate({"colour": "blue"})
