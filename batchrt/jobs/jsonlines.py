"""Rows of JSONL text, one object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final, NoReturn

from batchrt.errors import InputError
from batchrt.jobs.rows import BadRow, Row, bad_row

__all__ = ["read_jsonlines"]

# How many faulty rows may come before the first good one, whose keys are the columns. A file that
# starts with more is not JSONL at all, and saying so beats a row of errors for each of its lines.
_LOOK_AHEAD: Final = 100


def read_jsonlines(lines: Iterable[bytes], path: str) -> tuple[tuple[str, ...], Iterator[Row | BadRow]]:
    """Give the keys of the first good row, and all rows.

    Blank lines are skipped and not counted. Where an object has a key twice, the last one counts.

    Raises:
        InputError: there is no row, or no good one among the first hundred, or the first line is
            but the beginning of an object or a list.
    """
    rows = _parse(lines, path)
    head: list[Row | BadRow] = []
    for row in islice(rows, _LOOK_AHEAD):
        head.append(row)
        if isinstance(row, Row):
            return tuple(row.values), chain(head, rows)
    for row in head:
        if isinstance(row, BadRow):
            raise row.error
    raise InputError(f"{path}: the file is empty; expected one JSON object a line", path=path)


def _parse(lines: Iterable[bytes], path: str) -> Iterator[Row | BadRow]:
    decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode
    number = 0
    for line, given in enumerate(lines, 1):
        raw = given.removeprefix(b"\xef\xbb\xbf") if line == 1 else given
        if raw.isspace() or not raw:
            continue
        number += 1
        if number == 1 and raw.strip() in {b"[", b"{"}:
            problem = "this is JSON over several lines; put one whole object on each line (jq -c)"
            raise InputError(f"{path}: {problem}", path=path)
        try:
            values = decode(raw.decode())
        except (ValueError, RecursionError) as error:
            yield _fault(path, number, line, raw, error)
            continue
        if type(values) is dict:
            yield Row(number, line, values)
        else:
            yield bad_row(path, number, line, _not_an_object(values, raw))


def _refuse(constant: str) -> NoReturn:
    raise _NonFiniteError(constant)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _NonFiniteError(text)
    return value


class _NonFiniteError(ValueError):
    """A number that JSON cannot carry, or a float cannot."""


def _fault(path: str, number: int, line: int, raw: bytes, error: ValueError | RecursionError) -> BadRow:
    if isinstance(error, UnicodeDecodeError):
        problem = f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
        return bad_row(path, number, line, problem)
    if isinstance(error, json.JSONDecodeError):
        problem = f"not valid JSON at character {error.colno}: {error.msg.lower()}"
        return bad_row(path, number, line, problem)
    if isinstance(error, _NonFiniteError):
        problem = f"{str(error)[:40]} is not a number JSON can carry; write null or a string"
        values = _lenient(raw)
        column = next((key for key, value in values.items() if not _is_finite(value)), None)
        return bad_row(path, number, line, problem, column=column, values=values)
    if isinstance(error, RecursionError):
        return bad_row(path, number, line, "the JSON is nested too deeply; flatten it")
    # The interpreter's limit on the digits of an integer (CVE-2020-10735).
    return bad_row(path, number, line, "an integer has too many digits; write it as a string")


def _not_an_object(value: object, raw: bytes) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    found = kinds.get(type(value), "a number")
    hint = " (jq -c '.[]' makes JSONL of a list)" if raw.lstrip().startswith(b"[") else ""
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
    except ValueError:
        return False
    return True
