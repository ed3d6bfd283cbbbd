"""Flattening: the fields of an answer as columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, TypeAlias

from batchrt.errors import InputError
from batchrt.files.cells import shorten

__all__ = ["FieldKind", "Flattening", "fields_of_schema"]

FieldKind: TypeAlias = Literal["string", "integer", "number", "boolean", "json"]
"""Type of a field's values; `json` for lists, objects and values of several types."""

_PYTHON: Final[dict[FieldKind, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (float, int),
    "boolean": (bool,),
}
_INT_BITS: Final = 63
_EXACT_BITS: Final = 53


class Flattening:
    """Split answers into the values of columns.

    Invariant: an answer can be put together from its columns and the output's. The output's column is empty
    if the others hold all of an answer; else, for an answer that lacks a type, has another key or is no
    object, it holds the answer.

    Args:
        fields: names and types.
        taken: names that other columns have.
        output_column: the output's; a field of a name that is taken is called `{output_column}_{field}`.

    Attributes:
        kinds: the types by the columns' names.

    Raises:
        InputError: this name is taken too.
    """

    def __init__(self, fields: Mapping[str, FieldKind], taken: Collection[str], output_column: str) -> None:
        self._fields = dict(fields)
        self.kinds: dict[str, FieldKind] = {}
        for field, kind in fields.items():
            name = f"{output_column}_{field}" if field in taken else field
            if name in taken or name in self.kinds:
                problem = (
                    f"the answer's field {shorten(field)!r} needs a column, and {shorten(name)!r} is taken"
                )
                raise InputError(f"{problem}; choose another `output_column`", parameter="output_column")
            self.kinds[name] = kind

    def split(self, output: object) -> tuple[tuple[Any, ...], object]:
        """Return the values of the fields, and the output's own."""
        if not isinstance(output, Mapping):
            return (None,) * len(self._fields), output
        is_whole = output.keys() <= self._fields.keys()
        values = []
        for field, kind in self._fields.items():
            value = output.get(field)
            fits = value is None or kind == "json" or _fits(value, kind)
            is_whole = is_whole and fits
            values.append(value if fits else None)
        return tuple(values), None if is_whole else output


def _fits(value: object, kind: FieldKind) -> bool:
    if type(value) not in _PYTHON[kind]:
        return False
    return type(value) is not int or value.bit_length() <= (_INT_BITS if kind == "integer" else _EXACT_BITS)


def fields_of_schema(schema: Mapping[str, Any]) -> dict[str, FieldKind]:
    """Return the names and types of the properties of an object's JSON schema, of its outermost level."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {str(name): _kind_of(part) for name, part in properties.items()}


def _kind_of(part: Any) -> FieldKind:
    if not isinstance(part, Mapping):
        return "json"
    choices = part.get("anyOf", part.get("oneOf"))
    parts = choices if isinstance(choices, list) else [part]
    kinds: set[str] = set()
    for each in parts:
        kind = each.get("type", "json") if isinstance(each, Mapping) else "json"
        kinds.update(kind if isinstance(kind, list) else [kind])
    kinds.discard("null")
    found = kinds.pop() if len(kinds) == 1 else "json"
    return next((kind for kind in _PYTHON if kind == found), "json")
