"""Strict schemas: JSON schemas rewritten for OpenAI's strict mode.

The rules are those of https://platform.openai.com/docs/guides/structured-outputs ("Supported schemas"), as
of November 2026: every object lists its properties, requires all of them and allows no others; no defaults;
no `oneOf` or `allOf`; of the keywords that constrain a value, those of `_CONSTRAINTS` and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["strict_schema"]

_STRUCTURE: Final = (
    "$defs $ref additionalProperties anyOf const definitions enum items properties required type"
)
_CONSTRAINTS: Final = (
    "format pattern "  # of strings
    "exclusiveMaximum exclusiveMinimum maximum minimum multipleOf "  # of numbers
    "maxItems minItems"  # of arrays
)
_DESCRIPTIONS: Final = "description title"
_REWRITTEN: Final = "allOf oneOf patternProperties prefixItems"
"""Keywords that are rewritten, or refused by name where they cannot be."""
_KNOWN: Final = frozenset(f"{_STRUCTURE} {_CONSTRAINTS} {_DESCRIPTIONS} {_REWRITTEN}".split())
_NO_CONSTRAINTS: Final = """
    $anchor $comment $id $schema contentEncoding contentMediaType default deprecated discriminator example
    examples readOnly writeOnly
"""
_IGNORED: Final = frozenset(_NO_CONSTRAINTS.split())
"""Keywords that constrain nothing: they are left out of the schema, not refused."""
_FORMATS: Final = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid")
)
_NUMBER_FORMATS: Final = frozenset(("double", "float", "int32", "int64"))
"""OpenAPI's formats of numbers, which add no constraint to the type."""

_MOST_PROPERTIES: Final = 5_000
_DEEPEST: Final = 10
"""Levels of nested objects."""
_MOST_ENUM_VALUES: Final = 1_000
_LONG_ENUM: Final = 250
_LONGEST_ENUM: Final = 15_000
"""Characters of the values of one enumeration with more than `_LONG_ENUM` of them."""
_MOST_CHARACTERS: Final = 120_000
"""Of the names of properties and definitions and the values of enumerations and constants together."""


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return `schema` rewritten for strict mode.

    Optional properties become required: the model writes them all, and a default is never used. A reference
    with a description beside it is replaced by its target, unless the copies make the schema too large: then
    the definition is written once, and the description left out.

    Raises:
        ValueError: strict mode cannot express the schema (an object of free keys, a value of any type, an
            unknown keyword), or the schema is beyond its limits; the message names the place.
    """
    if schema.get("type") != "object" and "$ref" not in schema:
        raise ValueError("strict mode wants an object at the top of the schema")
    try:
        return _rewritten(schema, described=True)
    except ValueError as error:
        try:
            return _rewritten(schema, described=False)
        except ValueError:
            raise error from None


def _rewritten(schema: Mapping[str, Any], *, described: bool) -> dict[str, Any]:
    rewriter = _Rewriter(schema, described=described)
    try:
        rewritten = rewriter.node(schema, "the schema")
    except (AttributeError, IndexError, RecursionError, TypeError) as error:
        raise ValueError(f"the schema is no JSON schema, or nested too deeply: {error}") from error
    rewriter.check_size()
    return rewritten


_LOOKS: Final = ("(?=", "(?!", "(?<=", "(?<!")
_MOST_NODES: Final = 20_000
"""Four for each property that there may be."""


class _Rewriter:
    """Rewrites one schema; references are resolved against `root`.

    `described` keeps descriptions beside references, for which a copy of the target replaces the reference.
    """

    def __init__(self, root: Mapping[str, Any], *, described: bool) -> None:
        self._root = root
        self._described = described
        self._inlining: list[str] = []
        self._nodes = 0
        self._depth = 0
        self._properties = 0
        self._enum_values = 0
        self._characters = 0

    def check_size(self) -> None:
        """Raise ValueError for a schema that is too large for strict mode."""
        for number, most, what in (
            (self._properties, _MOST_PROPERTIES, "properties"),
            (self._enum_values, _MOST_ENUM_VALUES, "values of enumerations"),
            (self._characters, _MOST_CHARACTERS, "characters of names and values"),
        ):
            if number > most:
                raise ValueError(f"the schema has {number:,} {what}, and strict mode takes {most:,}")

    def node(self, schema: Any, place: str) -> dict[str, Any]:
        if not isinstance(schema, Mapping):
            raise ValueError(f"{place} allows anything, which strict mode cannot")  # noqa: TRY004
        # Copies of targets may multiply: a small schema can expand to a huge one.
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise ValueError(
                f"the schema is too large for strict mode, with its references in place ({place})"
            )
        found = {name: value for name, value in schema.items() if name not in _IGNORED}
        self._check_keywords(found, place)
        if "$ref" in found:
            return self._reference(found, place)
        if "allOf" in found:
            return self._all_of(found, place)
        if "oneOf" in found:
            found["anyOf"] = found.pop("oneOf")
        if not found.keys() & {"type", "anyOf", "enum", "const"}:
            raise ValueError(f"{place} allows anything, which strict mode cannot")
        self._count_values(found, place)
        if found.get("type") == "object" or "properties" in found:
            self._object(found, place)
            self._depth += 1
            if self._depth > _DEEPEST:
                raise ValueError(
                    f"{place} is the {self._depth}th object in one another; strict mode takes 10"
                )
            try:
                return self._with_children(found, place)
            finally:
                self._depth -= 1
        return self._with_children(found, place)

    def _check_keywords(self, found: dict[str, Any], place: str) -> None:
        """Raise ValueError for a keyword that strict mode does not know, or a value of one."""
        for name in found:
            if name not in _KNOWN:
                raise ValueError(f"{place} has {name}, which strict mode does not know")
        if not isinstance(found.get("format", ""), str) or found.get("format") in _NUMBER_FORMATS:
            del found["format"]
        elif found.get("format", "date") not in _FORMATS:
            raise ValueError(f"{place} has the format {found['format']!r}, which strict mode does not know")
        pattern = found.get("pattern")
        if isinstance(pattern, str) and any(look in pattern for look in _LOOKS):
            raise ValueError(f"{place} has a pattern that looks around, which strict mode cannot")

    def _count_values(self, found: dict[str, Any], place: str) -> None:
        values = found.get("enum")
        if isinstance(values, list):
            length = sum(len(value) for value in values if isinstance(value, str))
            self._enum_values += len(values)
            self._characters += length
            if len(values) > _LONG_ENUM and length > _LONGEST_ENUM:
                raise ValueError(
                    f"{place} has {len(values)} values of {length:,} characters, and strict mode takes "
                    f"{_LONGEST_ENUM:,} of more than {_LONG_ENUM}"
                )
        if isinstance(found.get("const"), str):
            self._characters += len(found["const"])

    def _reference(self, found: dict[str, Any], place: str) -> dict[str, Any]:
        reference = found.pop("$ref")
        found.pop("title", None)
        if not self._described:
            found.pop("description", None)
            self._target(reference, place)
        if not found or reference in self._inlining:
            return {"$ref": reference}
        # Strict mode refuses keywords beside a reference, so a copy of the target replaces it.
        self._inlining.append(reference)
        try:
            return self.node({**self._target(reference, place), **found}, place)
        finally:
            self._inlining.pop()

    def _target(self, reference: str, place: str) -> Mapping[str, Any]:
        target: Any = self._root
        for step in reference.removeprefix("#/").split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        if isinstance(target, Mapping):
            return target
        raise ValueError(f"{place} refers to {reference}, which is not in the schema")

    def _all_of(self, found: dict[str, Any], place: str) -> dict[str, Any]:
        parts = found.pop("allOf")
        if len(parts) != 1:
            raise ValueError(f"{place} is an allOf, which strict mode does not know")
        return self.node({**parts[0], **found}, place)

    def _object(self, found: dict[str, Any], place: str) -> None:
        # By JSON Schema's default an object allows other keys too; one that lists keys is taken to allow
        # only those.
        others = found.get("additionalProperties", "properties" not in found)
        if others is not False or "patternProperties" in found:
            raise ValueError(f"{place} has keys of any name, which strict mode cannot")
        properties = found.get("properties", {})
        self._properties += len(properties)
        self._characters += sum(map(len, properties))
        found["properties"] = properties
        found["required"] = list(properties)
        found["additionalProperties"] = False

    def _with_children(self, found: dict[str, Any], place: str) -> dict[str, Any]:
        for group in ("properties", "$defs", "definitions"):
            if group in found:
                self._characters += sum(map(len, found[group])) if group != "properties" else 0
                found[group] = {
                    name: self.node(child, f"{place}.{name}") for name, child in found[group].items()
                }
        if "anyOf" in found:
            found["anyOf"] = [self.node(child, place) for child in found["anyOf"]]
        if "items" in found:
            found["items"] = self.node(found["items"], f"{place}[]")
        elif found.get("type") == "array":
            raise ValueError(f"{place} is a list of anything, which strict mode cannot")
        if "prefixItems" in found:
            raise ValueError(f"{place} is a tuple, which strict mode does not know")
        return found
