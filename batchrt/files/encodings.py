"""Text encodings: input recoded as UTF-8, and the encodings of an output."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from batchrt.errors import InputError

__all__ = ["MARK", "OUTPUT_ENCODINGS", "NewDecoder", "OutputEncoding", "Utf8Stream", "find_encoding"]

MARK: Final = codecs.BOM_UTF8
"""UTF-8's byte order mark, by which spreadsheets tell UTF-8 from the system's own encoding."""

OutputEncoding: TypeAlias = Literal["utf-8", "utf-8-sig"]
OUTPUT_ENCODINGS: Final[tuple[OutputEncoding, ...]] = ("utf-8", "utf-8-sig")
"""Encodings that can hold every answer. The second one has a byte order mark."""

NewDecoder: TypeAlias = Callable[[], codecs.IncrementalDecoder]

_CHUNK: Final = 1 << 16


def find_encoding(name: str) -> NewDecoder | None:
    """Return a factory of decoders for the encoding `name`; `None` for UTF-8, which needs none.

    Raises:
        InputError: it is not a text encoding.
    """
    try:
        codec = codecs.lookup(name)
        # ASCII is UTF-8; a byte that is not is reported with its row.
        if codec.name in {"utf-8", "utf-8-sig", "ascii"}:
            return None
        "a".encode(codec.name)  # there are codecs from bytes to bytes
    except (LookupError, ValueError):
        message = f"there is no encoding {name[:40]!r}; name one such as utf-8, cp1252 or utf-16"
        raise InputError(message) from None
    make = codec.incrementaldecoder
    if make is None:
        raise InputError(f"the encoding {name[:40]!r} cannot be read piece by piece; save the file as UTF-8")
    return lambda: make("surrogateescape")


class Utf8Stream(io.RawIOBase):
    """Read `stream` as UTF-8. Bytes that are invalid in its encoding stay as they are.

    Raises:
        UnicodeError: on reading, for a byte that could not be told apart from another character then.
    """

    def __init__(self, stream: io.BufferedReader, new_decoder: NewDecoder) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = new_decoder()
        self._ready = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill `buffer` with some bytes; return how many, 0 at the end."""
        while not self._ready and not self._ended:
            data = self._stream.read1(_CHUNK)
            self._ended = not data
            text = self._decoder.decode(data, final=self._ended)
            self._ready = memoryview(text.encode("utf-8", "surrogateescape"))
        taken = self._ready[: len(buffer)]
        buffer[: len(taken)] = taken
        self._ready = self._ready[len(taken) :]
        return len(taken)
