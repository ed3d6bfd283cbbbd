"""Files and rows for tests: written, read, and drawn by hypothesis."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from batchrt.errors import InputError
from batchrt.files import BadRow, Row, open_sink, open_source


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, **options: Any) -> list[Row | BadRow]:
    with open_source(path, **options) as source:
        return list(source)


def values(rows: list[Row | BadRow]) -> list[dict[str, Any]]:
    return [row.values for row in rows]


def only_bad(rows: list[Row | BadRow]) -> BadRow:
    [bad] = [row for row in rows if isinstance(row, BadRow)]
    return bad


def json_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def table_rows(path: Path, dialect: str = "excel") -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect=dialect))


def refuse(path: Path | str, **options: Any) -> InputError:
    """Return the error of a file that cannot be used; it is one line, which names the file."""
    with pytest.raises(InputError) as caught:
        open_source(path, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.path is not None
    return caught.value


def write_one(path: Path, output: object, **options: Any) -> str:
    """Write one row without input columns and return the file's text."""
    with open_sink(path, columns=[], **options) as sink:
        sink.write({}, output)
    return path.read_bytes().decode()


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
AWKWARD = st.one_of(TEXT, st.text('",\t\n\r a', max_size=6))


def json_values(text: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Draw any JSON value, with strings and keys of `text`."""
    numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
    return st.recursive(
        st.one_of(st.none(), st.booleans(), numbers, text),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
        max_leaves=8,
    )
