"""JSONL reader: one object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final, NoReturn

from batchrt.errors import InputError
from batchrt.files.cells import shorten
from batchrt.files.lines import MAX_RECORD, skip_line
from batchrt.files.rows import BadRow, EmptyFileError, Row, bad_row

__all__ = ["read_jsonlines"]

# Faulty rows allowed before the first good one, whose keys are the columns. A file that starts with more is
# not JSONL, and one error for the file beats an error for each of its lines.
_LOOK_AHEAD: Final = 100

_LINE_ENDS: Final = (b"\n",)
_LIST_HINT: Final = "jq -c '.[]' makes JSONL of a list"


def read_jsonlines(lines: Iterable[bytes], path: str) -> tuple[tuple[str, ...], Iterator[Row | BadRow]]:
    """Return the keys of the first good row, and an iterator over all rows.

    `lines` is as `bounded_lines` yields it. Blank lines are skipped and not counted. If an object has a key
    twice, the last one counts.

    Raises:
        InputError: there is no row, no good one among the first hundred, or the first line is only the
            beginning of an object or a list.
    """
    rows = _parse(iter(lines), path)
    head: list[Row | BadRow] = []
    for row in islice(rows, _LOOK_AHEAD):
        head.append(row)
        if isinstance(row, Row):
            return tuple(row.values), chain(head, rows)
    for row in head:
        if isinstance(row, BadRow):
            raise row.error
    raise EmptyFileError(f"{path}: the file is empty; expected one JSON object a line", path=path)


def _parse(lines: Iterator[bytes], path: str) -> Iterator[Row | BadRow]:
    decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode
    number = 0
    for line, given in enumerate(lines, 1):
        raw = given.removeprefix(b"\xef\xbb\xbf") if line == 1 else given
        if raw.isspace() or not raw:
            continue
        number += 1
        if number == 1:
            _check_first(raw, path)
        if _begins_list(raw) or len(raw) > MAX_RECORD:
            # Neither is an object, and parsed it takes fifteen times the memory.
            if len(raw) > MAX_RECORD and not raw.endswith(_LINE_ENDS):
                skip_line(lines, _LINE_ENDS)
            yield bad_row(path, number, line, _unparsed(raw))
            continue
        try:
            values = decode(raw.decode())
        except (ValueError, RecursionError) as error:
            yield _faulty(path, number, line, raw, error)
            continue
        if type(values) is dict:
            yield Row(number, line, values, None, len(raw))
        else:
            yield bad_row(path, number, line, _not_an_object(values))


def _check_first(raw: bytes, path: str) -> None:
    """Raise InputError for a first line that shows that the file is not JSONL."""
    if raw.strip() in {b"[", b"{"}:
        problem = "this is JSON over several lines; put one whole object on each line (jq -c)"
        raise InputError(f"{path}: {problem}", path=path)
    if len(raw) > MAX_RECORD:
        raise InputError(f"{path}: {_unparsed(raw)}", path=path)


def _begins_list(raw: bytes) -> bool:
    first = raw[:1]
    return first == b"[" or (first.isspace() and raw.lstrip()[:1] == b"[")


def _unparsed(raw: bytes) -> str:
    if _begins_list(raw):
        return f'expected an object such as {{"text": "…"}}, found a list ({_LIST_HINT})'
    return f"the line has more than {MAX_RECORD:,} bytes; put one object on each line"


def _refuse(constant: str) -> NoReturn:
    raise _NonFiniteError(constant)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _NonFiniteError(text)
    return value


class _NonFiniteError(ValueError):
    """A number that JSON or a float cannot hold."""


def _faulty(
    path: str, number: int, line: int, raw: bytes, error: ValueError | RecursionError
) -> Row | BadRow:
    if isinstance(error, UnicodeDecodeError):
        problem = (
            f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8, or name its encoding"
        )
        return bad_row(path, number, line, problem)
    if isinstance(error, json.JSONDecodeError):
        problem = f"not valid JSON at character {error.colno}: {error.msg.lower()}"
        return bad_row(path, number, line, problem)
    if isinstance(error, _NonFiniteError):
        return _partly_usable(path, number, line, raw, error)
    if isinstance(error, RecursionError):
        return bad_row(path, number, line, "the JSON is nested too deeply; flatten it")
    # The interpreter's limit on the digits of an integer (CVE-2020-10735).
    return bad_row(path, number, line, "an integer has too many digits; write it as a string")


def _partly_usable(path: str, number: int, line: int, raw: bytes, error: _NonFiniteError) -> Row | BadRow:
    """Return the row of a line with numbers that JSON lacks, each of which is a fault of its column."""
    problem = f"{shorten(str(error), 40)} is not a number JSON can carry; write null or a string"
    values = _lenient(raw)
    if not values:
        return bad_row(path, number, line, problem)
    faults = {
        column: bad_row(path, number, line, problem, column=column).error
        for column, value in values.items()
        if not _is_finite(value)
    }
    return Row(number, line, values, faults, len(raw))


def _not_an_object(value: object) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    found = kinds.get(type(value), "a number")
    hint = f" ({_LIST_HINT})" if isinstance(value, list) else ""
    return f'expected an object such as {{"text": "…"}}, found {found}{hint}'


def _lenient(raw: bytes) -> dict[str, Any]:
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError):  # a second fault further on
        return {}
    return values if isinstance(values, dict) else {}


def _is_finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True
