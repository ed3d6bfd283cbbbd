"""JSON as servers send it: in UTF-8, and now and then otherwise."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic_core import from_json

__all__ = ["load_json"]

_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
"""Byte order marks: of UTF-8, and of UTF-16 and UTF-32 in either order."""


def load_json(body: bytes) -> Any:
    r"""Return what `body` says.

    As httpx and requests do, it takes a byte order mark before the text, UTF-16 and UTF-32 (RFC 8259, 8.1,
    lets a parser ignore the mark), and half a surrogate pair, written as `\ud83d`: models cut characters
    in two, and nobody wants to pay for the answer again.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return from_json(body)
    except ValueError:
        # The standard library's parser recurses, and a body that is nested deeply is refused by the other.
        if not (body.startswith(_MARKS) or b"\0" in body[:4] or b"\\ud" in body.lower()):
            raise
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
