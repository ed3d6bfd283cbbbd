"""JSON schemas of answers: read, and checked before a request is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

__all__ = ["SchemaError", "check_schema", "load_schema"]

_DEEPEST: Final = 64
"""Levels of a schema. OpenAI takes ten of objects (platform.openai.com/docs/guides/structured-outputs, July
2025), each of which takes two here."""
_MOST_PARTS: Final = 100_000
"""Parts of a schema; providers take some thousand."""

_TYPES: Final = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_SCHEMAS_BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS_OF_SCHEMAS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS: Final = (
    "items",
    "additionalProperties",
    "additionalItems",
    "contains",
    "contentSchema",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
)
"""Keywords that hold schemas in JSON Schema 2020-12, and in draft 7, which generators still write."""


class SchemaError(ValueError):
    """A mistake in a schema, and its place, in a few words."""


def load_schema(text: str) -> dict[str, Any]:
    """Return the JSON schema of an object that `text` holds.

    Raises:
        SchemaError: it is no such thing.
    """
    try:
        schema = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise SchemaError("is nested too deeply") from None
    except ValueError as error:
        raise SchemaError(f"is not JSON: {error}") from None
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise SchemaError('must be a JSON schema of an object, with "type": "object"')
    check_schema(schema)
    return schema


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise SchemaError if a keyword that holds schemas, names or types holds something else.

    A keyword that is not known here is not looked at, as JSON Schema wants it.
    """
    waiting: list[tuple[Any, str, int]] = [(schema, "the schema", 0)]
    seen = 0
    while waiting:
        part, place, depth = waiting.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST_PARTS:
            raise SchemaError(f"is nested too deeply, or too large: {depth} levels, {seen:,} parts")
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            raise SchemaError(f"{place[:200]} must be a schema, not {_kind(part)}")
        _check_words(part, place)
        waiting += [(child, f"{place}.{name}", depth + 1) for name, child in _children(part, place)]


def _children(part: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for keyword in _SCHEMAS_BY_NAME:
        if keyword in part:
            children = part[keyword]
            if not isinstance(children, dict):
                raise SchemaError(f"{place[:200]}: {keyword} must be an object, not {_kind(children)}")
            yield from children.items()
    for keyword in _LISTS_OF_SCHEMAS:
        if keyword in part:
            children = part[keyword]
            if not isinstance(children, list) or not children:
                raise SchemaError(f"{place[:200]}: {keyword} must be a list of schemas")
            yield from ((f"{keyword}[{number}]", child) for number, child in enumerate(children))
    for keyword in _SCHEMAS:
        if keyword in part:
            child = part[keyword]
            if keyword == "items" and isinstance(child, list):  # as draft 7 writes a tuple
                yield from ((f"items[{number}]", each) for number, each in enumerate(child))
            else:
                yield keyword, child


def _check_words(part: Mapping[str, Any], place: str) -> None:
    kind = part.get("type", "object")
    kinds = kind if isinstance(kind, list) else [kind]
    if not kinds or not all(isinstance(each, str) and each in _TYPES for each in kinds):
        raise SchemaError(
            f"{place[:200]}: type must be one of {', '.join(sorted(_TYPES))}, or a list of them"
        )
    required = part.get("required", [])
    # Draft 3 had a boolean here, which some generators still write; it demands nothing of the object.
    if not isinstance(required, bool) and not (
        isinstance(required, list) and all(isinstance(name, str) for name in required)
    ):
        raise SchemaError(f"{place[:200]}: required must be a list of names, not {_kind(required)}")
    for keyword in ("enum", "examples"):
        if keyword in part and not isinstance(part[keyword], list):
            raise SchemaError(f"{place[:200]}: {keyword} must be a list, not {_kind(part[keyword])}")
    for keyword in ("$ref", "$dynamicRef", "title", "description", "pattern", "format"):
        if keyword in part and not isinstance(part[keyword], str):
            raise SchemaError(f"{place[:200]}: {keyword} must be a string, not {_kind(part[keyword])}")


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "true or false", dict: "an object", list: "a list", str: "a string"}
    return names.get(type(value), "a number")


def _refuse(constant: str) -> NoReturn:
    raise SchemaError(f"has {constant}, which is no number that JSON can carry; leave that bound out")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        _refuse(text[:40])
    return value
