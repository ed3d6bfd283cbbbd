"""Text of one value or error in a file or a message."""

from __future__ import annotations

from collections.abc import Iterable

from batchrt.runnables.field_text import field_text as cell
from batchrt.runnables.field_text import json_text

__all__ = ["cell", "encodable_text", "error_line", "json_text", "listed", "shorten"]


def encodable_text(text: str) -> str:
    """Return `text` in a form that UTF-8 can encode.

    Two surrogates that make one character are joined. A lone one, as of an emoji that was cut in two or a
    file name that is not UTF-8, becomes U+FFFD.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def error_line(error: BaseException | str) -> str:
    """Return the error's class and message on one line."""
    if isinstance(error, str):
        return " ".join(error.split())
    message = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {message}" if message else name


def shorten(text: str, most: int = 80) -> str:
    """Return `text` if it has at most `most` characters, else its beginning and its end around `…`."""
    if len(text) <= most:
        return text
    tail = most // 4
    return f"{text[: most - tail - 1]}…{text[-tail:]}" if tail else f"{text[: most - 1]}…"


def listed(names: Iterable[str], most: int = 400) -> str:
    """Return `names` joined by commas in about `most` characters; `none` if there are none."""
    parts: list[str] = []
    size = 0
    rest = iter(names)
    for name in rest:
        if size > most:
            parts.append(f"… {1 + sum(1 for _ in rest):,} more")
            break
        parts.append(shorten(name))
        size += len(parts[-1]) + 2
    return ", ".join(parts) or "none"
