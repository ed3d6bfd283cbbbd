"""Rows in: CSV, TSV and JSONL files, or stdin, read one row at a time."""

from __future__ import annotations

import difflib
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from batchrt.errors import InputError
from batchrt.jobs.delimited import DelimitedReader
from batchrt.jobs.formats import DELIMITERS, STANDARD_STREAM, Format, choose_format, os_problem
from batchrt.jobs.jsonlines import read_jsonlines
from batchrt.jobs.rows import BadRow, Row, bad_row

__all__ = ["Source", "open_source", "required_columns"]

_BUFFER: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b"
_FOREIGN: Final = {
    b"PK\x03\x04": "this is a zip archive or a spreadsheet; export it as CSV (UTF-8)",
    b"PAR1": "this is a Parquet file; convert it to JSONL or CSV",
    b"\xff\xfe": "this is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "this is UTF-16 text; save it as UTF-8",
}


def open_source(path: str | os.PathLike[str], *, format: str | None = None) -> Source:  # noqa: A002
    """Open `path` for reading, with its columns known and no row read further than needed.

    `"-"` is stdin and needs `format`; else the suffix decides (`.csv`, `.tsv`, `.jsonl`,
    `.ndjson`). Gzip is recognised by its first bytes, whatever the name.

    Raises:
        InputError: the file cannot be opened, its format is not known, it is empty, or its header
            is unusable. One line that says which file and what to do.
    """
    name = os.fspath(path)
    kind = choose_format(name, format)
    label = "stdin" if name == STANDARD_STREAM else name
    with ExitStack() as stack:
        try:
            stream = _open_bytes(name, stack)
            return Source(label, kind, stream, stack)
        except OSError as error:
            raise InputError(f"{label}: {os_problem(error)}", path=label) from error
        except (EOFError, zlib.error) as error:
            raise InputError(f"{label}: the gzip data is broken; {error}", path=label) from error
    raise AssertionError  # pragma: no cover  the stack swallows nothing


class Source:
    """Iterate over a file's rows: a `Row` for each good one, a `BadRow` for each faulty one.

    Holds one row in memory. If reading itself breaks half way (truncated gzip, a failing disk),
    the last thing yielded is a `BadRow` that says so: what was read before stays good.

    Attributes:
        path: the file's name as it was given, `stdin` for `"-"`.
        format: `csv`, `tsv` or `jsonl`.
        columns: the header's names; for JSONL the keys of the first good row, and other rows may
            have others. A column without a name is called `column_3`, after its place.
    """

    def __init__(self, path: str, kind: Format, stream: io.BufferedReader, stack: ExitStack) -> None:
        self.path = path
        self.format = kind
        self.columns: tuple[str, ...]
        self._file = stream
        self._status = _regular_status(stream)
        self._last: Row | BadRow | None = None
        plain = _plain_bytes(stream, path, stack)
        if kind == "jsonl":
            self.columns, self._rows = read_jsonlines(plain, path)
        else:
            # Bytes that are not UTF-8 are smuggled through, to be reported with their row.
            text = io.TextIOWrapper(plain, "utf-8-sig", errors="surrogateescape", newline="")
            stack.callback(text.detach)
            reader = DelimitedReader(text, path, DELIMITERS[kind])
            self.columns, self._rows = reader.columns, reader.rows()
        self._stack = stack.pop_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Row | BadRow:
        try:
            row = self._last = next(self._rows)
        except (OSError, EOFError, zlib.error) as error:
            return self._broken(error)
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; stdin is left open. Further rows are not given."""
        self._rows = iter(())
        self._stack.close()

    @property
    def fraction_read(self) -> float | None:
        """The share of the file's bytes read so far, 0 to 1; `None` for a pipe or a terminal."""
        if self._status is None or self._file.closed:
            return None
        # The raw stream's place: the buffer's would be that of the row being read, but gzip and
        # the decoder read ahead of the rows anyway.
        return min(1.0, self._file.raw.tell() / max(1, self._status.st_size))

    def is_same_file(self, other: os.stat_result) -> bool:
        """Say whether `other` is this very file, by whatever name or link it was reached."""
        return self._status is not None and os.path.samestat(self._status, other)

    def _broken(self, error: Exception) -> BadRow:
        # The generator that raised is finished: this row is the last.
        number, line = (self._last.number, self._last.line) if self._last else (0, 0)
        reason = os_problem(error) if isinstance(error, OSError) else str(error).lower()
        problem = f"cannot read on ({reason}); this row and all after it are missing"
        return bad_row(self.path, number + 1, line + 1, problem)


def required_columns(source: Source, fields: Iterable[str]) -> None:
    """Check that `source` has a column for each of `fields`.

    Raises:
        InputError: at least one is missing; names it, the file, and the columns there are.
    """
    missing = [name for name in dict.fromkeys(fields) if name not in source.columns]
    if not missing:
        return
    column = missing[0]
    there = ", ".join(source.columns) or "none"
    noun = "column" if len(missing) == 1 else "columns"
    message = f"{source.path}: no {noun} {', '.join(map(repr, missing))}"
    close = difflib.get_close_matches(column, source.columns, n=1)
    if close:
        message += f", did you mean {close[0]!r}?"
    message += f" (it has: {there})"
    if len(source.columns) == 1 and (";" in there or "\t" in there):
        message += "; its separator seems to be another one than the format's"
    raise InputError(message, path=source.path, column=column)


def _open_bytes(name: str, stack: ExitStack) -> io.BufferedReader:
    if name != STANDARD_STREAM:
        return stack.enter_context(_buffered(io.FileIO(name)))
    stdin: Any = getattr(sys.stdin, "buffer", None)
    if stdin is None:
        raise InputError("stdin is closed; name a file", path="stdin")
    if isinstance(stdin, io.BufferedReader):
        return stdin
    wrapped = _buffered(stdin)
    stack.callback(wrapped.detach)
    return wrapped


def _buffered(raw: Any) -> io.BufferedReader:
    # Any: typeshed makes the class generic in its raw stream, and invariant.
    return io.BufferedReader(raw, _BUFFER)


def _plain_bytes(stream: io.BufferedReader, path: str, stack: ExitStack) -> io.BufferedReader:
    """Unpack gzip, and refuse what is plainly not text."""
    if stream.peek(2).startswith(_GZIP):
        # GzipFile is itself readable; the buffer around it gives lines at C speed.
        stream = stack.enter_context(_buffered(gzip.GzipFile(fileobj=stream)))
    head = stream.peek(4)
    for magic, problem in _FOREIGN.items():
        if head.startswith(magic):
            raise InputError(f"{path}: {problem}", path=path)
    return stream


def _regular_status(stream: io.BufferedReader) -> os.stat_result | None:
    """Give the status of a file that has a size, `None` for pipes, terminals and memory."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # a stream in memory, as tests put in stdin's place
        return None
    return status if stat.S_ISREG(status.st_mode) else None
