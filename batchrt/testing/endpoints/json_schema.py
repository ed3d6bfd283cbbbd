"""JSON documents that a JSON Schema accepts, the same for each seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeAlias

from batchrt.testing.faults.seeded import SeededDice

__all__ = ["UnsupportedSchemaError", "instance_of"]

Schema: TypeAlias = Mapping[str, Any] | bool

_WORDS = ("alpha", "bravo", "cedar", "delta", "ember", "fjord", "grove", "heron")
_FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "date": "2024-0{d}-1{d}",
        "date-time": "2024-0{d}-1{d}T0{d}:30:00Z",
        "time": "0{d}:30:00Z",
        "duration": "P{d}D",
        "email": "someone{d}@example.com",
        "hostname": "host{d}.example.com",
        "ipv4": "192.0.2.{d}",
        "ipv6": "2001:db8::{d}",
        "uri": "https://example.com/{d}",
        "uuid": "00000000-0000-4000-8000-00000000000{d}",
    }
)
# Depth at which unbounded recursion ends: past the first, optional parts are left out and the plainest
# alternative is chosen; past the second the schema is refused.
_PLAIN_DEPTH = 4
_LAST_DEPTH = 64
_TRIES = 50  # at an item that differs from the others, where they must


class UnsupportedSchemaError(ValueError):
    """The mock cannot make an instance of a schema; the message names the part."""


def instance_of(schema: Schema, dice: SeededDice) -> Any:
    """Make a value that `schema` accepts.

    Supports objects, arrays, enums, const, strings with a length or a usual format, numbers with bounds,
    booleans, null, anyOf, oneOf, allOf and references into the document itself. Raises UnsupportedSchemaError
    for anything else, such as `pattern`.
    """
    try:
        return _Maker(schema, dice).make(schema, 0)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise UnsupportedSchemaError(f"this is no JSON Schema: {error!r}") from error


class _Maker:
    """State shared by all parts of one document: the root schema and the dice."""

    def __init__(self, root: Schema, dice: SeededDice) -> None:
        self._root = root
        self._dice = dice

    def make(self, schema: Schema, depth: int) -> Any:
        if depth > _LAST_DEPTH:
            raise UnsupportedSchemaError("the schema refers to itself without an end")
        if isinstance(schema, bool):
            return self._anything(accepts=schema)
        schema = self._resolved(schema)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._alternative(schema, keyword, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][self._dice.below(len(schema["enum"]))]
        return self._of_type(schema, depth)

    def _anything(self, *, accepts: bool) -> str:
        if not accepts:
            raise UnsupportedSchemaError("nothing is valid for the schema `false`")
        return self._word()

    def _word(self) -> str:
        return _WORDS[self._dice.below(len(_WORDS))]

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace references and allOf by their content; keywords beside them count as well."""
        for _ in range(_LAST_DEPTH):
            if "$ref" in schema:
                beside = {key: value for key, value in schema.items() if key != "$ref"}
                schema = _merged(self._target(schema["$ref"]), beside)
            elif "allOf" in schema:
                whole = {key: value for key, value in schema.items() if key != "allOf"}
                for part in schema["allOf"]:
                    whole = _merged(whole, self._resolved(part))
                schema = whole
            else:
                return schema
        raise UnsupportedSchemaError("the schema's references go in a circle")

    def _target(self, reference: str) -> Mapping[str, Any]:
        if not reference.startswith("#"):
            raise UnsupportedSchemaError(f"$ref {reference!r} is outside the schema")
        place: Any = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(place, Mapping) or name not in place:
                raise UnsupportedSchemaError(f"$ref {reference!r} leads nowhere")
            place = place[name]
        if not isinstance(place, Mapping):
            raise UnsupportedSchemaError(f"$ref {reference!r} is not a schema object")
        return place

    def _alternative(self, schema: Mapping[str, Any], keyword: str, depth: int) -> Any:
        beside = {key: value for key, value in schema.items() if key != keyword}
        options = [_merged(beside, option) for option in schema[keyword]]
        if depth >= _PLAIN_DEPTH:
            order = sorted(range(len(options)), key=lambda index: _weight(options[index]))
        else:
            first = self._dice.below(max(1, len(options)))
            order = [(first + step) % len(options) for step in range(len(options))]
        problem = UnsupportedSchemaError(f"{keyword} is empty")
        for index in order:
            try:
                return self.make(options[index], depth + 1)
            except UnsupportedSchemaError as error:
                problem = error
        raise problem

    def _of_type(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type") or _implied_type(schema)
        if isinstance(kind, list):
            kind = kind[self._dice.below(len(kind))] if depth < _PLAIN_DEPTH else min(kind, key=len)
        makers: Mapping[str, Callable[[], Any]] = {
            "object": partial(self._object, schema, depth),
            "array": partial(self._array, schema, depth),
            "string": partial(self._string, schema),
            "integer": partial(self._number, schema, whole=True),
            "number": partial(self._number, schema, whole=False),
            "boolean": lambda: bool(self._dice.below(2)),
            "null": lambda: None,
        }
        if kind not in makers:
            raise UnsupportedSchemaError(f"type {kind!r} is not one of JSON's")
        return makers[kind]()

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        made: dict[str, Any] = {}
        for name, inner in properties.items():
            if name in required or (depth < _PLAIN_DEPTH and self._dice.below(2)):
                made[name] = self.make(inner, depth + 1)
        extra = schema.get("additionalProperties", True)
        for name in required:
            if name not in made:
                made[name] = self.make(extra, depth + 1)
        least = schema.get("minProperties", 0)
        if not properties and isinstance(extra, Mapping) and depth < _PLAIN_DEPTH:
            least = max(least, min(schema.get("maxProperties", 2), 2))
        for number in range(least - len(made)):
            made[f"{self._word()}_{number}"] = self.make(extra, depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        fixed = schema.get("prefixItems", ())
        made = [self.make(inner, depth + 1) for inner in fixed]
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", max(least, len(made) + 3))
        wanted = least if depth >= _PLAIN_DEPTH else self._dice.between(least, min(most, least + 3))
        inner = schema.get("items", True)
        if inner is False:
            return made
        unique = schema.get("uniqueItems", False)
        for _ in range(_TRIES + wanted):
            if len(made) >= wanted:
                return made
            item = self.make(inner, depth + 1)
            if not unique or _canonical(item) not in map(_canonical, made):
                made.append(item)
        if len(made) < least:
            raise UnsupportedSchemaError(f"found no {least} different items")
        return made

    def _string(self, schema: Mapping[str, Any]) -> str:
        if "pattern" in schema:
            raise UnsupportedSchemaError("strings with a `pattern` are beyond the mock")
        template = _FORMATS.get(schema.get("format", ""))
        if template is not None:
            return template.format(d=self._dice.between(1, 9))
        text = f"{self._word()} {self._word()}"
        least = int(schema.get("minLength", 0))
        most = int(schema.get("maxLength", max(least, len(text))))
        return (text + "." * (least - len(text)))[:most]

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> int | float:
        step = schema.get("multipleOf", 1 if whole else 0.25)
        if whole and step != int(step):
            step = 1
        lowest, highest = _bounds(schema, step)
        if lowest > highest:
            return self._between_bounds(schema, whole=whole)
        count = self._dice.between(lowest, highest)
        return int(count * step) if whole else count * step

    def _between_bounds(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        """Return a number from a range too narrow for the usual steps."""
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        if whole or "multipleOf" in schema or low is None or high is None or low > high:
            raise UnsupportedSchemaError("no number is within the bounds")
        return float((low + high) / 2)


def _merged(first: Schema, second: Schema) -> dict[str, Any]:
    """Join two schemas that must both hold, unless their keywords contradict."""
    if first is False or second is False:
        raise UnsupportedSchemaError("nothing is valid for the schema `false`")
    left = dict(first) if isinstance(first, Mapping) else {}
    right = second if isinstance(second, Mapping) else {}
    properties = {**left.get("properties", {}), **right.get("properties", {})}
    required = [*left.get("required", ()), *right.get("required", ())]
    whole = {**left, **right}
    if properties:
        whole["properties"] = properties
    if required:
        whole["required"] = list(dict.fromkeys(required))
    return whole


def _weight(schema: Mapping[str, Any]) -> int:
    """Return how likely an alternative is to recurse: null and plain values first."""
    if "$ref" in schema or "anyOf" in schema or "oneOf" in schema:
        return 3
    return {"object": 2, "array": 1, "null": -1}.get(str(schema.get("type")), 0)


def _implied_type(schema: Mapping[str, Any]) -> str:
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    if "minimum" in schema or "maximum" in schema:
        return "number"
    return "string"


def _bounds(schema: Mapping[str, Any], step: float) -> tuple[int, int]:
    """Return the least and the greatest multiple of `step` allowed, a hundred apart if unbounded."""
    lows: list[int] = []
    highs: list[int] = []
    if "minimum" in schema:
        lows.append(math.ceil(schema["minimum"] / step))
    if "exclusiveMinimum" in schema:
        lows.append(math.floor(schema["exclusiveMinimum"] / step) + 1)
    if "maximum" in schema:
        highs.append(math.floor(schema["maximum"] / step))
    if "exclusiveMaximum" in schema:
        highs.append(math.ceil(schema["exclusiveMaximum"] / step) - 1)
    if lows:
        return max(lows), min(highs, default=max(lows) + 100)
    if highs:
        return min(highs) - 100, min(highs)
    return 0, 100


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
