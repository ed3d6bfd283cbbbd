"""JSON as servers send it: in UTF-8, and now and then otherwise."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json

__all__ = ["load_json"]


def load_json(body: bytes) -> Any:
    r"""Return what `body` says.

    As httpx and requests do, it takes a byte order mark before the text, UTF-16 and UTF-32 (RFC 8259, 8.1,
    lets a parser ignore the mark). Models cut characters in two, which servers send as a lone `\ud83d` or as
    the bytes that there are of it, and servers that write JSON by hand leave line breaks in strings as they
    are: nobody wants to pay for the answer again.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return from_json(body)
    except ValueError:
        # The standard library's parser recurses, and gives up where the other one does.
        try:
            return json.loads(body.decode(json.detect_encoding(body), "replace"), strict=False)
        except (ValueError, RecursionError):
            pass
        raise
