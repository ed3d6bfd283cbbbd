"""Poison: items that no chain can use, and answers that no provider should give."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import PurePath
from typing import Any, Final

import httpx

__all__ = ["ANSWERS", "ITEMS", "answer_to"]


class _Raising:
    """An object of which nothing can be asked."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("poison")

    __repr__ = __str__ = __eq__ = __iter__ = __len__ = __bool__ = __format__ = _refuse
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("poison")


class _Str(str):
    __slots__ = ()

    def encode(self, *_: object, **__: object) -> bytes:
        raise RuntimeError("poison")


def _cyclic() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _deep() -> Any:
    found: Any = "x"
    for _ in range(5_000):
        found = [found]
    return found


def _cyclic_dict() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["text"] = found
    return found


ITEMS: Final[dict[str, Callable[[], Any]]] = {
    "none": lambda: None,
    "nothing": lambda: ...,
    "true": lambda: True,
    "number": lambda: 7,
    "huge number": lambda: 10**5_000,
    "not a number": lambda: float("nan"),
    "decimal": lambda: Decimal("NaN"),
    "complex": lambda: 1j,
    "bytes": lambda: b"\xff\xfe",
    "bytearray": lambda: bytearray(3),
    "empty dict": dict,
    "other fields": lambda: {"other": 1},
    "field of none": lambda: {"text": None},
    "field with nul": lambda: {"text": "a\0b"},
    "lone surrogate": lambda: {"text": "\ud83d"},
    "long text": lambda: {"text": "long " * 20_000},
    "braces": lambda: {"text": "{text} {} {{ }} %s {0.__class__}"},
    "controls": lambda: {"text": "".join(map(chr, range(32)))},
    "right to left": lambda: {"text": "\u202e\u0000\ufeff\U0010ffff"},
    "keys that are no text": lambda: {1: "x", None: "y"},
    "list": lambda: [1, 2, 3],
    "empty list": list,
    "tuple": lambda: ("a", "b"),
    "set": lambda: {"x"},
    "cyclic list": _cyclic,
    "cyclic dict": _cyclic_dict,
    "deep list": _deep,
    "generator": lambda: (number for number in range(3)),
    "function": lambda: len,
    "class": lambda: dict,
    "module": lambda: json,
    "path": lambda: PurePath("a/b"),
    "exception": lambda: ValueError("an input, not a failure"),
    "exception class": lambda: KeyboardInterrupt,
    "object that raises": _Raising,
    "field that raises": lambda: {"text": _Raising()},
    "text that raises": lambda: {"text": _Str("x")},
}


def _chat(**changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "fine"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {
        "id": "i",
        "object": "chat.completion",
        "model": "m",
        "choices": [choice],
        "usage": usage,
    } | changes


def _choice(**changes: Any) -> dict[str, Any]:
    return _chat(choices=[_chat()["choices"][0] | changes])


def _json(body: Any, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=body, headers=headers)


def _raw(content: bytes, status: int = 200, **headers: str) -> httpx.Response:
    # As a stream: httpx would decode the content of a response as it is made.
    headers = {"content-type": "application/json", **headers}
    return httpx.Response(status, stream=httpx.ByteStream(content), headers=headers)


def _encoded(content: bytes, encoding: str, **headers: str) -> httpx.Response:
    response = _raw(content)
    response.headers["content-encoding"] = encoding
    response.headers.update({f"content-{name}": value for name, value in headers.items()})
    return response


@cache
def _bomb() -> bytes:
    return gzip.compress(b" " * 100_000_000)


_COMPRESSED: Final = gzip.compress(json.dumps(_chat()).encode())

ANSWERS: Final[dict[str, Callable[[], httpx.Response]]] = {
    "empty body": lambda: _raw(b""),
    "no content": lambda: _raw(b"", 204),
    "page": lambda: httpx.Response(200, html="<html>Please log in</html>"),
    "half": lambda: _raw(json.dumps(_chat()).encode()[:-20]),
    "two documents": lambda: _raw(json.dumps(_chat()).encode() * 2),
    "byte order mark": lambda: _raw(b"\xef\xbb\xbf" + json.dumps(_chat()).encode()),
    "utf-16": lambda: _raw(json.dumps(_chat()).encode("utf-16")),
    "not utf-8": lambda: _raw(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "deep": lambda: _raw(b"[" * 200_000),
    "deep and closed": lambda: _raw(b"[" * 100_000 + b"]" * 100_000),
    "deep answer": lambda: _raw(b'{"choices": ' + b'[{"a":' * 3_000 + b"1" + b"}]" * 3_000 + b"}"),
    "huge number": lambda: _raw(b'{"created": ' + b"9" * 10_000 + b', "choices": []}'),
    "number without end": lambda: _raw(b'{"choices": [], "x": 1e999999}'),
    "not a number": lambda: _raw(b'{"choices": NaN}'),
    "null": lambda: _json(None),
    "text": lambda: _json("fine"),
    "number": lambda: _json(7),
    "list": lambda: _json([_chat()]),
    "no choices": lambda: _json({"id": "i"}),
    "choices of none": lambda: _json(_chat(choices=None)),
    "choices that are a dict": lambda: _json(_chat(choices={"0": 1})),
    "choice of none": lambda: _json(_chat(choices=[None])),
    "choices without end": lambda: _json(_chat(choices=[1] * 100_000)),
    "no message": lambda: _json(_chat(choices=[{"index": 0}])),
    "message that is text": lambda: _json(_choice(message="fine")),
    "message of none": lambda: _json(_choice(message=None)),
    "content of none": lambda: _json(_choice(message={"role": "assistant", "content": None})),
    "content that is a number": lambda: _json(_choice(message={"role": "assistant", "content": 7})),
    "content that is a list": lambda: _json(_choice(message={"role": "assistant", "content": [{}, 1]})),
    "lone surrogate": lambda: _raw(json.dumps(_choice(message={"content": "\ud83d"})).encode()),
    "tool calls of none": lambda: _json(_choice(message={"content": "x", "tool_calls": [None, 7, {}]})),
    "finish reason of a list": lambda: _json(_choice(finish_reason=[1])),
    "usage of text": lambda: _json(_chat(usage="many")),
    "usage of text and lists": lambda: _json(_chat(usage={"prompt_tokens": "many", "total_tokens": []})),
    "usage below zero": lambda: _json(_chat(usage={"prompt_tokens": -5, "total_tokens": -(10**30)})),
    "error in a success": lambda: _json({"error": "overloaded"}),
    "error of a list": lambda: _json({"error": [1, {"message": None}]}, 400),
    "error of none": lambda: _json({"error": None}, 400),
    "error without end": lambda: _json({"error": {"message": "x" * 1_000_000}}, 400),
    "error that is a page": lambda: httpx.Response(400, html="<html>" + "x" * 100_000),
    "redirect": lambda: _raw(b"", 302, location="http://elsewhere/"),
    "redirect to itself": lambda: _raw(b"", 307, location="http://mock/v1/chat/completions"),
    "unknown status": lambda: _raw(b"{}", 299),
    "status 600": lambda: _raw(b"{}", 600),
    "not modified": lambda: _raw(b"", 304),
    "not gzip": lambda: _encoded(json.dumps(_chat()).encode(), "gzip"),
    "half gzip": lambda: _encoded(_COMPRESSED[:-9], "gzip"),
    "gzip bomb": lambda: _encoded(_bomb(), "gzip"),
    "unknown encoding": lambda: _encoded(b"\x00" * 50, "snappy"),
    "length that is wrong": lambda: _encoded(json.dumps(_chat()).encode(), "identity", length="99999"),
}


def answer_to(text: str) -> httpx.Response:
    """Return the right answer to a text: the text in capitals."""
    return _json(_choice(message={"role": "assistant", "content": text.upper()}))
