"""The body of a request: its constant members, encoded once, and errors of the input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from batchrt.errors import BadRequestError

__all__ = ["bad_input", "encode_members", "half_surrogate", "most_tokens"]

_MOST: Final = ("max_completion_tokens", "max_tokens")


def encode_members(fields: Mapping[str, Any]) -> bytes:
    """Return the beginning of a JSON object with `fields`, ready for one more member.

    Raises:
        ValueError: for a field that JSON cannot carry.
    """
    members = (f"{json.dumps(name)}:{_encode(name, value)}," for name, value in fields.items())
    return f"{{{''.join(members)}".encode()


def most_tokens(fields: Mapping[str, Any]) -> float | None:
    """Return the most tokens of an answer to a request with `fields`; `None` if no field limits them."""
    given = [fields[name] for name in _MOST if isinstance(fields.get(name), int | float)]
    return float(min(given)) if given else None


def _encode(name: str, value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"the option {name} cannot be sent as JSON: {error}") from None
    return text


def bad_input(param: str, message: str) -> BadRequestError:
    """Return the error for an input that the API has no form for."""
    return BadRequestError(message, param=param)


def half_surrogate(error: UnicodeEncodeError, text: object, param: str) -> BadRequestError:
    """Return the error with the position of half a surrogate pair in `text`."""
    half = error.object[error.start]
    place = text.find(half) if isinstance(text, str) else -1
    where = f" at position {place}" if place >= 0 else ""
    return bad_input(
        param,
        f"the text holds half a surrogate pair (U+{ord(half):04X}){where}, which UTF-8 cannot carry; "
        "clean it with text.encode('utf-8', 'replace').decode()",
    )
