"""Templates: text with `{fields}`, parsed once and filled for every item."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from operator import itemgetter
from string import Formatter
from typing import Any, Final, NamedTuple, TypeAlias

from batchrt.runnables.field_text import field_text, is_missing

__all__ = ["Fields", "Fill", "Template", "compile_content"]

Fields: TypeAlias = Mapping[str, Any]
"""A row: the values of a template's fields."""

Fill: TypeAlias = Callable[[Fields], Any]
"""Fills a row into content. Raises `KeyError` for a field that the row lacks."""

_EXCERPT: Final = 60
_ODD: Final = re.compile(r"[:!{}\[\]]")
"""Characters that end a name in a format string, or begin an attribute or index access."""
_CONVERSIONS: Final[Mapping[str, Callable[[Any], str]]] = {"r": repr, "s": field_text, "a": ascii}


class _Piece(NamedTuple):
    literal: str
    name: str | None
    convert: Callable[[Any], str] | None
    spec: str


class Template:
    """Hold a text with `{name}` fields; `{{` and `}}` are braces.

    A name is all text before a conversion (`!r`) or a format specification (`:.2f`). There is no attribute
    or index access: a template cannot reach into its values, and a column may be called `user.name`. If the
    whole of `{…}` is one of `columns`, it is that field, with any characters: `{2019}`, `{Q1: How?}`.

    Args:
        text: the template.
        columns: known names of the rows' columns.

    Values are written by `field_text`: `None` and NaN as the empty string, dicts and lists as JSON.

    Raises:
        ValueError: for an invalid template; the message shows how to write it.
    """

    __slots__ = ("_columns", "fields", "fill", "text")

    def __init__(self, text: str, columns: Collection[str] = ()) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a prompt template must be a string, not {type(text).__name__}")
        pieces = _pieces(text, columns)
        plain = all(piece.convert is None and not piece.spec for piece in pieces)
        self.text: str = text
        self._columns = columns
        self.fields: tuple[str, ...] = tuple(
            dict.fromkeys(piece.name for piece in pieces if piece.name is not None)
        )
        self.fill: Callable[[Fields], str] = (_plain_fill if plain else _formatting_fill)(pieces)

    def __reduce__(self) -> tuple[Any, ...]:
        return Template, (self.text, self._columns)


def _pieces(text: str, columns: Collection[str]) -> list[_Piece]:
    try:
        return [piece for part, name in _split(text, columns) for piece in _parsed(part, name)]
    except ValueError as error:
        raise ValueError(
            f"the prompt template is not valid ({error}): {_excerpt(text)!r}; write {{{{ and }}}} for braces"
        ) from None


def _split(text: str, columns: Collection[str]) -> Iterator[tuple[str, str | None]]:
    """Yield pieces of `text`, each with the column behind it that a format string cannot name."""
    odd = [name for name in columns if _ODD.search(name) or name.isdigit()]
    start = 0
    if odd:
        longest_first = sorted(odd, key=len, reverse=True)
        # Doubled braces match first: {{2019}} is not a field.
        pattern = re.compile(r"\{\{|\}\}|\{(" + "|".join(map(re.escape, longest_first)) + r")\}")
        for found in pattern.finditer(text):
            if found[1] is not None:
                yield text[start : found.start()], found[1]
                start = found.end()
    yield text[start:], None


def _parsed(part: str, name: str | None) -> Iterator[_Piece]:
    for parsed in Formatter().parse(part):
        yield _piece(*parsed)
    if name is not None:
        yield _Piece("", name, None, "")


def _piece(literal: str, name: str | None, spec: str | None, conversion: str | None) -> _Piece:
    if name is not None and (not name or name.isdigit()):
        raise ValueError("a field without a name; write {name}")
    if spec and ("{" in spec or "}" in spec):
        raise ValueError(f"the field {name!r} has another one in its format specification")
    if conversion and conversion not in _CONVERSIONS:
        raise ValueError(f"the field {name!r} has the conversion !{conversion}; there are !r, !s and !a")
    return _Piece(literal, name, _CONVERSIONS[conversion] if conversion else None, spec or "")


def _plain_fill(pieces: list[_Piece]) -> Callable[[Fields], str]:
    # The fastest form: one lookup of all names and one formatting, both in C.
    names = [piece.name for piece in pieces if piece.name is not None]
    pattern = "".join(
        piece.literal.replace("%", "%%") + ("" if piece.name is None else "%s") for piece in pieces
    )
    if not names:
        text = pattern % ()
        return lambda _fields: text
    if len(names) == 1:
        name = names[0]

        def fill_one(fields: Fields) -> str:
            value = fields[name]
            return pattern % (value if type(value) is str else field_text(value),)

        return fill_one
    lookup = itemgetter(*names)

    def fill(fields: Fields) -> str:
        values: tuple[Any, ...] = lookup(fields)
        for value in values:
            if type(value) is not str:
                return pattern % tuple(map(field_text, values))
        return pattern % values

    return fill


def _formatting_fill(pieces: list[_Piece]) -> Callable[[Fields], str]:
    def fill(fields: Fields) -> str:
        return "".join(piece.literal + _filled(piece, fields) for piece in pieces)

    return fill


def _filled(piece: _Piece, fields: Fields) -> str:
    if piece.name is None:
        return ""
    value = fields[piece.name]
    if piece.convert is None and (not piece.spec or is_missing(value)):
        return field_text(value)
    try:
        return format(value if piece.convert is None else piece.convert(value), piece.spec)
    except (TypeError, ValueError) as error:
        message = f"the field {piece.name!r} cannot be written as {{{piece.name}:{piece.spec}}}: {error}"
        raise type(error)(message) from None


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "…"


def compile_content(content: Any, columns: Collection[str] = ()) -> tuple[Fill, tuple[str, ...]]:
    """Return a function that fills a message's content, and the fields it needs.

    Every string in it is a template, at any depth of content parts: `{"type": "text", "text": "{a}"}`.
    """
    match content:
        case str():
            template = Template(content, columns)
            return template.fill, template.fields
        case Mapping():
            fills, names = _compile_all(content.values(), columns)
            keys = tuple(content)
            return (lambda fields: dict(zip(keys, [fill(fields) for fill in fills], strict=True))), names
        case list() | tuple():
            fills, names = _compile_all(content, columns)
            return (lambda fields: [fill(fields) for fill in fills]), names
        case _:
            return (lambda _fields: content), ()


def _compile_all(contents: Iterable[Any], columns: Collection[str]) -> tuple[list[Fill], tuple[str, ...]]:
    compiled = [compile_content(content, columns) for content in contents]
    names = dict.fromkeys(name for _, names in compiled for name in names)
    return [fill for fill, _ in compiled], tuple(names)
