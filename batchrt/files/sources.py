"""Sources: input rows from CSV, TSV or JSONL, in a file or on stdin, read one at a time."""

from __future__ import annotations

import codecs
import difflib
import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, islice
from types import TracebackType
from typing import Any, Final, Self

from batchrt.errors import InputError
from batchrt.files.cells import listed, shorten
from batchrt.files.compression import DECOMPRESSION_ERRORS, buffered, decompressed
from batchrt.files.csv_reader import CsvReader
from batchrt.files.encodings import MARK, NewDecoder, Utf8Stream, find_encoding
from batchrt.files.formats import (
    DELIMITERS,
    STANDARD_STREAM,
    Format,
    check_delimiter,
    choose_format,
    os_problem,
)
from batchrt.files.jsonl_reader import read_jsonlines
from batchrt.files.lines import bounded_lines
from batchrt.files.rows import BadRow, Row, bad_row

__all__ = ["Source", "open_source", "required_columns"]

_FOREIGN: Final = {
    b"PK\x03\x04": "this is a zip archive or a spreadsheet; export it as CSV (UTF-8)",
    b"PAR1": "this is a Parquet file; convert it to JSONL or CSV",
}
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_ROWS_AHEAD: Final = 1000
_SIZE_AHEAD: Final = 16 << 20
"""Rows, and bytes of them, that may be read in search of a key before it counts as missing."""
_ROWS_SURVEYED: Final = 20_000
_BYTES_SURVEYED: Final = 64 << 20
"""Rows and bytes of a file that may be read twice: a second at most."""
_LONGEST_NAME: Final = 60
_MOST_NAMES: Final = 1000


def open_source(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Source:
    """Open `path` for reading, with its columns known and no row read further than needed.

    `"-"` is stdin and needs `format`; else the suffix decides (`.csv`, `.tsv`, `.jsonl`, `.ndjson`). Gzip and
    Zstandard are recognised by their first bytes, whatever the name.

    Args:
        path: the file.
        format: `csv`, `tsv` or `jsonl`, if the suffix does not tell.
        delimiter: the character between the fields of a CSV. By default it is detected: a comma, or a
            semicolon, tab or bar where the header has no comma.
        encoding: Python's name of the text's encoding; UTF-8 by default.

    Raises:
        InputError: the file cannot be opened, its format is unknown, it is empty, or its header is unusable.
            One line that names the file and the remedy.
    """
    name = os.fspath(path)
    kind = choose_format(name, format)
    label = "stdin" if name == STANDARD_STREAM else name
    check_delimiter(delimiter, kind)
    new_decoder = None if encoding is None else find_encoding(encoding)
    with ExitStack() as stack:
        try:
            stream = _open_bytes(name, stack)
            return Source(label, kind, stream, stack, delimiter=delimiter, new_decoder=new_decoder)
        except OSError as error:
            raise InputError(f"{label}: {os_problem(error)}", path=label) from error
        except UnicodeError as error:
            raise InputError(f"{label}: it is not {encoding}: {error}", path=label) from error
        except DECOMPRESSION_ERRORS as error:
            raise InputError(f"{label}: the gzip or zst data is broken; {error}", path=label) from error
    raise AssertionError  # pragma: no cover  the stack swallows nothing


class Source:
    """Iterate over a file's rows: a `Row` for each good one, a `BadRow` for each faulty one.

    Holds one row in memory. If reading fails half way (truncated gzip, a failing disk), the last item is a
    `BadRow` that says so: the rows before it stay good.

    Attributes:
        path: the file's name as it was given, `stdin` for `"-"`.
        format: `csv`, `tsv` or `jsonl`.
        columns: the header's names; for JSONL the keys of the first good row, and other rows may have others.
            A column without a name is called after its position, as `column_3`.
        delimiter: between the fields of a CSV or TSV; `None` for JSONL.
        is_marked: whether the file begins with a byte order mark.
        is_broken: whether reading failed half way.
    """

    def __init__(
        self,
        path: str,
        kind: Format,
        stream: io.BufferedReader,
        stack: ExitStack,
        *,
        delimiter: str | None = None,
        new_decoder: NewDecoder | None = None,
    ) -> None:
        self.path = path
        self.format = kind
        self.columns: tuple[str, ...]
        self.delimiter: str | None = None
        self.is_broken: bool = False
        self._file = stream
        self._status = _regular_status(stream)
        self._last: Row | BadRow | None = None
        self._options = (kind, delimiter, new_decoder)
        plain = _plain_bytes(stream, path, stack, new_decoder)
        self.is_marked: bool = plain.peek(len(MARK)).startswith(MARK)
        self._rows: Iterator[Row | BadRow]
        if kind == "jsonl":
            self.columns, self._rows = read_jsonlines(bounded_lines(plain, b""), path)
        else:
            # Surrogates keep the bytes that are not UTF-8, which are reported with their row.
            text = io.TextIOWrapper(plain, "utf-8-sig", errors="surrogateescape", newline="")
            stack.callback(text.detach)
            wanted = DELIMITERS[kind] if delimiter is None and kind != "csv" else delimiter
            reader = CsvReader(bounded_lines(text, ""), path, wanted)
            self.columns, self._rows = reader.columns, reader.rows()
            self.delimiter = reader.delimiter
        self._stack = stack.pop_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Row | BadRow:
        try:
            row = self._last = next(self._rows)
        except (OSError, *DECOMPRESSION_ERRORS, UnicodeError) as error:
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
        """Close the file; stdin is left open. Iteration ends."""
        self._rows = iter(())
        self._stack.close()

    @property
    def fraction_read(self) -> float | None:
        """The share of the file's bytes read so far, 0 to 1; `None` for a pipe or a terminal."""
        if self._status is None or self._file.closed:
            return None
        # The raw stream's position: the buffer's is that of the current row, but gzip and the decoder read
        # ahead of the rows anyway.
        return min(1.0, self._file.raw.tell() / max(1, self._status.st_size))

    def is_same_file(self, other: os.stat_result) -> bool:
        """Return whether `other` is this very file, by any name or link."""
        return self._status is not None and os.path.samestat(self._status, other)

    def look_ahead(self, names: Iterable[str]) -> set[str]:
        """Return the `names` that are columns, in JSONL also of later rows.

        Reads ahead while one is missing, a thousand rows at most; these rows are still yielded later.
        """
        sought = set(names)
        found = sought & set(self.columns)
        if self.format != "jsonl":
            return found
        ahead: list[Row | BadRow] = []
        size = 0
        while found != sought and len(ahead) < _ROWS_AHEAD and size < _SIZE_AHEAD:
            row = next(self, None)
            if row is None:
                break
            ahead.append(row)
            found |= sought & row.values.keys()
            size += row.size
        self._rows = chain(ahead, self._rows)
        return found

    def survey(self, limit: int | None = None) -> tuple[str, ...]:
        """Return the columns of all rows, as far as they can be known beforehand.

        For JSONL these are the keys of the first 20,000 rows; the file is opened a second time for them. A
        pipe cannot be, so it has the keys of the first row.

        Args:
            limit: the most rows to read.
        """
        if self.format != "jsonl" or self._status is None:
            return self.columns
        names = dict.fromkeys(self.columns)
        with suppress(OSError, InputError), self._reopened() as again:
            for row in islice(again, min(limit or _ROWS_SURVEYED, _ROWS_SURVEYED)):
                names.update(dict.fromkeys(row.values))
                if again._file.raw.tell() > _BYTES_SURVEYED:
                    break
        return tuple(names)

    def count(self, most: int) -> int | None:
        """Return the number of rows if the file is small and not a pipe, else `None`.

        Args:
            most: stop counting after this many; the result is one more if there are more.
        """
        if self._status is None or self._status.st_size > _BYTES_SURVEYED:
            return None
        with suppress(OSError, InputError), self._reopened() as again:
            return sum(1 for _ in islice(again, most + 1))
        return None

    @contextmanager
    def _reopened(self) -> Iterator[Source]:
        """Open the file once more; a fault is reported when the rows are read.

        Raises:
            OSError: the path is another file by now.
        """
        kind, delimiter, new_decoder = self._options
        with ExitStack() as stack:
            stream = _open_bytes(self.path, stack)
            if not self.is_same_file(os.fstat(stream.fileno())):
                raise FileNotFoundError(self.path)
            with Source(
                self.path, kind, stream, stack, delimiter=delimiter, new_decoder=new_decoder
            ) as again:
                yield again

    def _broken(self, error: Exception) -> BadRow:
        self.is_broken = True
        # The generator that raised is finished: this row is the last.
        number, line = (self._last.number, self._last.line) if self._last else (0, 0)
        reason = os_problem(error) if isinstance(error, OSError) else str(error).lower()
        problem = f"cannot read on ({reason}); this row and all after it are missing"
        return bad_row(self.path, number + 1, line + 1, problem)


def required_columns(source: Source, fields: Iterable[str]) -> None:
    """Check that `source` has a column for each of `fields`.

    A key that only some rows of a JSONL file have is a column, if one of the first thousand has it.

    Raises:
        InputError: at least one is missing; the message names it, the file, and the existing columns.
    """
    wanted = tuple(dict.fromkeys(fields))
    there = source.look_ahead(wanted)
    missing = [name for name in wanted if name not in there]
    if not missing:
        return
    column = missing[0]
    noun = "column" if len(missing) == 1 else "columns"
    message = f"{source.path}: no {noun} {listed(map(repr, map(shorten, missing)))}"
    close = _close_match(column, source.columns)
    if close is not None:
        message += f", did you mean {close!r}?"
    message += f" (it has: {listed(source.columns)})"
    raise InputError(message, path=source.path, column=column)


def _close_match(name: str, columns: Iterable[str]) -> str | None:
    # The search takes quadratic time in a name's length, and long names are rarely mistyped.
    if len(name) > _LONGEST_NAME:
        return None
    short = [column for column in islice(columns, _MOST_NAMES) if len(column) <= _LONGEST_NAME]
    return next(iter(difflib.get_close_matches(name, short, n=1)), None)


def _open_bytes(name: str, stack: ExitStack) -> io.BufferedReader:
    if name != STANDARD_STREAM:
        return stack.enter_context(buffered(io.FileIO(name)))
    stdin: Any = getattr(sys.stdin, "buffer", None)
    if stdin is None:
        raise InputError("stdin is closed; name a file", path="stdin")
    if isinstance(stdin, io.BufferedReader):
        return stdin
    wrapped = buffered(stdin)
    stack.callback(wrapped.detach)
    return wrapped


def _plain_bytes(
    stream: io.BufferedReader, path: str, stack: ExitStack, new_decoder: NewDecoder | None
) -> io.BufferedReader:
    """Decompress, refuse known binary formats, and recode the text as UTF-8."""
    stream = decompressed(stream, path, stack)
    head = stream.peek(4)
    for magic, problem in _FOREIGN.items():
        if head.startswith(magic):
            raise InputError(f"{path}: {problem}", path=path)
    if new_decoder is None and head.startswith(_UTF_16):
        problem = "this is UTF-16 text; save it as UTF-8, or add `encoding` utf-16"
        raise InputError(f"{path}: {problem}", path=path, parameter="encoding")
    return stream if new_decoder is None else stack.enter_context(buffered(Utf8Stream(stream, new_decoder)))


def _regular_status(stream: io.BufferedReader) -> os.stat_result | None:
    """Return the status of a file that has a size, `None` for pipes, terminals and memory."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # a stream in memory, as tests put in stdin's place
        return None
    return status if stat.S_ISREG(status.st_mode) else None
