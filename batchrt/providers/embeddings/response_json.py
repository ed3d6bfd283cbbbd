"""The vectors in an answer of `/embeddings`: found, decoded and put in their places; no I/O.

The body of an answer is some hundred kilobytes to some hundred megabytes, nearly all of it vectors. They
are cut out before the rest is read as JSON, and decoded one at a time, as they come: no string of
theirs and, of those in base64, no Python number is ever made.
"""

from __future__ import annotations

import base64
import math
import re
import sys
from array import array
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from pydantic_core import CoreConfig, SchemaValidator, ValidationError, core_schema, from_json

from batchrt.errors import MalformedResponseError
from batchrt.messages import Usage
from batchrt.providers.choices import positions_of
from batchrt.providers.http.response import Reply
from batchrt.providers.http.secrets import Secrets
from batchrt.providers.response_body import ShapeError, malformed, read_answer, read_usage

__all__ = [
    "FLOAT_BYTES",
    "DisorderError",
    "OneByOneError",
    "Store",
    "Stored",
    "Vector",
    "VectorReader",
    "Vectors",
    "floats",
    "read_vectors",
]

FLOAT_BYTES: Final = 4


class Stored(Protocol):
    """Stand for a vector that was put somewhere else."""

    def __len__(self) -> int:
        """Return how many bytes it has."""


Vector: TypeAlias = "bytes | Stored | MalformedResponseError"
"""A vector as little-endian float32, or why there is none."""

Store: TypeAlias = "Callable[[int, bytes], bytes | Stored]"
"""Called with each vector of a response and its index as it is decoded; returns the vector or a stand-in."""

_MEMBER: Final = b'"embedding"'
_TO_VALUE: Final = re.compile(rb"\s{0,64}:\s{0,64}")
_TO_FIRST: Final = re.compile(rb"\[\s{0,64}")
_LONGEST_WAY: Final = 200
"""Bytes after a member's name that are waited for until there is a value."""
_BETWEEN: Final = re.compile(rb"\\[rnt]|\\u00(?:0[9aAdD]|20)|[ \t\r\n]")
"""Blanks and ends of lines in a JSON string, as they are or escaped."""
_QUOTE: Final = ord('"')
_BRACKET: Final = ord("[")
_SLICE: Final = 2**18
"""Bytes that are looked at together, of a body that is there as a whole: a copy of them stays in the
processor's cache."""
_MARK: Final = "#"
"""Begins the mark of a vector that was cut out; base64 does not contain it."""

_FEW_FOR_PROOF: Final = 2
"""Texts of which one vector may be an accident: the other was left out."""

# Decodes several times faster than `binascii`, straight from the bytes.
_BASE64: Final = SchemaValidator(core_schema.bytes_schema(), CoreConfig(val_json_bytes="base64"))


class DisorderError(MalformedResponseError):
    """Raised if the vectors of a response cannot be matched to the texts."""


class OneByOneError(DisorderError):
    """Say that a server answers a list as if it were one text."""


class Vectors(NamedTuple):
    """Hold the vectors for a list of texts, in their order.

    Attributes:
        vectors: see `Vector`.
        usage: the tokens of all of them.
        in_base64: whether they came like that.
    """

    vectors: list[Vector]
    usage: Usage | None
    in_base64: bool


def floats(raw: bytes) -> list[float]:
    """Return a vector as a list of numbers."""
    numbers = array("f", raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def read_vectors(
    bare: Reply, reader: VectorReader, count: int, secrets: Secrets, wall: Callable[[], float]
) -> Vectors:
    """Return the vectors in a successful reply to `count` texts.

    Args:
        bare: the reply, its body replaced by the result of `VectorReader.end`.
        reader: has taken the body in.
        count: how many texts were sent.
        secrets: as for `error_from`.
        wall: as for `error_from`.

    Raises:
        OneByOneError: if the server does not know lists, as it seems.
        MalformedResponseError: if it is not JSON or not of the API's shape, or if there are more or
            fewer vectors than texts, or they cannot be matched to the texts.
        ProviderError: if the body holds an error instead, as some proxies have it.
    """
    items, usage = read_answer(bare, secrets, wall, _items_and_usage)
    vectors: list[Vector] = []
    for place, item in enumerate(_in_order(items, count, bare, secrets)):
        try:
            vectors.append(reader.vector(item.get("embedding")))
        except ShapeError as error:
            vectors.append(_broken(place, error, bare))
    return Vectors(vectors, usage, reader.in_base64)


class VectorReader:
    """Take the vectors out of a body that comes in pieces, and decode them.

    A vector is the value of a member `embedding` that is a string, or an array without arrays in it. In
    a string its name could not stand in quotation marks without a backslash before the second one.

    Args:
        store: keeps them; `None` to keep them here.

    Attributes:
        in_base64: whether vectors came as strings.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self.in_base64: bool = False
        self._vectors: list[bytes | Stored | ShapeError] = []
        self._kept: list[bytes] = []
        self._buffer = bytearray()
        self._place = 0  # where to look for the next vector
        self._searched = 0  # up to where its end was looked for

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next piece in."""
        buffer = self._buffer
        buffer += data
        done = 0
        while (span := self._next()) is not None:
            start, stop = span
            self._kept += (bytes(buffer[done:start]), f'"{_MARK}{len(self._vectors)}"'.encode())
            self._take(buffer[start:stop])
            done = self._place = stop
            self._searched = 0
        del buffer[:done]
        self._place -= done
        self._searched = max(0, self._searched - done)

    def feed_all(self, body: bytes) -> None:
        """Take a whole body in."""
        with memoryview(body) as view:
            for start in range(0, len(view), _SLICE):
                self.feed(view[start : start + _SLICE])

    def end(self) -> bytes:
        """Return the body with marks in place of the vectors."""
        return b"".join((*self._kept, self._buffer))

    def vector(self, value: object) -> bytes | Stored:
        """Return the vector that `value` stands for, or is.

        Raises:
            ShapeError: if it is none.
        """
        if isinstance(value, str) and value.startswith(_MARK) and value[1:].isdecimal():
            place = int(value[1:])
            # A string that was not cut out, its name being written with escapes, may look like a mark.
            if place < len(self._vectors):
                vector = self._vectors[place]
                if isinstance(vector, ShapeError):
                    raise vector
                return vector
        return _from_parsed(value)

    def _next(self) -> tuple[int, int] | None:
        """Return where the next vector is; `None` if more has to come."""
        find = self._buffer.find
        while (name := find(_MEMBER, self._place)) >= 0:
            self._place = name
            start = self._value_after(name + len(_MEMBER))
            if start is None:
                return None
            if start < 0:
                self._place = name + len(_MEMBER)
                continue
            end = b'"' if self._buffer[start] == _QUOTE else b"]"
            stop = find(end, max(start + 1, self._searched)) + 1
            if stop:
                return start, stop
            self._searched = len(self._buffer)
            return None
        self._place = max(self._place, len(self._buffer) - len(_MEMBER) + 1)
        return None

    def _value_after(self, place: int) -> int | None:
        """Return where a vector begins, -1 if it is none, `None` if that cannot be seen yet."""
        buffer = self._buffer
        way = _TO_VALUE.match(buffer, place)
        if way is None or way.end() == len(buffer):
            near = len(buffer) - place < _LONGEST_WAY
            return None if near and not buffer[place:].strip(b": \t\r\n") else -1
        start = way.end()
        if buffer[start] != _BRACKET:
            return start if buffer[start] == _QUOTE else -1
        first = _TO_FIRST.match(buffer, start)
        assert first is not None
        if first.end() == len(buffer):
            return None
        return -1 if buffer[first.end()] == _BRACKET else start

    def _take(self, text: bytearray) -> None:
        self.in_base64 = self.in_base64 or text[0] == _QUOTE
        try:
            vector = _decode(text)
            store = self._store
            self._vectors.append(vector if store is None else store(len(self._vectors), vector))
        except ShapeError as error:
            self._vectors.append(error.with_traceback(None))


def _items_and_usage(data: dict[str, Any]) -> tuple[list[dict[str, Any]], Usage | None]:
    items = data.get("data")
    if not isinstance(items, list):
        raise ShapeError("has data that is no list" if items else "has no data")
    if not all(isinstance(item, dict) for item in items):
        raise ShapeError("has something in data that is no object")
    return items, read_usage(data.get("usage"))


def _in_order(items: list[dict[str, Any]], count: int, bare: Reply, secrets: Secrets) -> list[dict[str, Any]]:
    """Return the items in the order of the texts.

    For their indexes see `positions_of`. The one vector of one text is its own whatever it says.
    """
    if len(items) != count:
        number = f"{len(items)} vector{'' if len(items) == 1 else 's'}"
        problem = f"has {number} for {count} text{'' if count == 1 else 's'}"
        if count == 1:
            raise malformed(problem, bare, secrets)
        raise _disorder(problem, bare, secrets, lists=len(items) == 1 and count > _FEW_FOR_PROOF)
    if count == 1:
        return items
    indexes = [item.get("index") for item in items]
    if indexes == [*range(count)]:
        return items
    places = positions_of(indexes)
    if places is None:
        problem = f"has vectors whose indexes are not 0 to {count - 1}, each once"
        same = len(set(map(repr, indexes))) == 1
        raise _disorder(problem, bare, secrets, lists=same and count > _FEW_FOR_PROOF)
    ordered = [items[0]] * count
    for place, item in zip(places, items, strict=True):
        ordered[place] = item
    return ordered


def _disorder(problem: str, bare: Reply, secrets: Secrets, *, lists: bool) -> MalformedResponseError:
    """Return the error for an answer that does not fit the list; `lists`: the server does not know them."""
    error = malformed(problem, bare, secrets)
    kind = OneByOneError if lists else DisorderError
    error = kind(error.message, status=error.status, request_id=error.request_id)
    error.retry_advised = False  # parts of the list are asked for instead
    return error


def _broken(place: int, error: ShapeError, bare: Reply) -> MalformedResponseError:
    broken = MalformedResponseError(
        f"the answer has no vector for this text: data[{place}].embedding {error}",
        status=bare.status,
        request_id=bare.request_id,
    )
    broken.retry_advised = False if error.lasting else None
    return broken


def _decode(text: bytearray) -> bytes:
    """Return the vector that is written as `text`, a JSON string or array.

    Raises:
        ShapeError: if it is none.
    """
    if text[:1] == b"[":
        return _from_parsed(_numbers(text))
    try:
        raw: bytes = _BASE64.validate_json(text)
    except ValidationError:
        raw = _from_loose_base64(text)
    if not raw or len(raw) % FLOAT_BYTES:
        raise ShapeError(f"is {len(raw)} bytes of base64, which is no number of float32")
    return _finite(raw)


def _from_loose_base64(text: bytearray) -> bytes:
    """Decode base64 in lines (RFC 2045, 6.8), or whose slashes are escaped, as Python's `base64` does."""
    try:
        return base64.b64decode(_BETWEEN.sub(b"", text[1:-1]).replace(b"\\/", b"/"), validate=True)
    except ValueError:
        raise ShapeError("is not base64") from None


def _numbers(text: bytearray) -> Any:
    try:
        return from_json(text)
    except ValueError:
        raise ShapeError("is an array that is no JSON") from None


def _from_parsed(value: object) -> bytes:
    if isinstance(value, str) and not value.startswith(_MARK):  # of a body that is not in UTF-8, say
        return _decode(bytearray(f'"{value}"'.encode("utf-8", "replace")))
    if isinstance(value, list) and value and isinstance(value[0], list):
        if len(value) > 1:
            raise ShapeError(
                f"has {len(value)} vectors, one for each token: the server does not pool them (start it "
                "with pooling, or with a model made for embeddings)"
            )
        value = value[0]
    if not isinstance(value, list) or not value:
        raise ShapeError("is empty" if isinstance(value, list) else "is neither base64 nor numbers")
    try:
        numbers = array("f", value)
    except (TypeError, OverflowError):
        raise ShapeError("has something in it that is no number") from None
    if sys.byteorder == "big":
        numbers.byteswap()
    return _finite(numbers.tobytes())


def _finite(raw: bytes) -> bytes:
    # Infinity and NaN have a last byte of 7F or FF; hardly any number of a vector has (1.7e38 and more).
    last = raw[3::FLOAT_BYTES]
    if (b"\x7f" in last or b"\xff" in last) and not all(map(math.isfinite, floats(raw))):
        raise ShapeError("has a number in it that is not finite")
    return raw
