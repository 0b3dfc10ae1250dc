"""Walks the JSON schema that Prefect makes a form of, and says which fields a person could not fill in."""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]


def leaves(schema: Schema, path: str = "", definitions: Schema | None = None) -> Iterator[tuple[str, Schema]]:
    """(path, schema) of every field that is no section of fields itself."""
    for inner, field, known in _fields(schema, path, definitions):
        content = _followed(field, known)
        if "properties" in content:
            yield from leaves(content, inner, known)
        else:
            yield inner, content


def faults(schema: Schema, path: str = "", definitions: Schema | None = None) -> list[str]:
    """One line for everything that is missing, led by the field's path: help text, position, type, bounds."""
    found = []
    positions = [field.get("position") for _, field, _ in _fields(schema, path, definitions)]
    if len(set(positions)) < len(positions):
        found.append(f"{path}: two of its fields have the same position, or none: {positions}")
    for inner, field, known in _fields(schema, path, definitions):
        if not field.get("description", "").strip():
            found.append(f"{inner}: no description")
        if not isinstance(field.get("position"), int):
            found.append(f"{inner}: no position")
        for option in _options(_followed(field, known)):
            found += _content_faults(option, inner, known)
    return found


def _content_faults(field: Schema, path: str, definitions: Schema) -> list[str]:
    content = _followed(field, definitions)
    if "properties" in content:
        return faults(content, path, definitions)
    if {"enum", "const"} & set(content):
        return []
    kind = content.get("type")
    if kind in ("integer", "number"):
        bounds = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
        return [f"{path}: no {names[0]}" for names in bounds if not set(names) & set(content)]
    if kind == "string":
        bounded = "pattern" in content or content.get("minLength", 0) >= 1
        return [] if bounded else [f"{path}: any text at all is allowed"]
    if kind == "array":
        return _item_faults(content, f"{path}[]", definitions)
    return [] if kind in ("boolean", "null") else [f"{path}: no type"]


def _item_faults(array: Schema, path: str, definitions: Schema) -> list[str]:
    """What texts in a list mean is told by the list's description, so they need no bounds; everything else does."""
    options = _options(_followed(array.get("items", {}), definitions))
    return [
        fault
        for option in options
        if option.get("type") != "string"
        for fault in _content_faults(option, path, definitions)
    ]


def _fields(schema: Schema, path: str, definitions: Schema | None) -> Iterator[tuple[str, Schema, Schema]]:
    """(path, schema, definitions) of each field of a section."""
    known = schema.get("definitions") or schema.get("$defs") or {} if definitions is None else definitions
    for name, field in schema["properties"].items():
        yield f"{path}.{name}" if path else name, field, known


def _options(field: Schema) -> list[Schema]:
    return field.get("anyOf") or [field]


def _followed(field: Schema, definitions: Schema) -> Schema:
    """The field itself, with what it refers to filled in. Its own words go before those of its class."""
    reference = field.get("$ref")
    return {**definitions[reference.rpartition("/")[2]], **field} if reference else field
