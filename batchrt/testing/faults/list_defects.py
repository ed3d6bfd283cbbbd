"""Defects of list answers, as of servers that differ from OpenAI's."""

from __future__ import annotations

import math
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, TypeAlias

from pydantic_core import from_json

from batchrt.testing.endpoints.replies import MockReply, error_reply, json_reply
from batchrt.testing.faults.plan import Fault

__all__ = ["DEFECTS"]

_Entry: TypeAlias = dict[str, Any]
_Entries: TypeAlias = list[_Entry]
Defect: TypeAlias = Callable[[MockReply], MockReply | None]
"""Makes a bad reply of a good one, or None if that reply cannot have the defect."""


def _document(good: MockReply) -> dict[str, Any]:
    document: dict[str, Any] = from_json(good.whole_body)
    return document


def _in_entries(change: Callable[[_Entries], _Entries], *, least: int = 1) -> Defect:
    """Make a defect that changes the results, of which there must be `least`."""

    def defect(good: MockReply) -> MockReply | None:
        if not good.entries:
            return None
        document = _document(good)
        entries: _Entries = document[good.entries]
        if len(entries) < least:
            return None
        document[good.entries] = change(entries)
        return json_reply(200, document)

    return defect


def _in_vector(change: Callable[[Any], Any]) -> Defect:
    """Make a defect that changes the last vector, in its encoding; for embeddings only."""

    def change_last(entries: _Entries) -> _Entries:
        last = entries[-1]
        return [*entries[:-1], {**last, "embedding": change(last["embedding"])}]

    return _of_vectors(_in_entries(change_last))


def _of_vectors(defect: Defect) -> Defect:
    return lambda good: defect(good) if good.entries == "data" else None


def _shuffled(entries: _Entries) -> _Entries:
    # Every second one backwards, then the others: no simple sort restores the order.
    return entries[::-2] + entries[-2::-2]


def _without_index(entries: _Entries) -> _Entries:
    return [{name: value for name, value in entry.items() if name != "index"} for entry in entries]


def _with_text_index(entries: _Entries) -> _Entries:
    return [{**entry, "index": str(entry["index"])} for entry in entries]


def _with_repeated_index(entries: _Entries) -> _Entries:
    return [{**entry, "index": 0} for entry in entries]


def _merged(good: MockReply) -> MockReply | None:
    if good.items < 2:  # noqa: PLR2004 nothing to merge
        return None
    return _in_entries(_first_of_all)(good)


def _first_of_all(entries: _Entries) -> _Entries:
    """Return one result for the whole list: the first vector, or one text of all texts."""
    first = entries[0]
    if "text" in first:
        return [{**first, "text": " ".join(entry["text"] for entry in entries)}]
    return [first]


def _with_one_more(entries: _Entries) -> _Entries:
    return [*entries, {**entries[-1], "index": len(entries)}]


def _failing(status: int, message: str, kind: str) -> Defect:
    """Make a refusal of any list, even of one item; single inputs are answered."""

    def defect(good: MockReply) -> MockReply | None:
        return error_reply(status, message, type=kind) if good.listed else None

    return defect


def _partial_usage(good: MockReply) -> MockReply | None:
    if good.items < 2:  # noqa: PLR2004 the share of a single item is all
        return None
    document = _document(good)
    document["usage"] = {name: max(1, count // good.items) for name, count in document["usage"].items()}
    return json_reply(200, document)


def _missing_usage(good: MockReply) -> MockReply | None:
    if not good.entries:
        return None
    document = _document(good)
    del document["usage"]
    return json_reply(200, document)


def _numbers(vector: Any) -> list[float]:
    """Decode a vector in either form."""
    if isinstance(vector, str):
        raw = b64decode(vector)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    return list(vector)


def _rewritten(vector: Any, numbers: list[float]) -> Any:
    """Encode numbers in the form of `vector`."""
    if isinstance(vector, str):
        return b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    return numbers


def _wider(vector: Any) -> Any:
    return _rewritten(vector, [*_numbers(vector), 0.0])


def _with_nan(vector: Any) -> Any:
    return _rewritten(vector, [math.nan, *_numbers(vector)[1:]])


def _with_null(vector: Any) -> Any:
    # Base64 has no null: NaN takes its place.
    return _with_nan(vector) if isinstance(vector, str) else [None, *vector[1:]]


def _nested(entries: _Entries) -> _Entries:
    return [{**entry, "embedding": [_numbers(entry["embedding"])] * 2} for entry in entries]


def _as_numbers(entries: _Entries) -> _Entries:
    return [{**entry, "embedding": _numbers(entry["embedding"])} for entry in entries]


def _torn(vector: str) -> str:
    return b64encode(b64decode(vector)[:-1]).decode()


def _of_base64(defect: Defect) -> Defect:
    def wary(good: MockReply) -> MockReply | None:
        asked = good.entries == "data" and isinstance(_document(good)["data"][0]["embedding"], str)
        return defect(good) if asked else None

    return wary


def _rejected_base64(_good: MockReply) -> MockReply:
    return error_reply(
        400,
        "Unsupported value for 'encoding_format': 'base64' is not supported, only 'float'.",
        type="invalid_request_error",
        param="encoding_format",
        code="unsupported_value",
    )


DEFECTS: MappingProxyType[Fault, Defect] = MappingProxyType(
    {
        Fault.SHUFFLED_INDEX: _in_entries(_shuffled, least=2),
        Fault.MISSING_INDEX: _in_entries(_without_index),
        Fault.TEXT_INDEX: _in_entries(_with_text_index),
        Fault.REPEATED_INDEX: _in_entries(_with_repeated_index, least=2),
        Fault.MERGED_LIST: _merged,
        Fault.SHORT_LIST: _in_entries(lambda entries: entries[:-1]),
        Fault.LONG_LIST: _in_entries(_with_one_more),
        Fault.FAILED_LIST: _failing(500, "'list' object has no attribute 'encode'", "internal_server_error"),
        Fault.REJECTED_LIST: _failing(400, "Expected a string, got a list.", "invalid_request_error"),
        Fault.PARTIAL_USAGE: _partial_usage,
        Fault.MISSING_USAGE: _missing_usage,
        Fault.WRONG_WIDTH: _in_vector(_wider),
        Fault.NESTED_VECTORS: _of_vectors(_in_entries(_nested)),
        Fault.NULL_VECTOR: _in_vector(lambda _vector: None),
        Fault.NULL_IN_VECTOR: _in_vector(_with_null),
        Fault.NAN_IN_VECTOR: _in_vector(_with_nan),
        Fault.IGNORED_BASE64: _of_base64(_in_entries(_as_numbers)),
        Fault.TORN_BASE64: _of_base64(_in_vector(_torn)),
        Fault.REJECTED_BASE64: _of_base64(_rejected_base64),
    }
)
