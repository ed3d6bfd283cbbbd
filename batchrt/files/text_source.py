"""Text sources: input rows from CSV, TSV or JSONL, in a file or on stdin, read one at a time."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import Final

from batchrt.errors import InputError
from batchrt.files.compression import DECOMPRESSION_ERRORS, buffered, decompressed
from batchrt.files.csv_reader import CsvReader
from batchrt.files.encodings import MARK, NewDecoder, Utf8Stream
from batchrt.files.formats import DELIMITERS, Format, os_problem
from batchrt.files.jsonl_reader import read_jsonlines
from batchrt.files.lines import bounded_lines
from batchrt.files.rows import BadRow, Row, bad_row
from batchrt.files.source import Source
from batchrt.files.streams import Stream

__all__ = ["TextSource"]

_FOREIGN: Final = {
    b"PK\x03\x04": "this is a zip archive or a spreadsheet; export it as CSV (UTF-8)",
    b"PAR1": "this is a Parquet file; name it .parquet, or add `format` parquet",
}
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_ROWS_SURVEYED: Final = 20_000
_BYTES_SURVEYED: Final = 64 << 20
"""Rows and bytes of a file that may be read twice: a second at most."""


class TextSource(Source):
    """Read CSV, TSV or JSONL.

    Holds one row in memory. If reading fails half way (truncated gzip, a failing disk), the last item is a
    `BadRow` that says so: the rows before it stay good.

    Args:
        stream: the file.
        kind: its format.
        delimiter: between the fields of a CSV; found out if `None`.
        new_decoder: makes decoders of its encoding; `None` for UTF-8.
    """

    def __init__(
        self,
        stream: Stream,
        kind: Format,
        *,
        delimiter: str | None = None,
        new_decoder: NewDecoder | None = None,
    ) -> None:
        self._stream = stream
        self._last: Row | BadRow | None = None
        self._options = (kind, delimiter, new_decoder)
        with ExitStack() as stack:
            stack.push(stream)
            path = stream.path
            plain = _plain_bytes(stream.file, path, stack, new_decoder)
            is_marked = plain.peek(len(MARK)).startswith(MARK)
            reader: CsvReader | None = None
            if kind == "jsonl":
                columns, rows = read_jsonlines(bounded_lines(plain, b""), path)
            else:
                # Surrogates keep the bytes that are not UTF-8, which are reported with their row.
                text = io.TextIOWrapper(plain, "utf-8-sig", errors="surrogateescape", newline="")
                stack.callback(text.detach)
                wanted = DELIMITERS[kind] if delimiter is None and kind != "csv" else delimiter
                reader = CsvReader(bounded_lines(text, ""), path, wanted)
                columns, rows = reader.columns, reader.rows()
            super().__init__(path, kind, columns, rows)
            self.delimiter: str | None = None if reader is None else reader.delimiter
            self.is_marked: bool = is_marked
            self._stack = stack.pop_all()

    def __next__(self) -> Row | BadRow:
        try:
            row = self._last = next(self._rows)
        except (OSError, *DECOMPRESSION_ERRORS, UnicodeError) as error:
            return self._broken(error)
        return row

    def close(self) -> None:
        """Close the file; stdin is left open. Iteration ends."""
        super().close()
        self._stream.leave()
        self._stack.close()

    @property
    def fraction_read(self) -> float | None:
        """The share of the file's bytes read so far, 0 to 1; `None` for a pipe or a terminal."""
        return self._stream.fraction_read

    def is_same_file(self, other: os.stat_result) -> bool:
        """Return whether `other` is this very file, by any name or link."""
        return self._stream.is_same_file(other)

    def survey(self, limit: int | None = None) -> tuple[str, ...]:
        """Return the columns of all rows, as far as they can be known beforehand.

        For JSONL these are the keys of the first 20,000 rows; the file is opened a second time for them. A
        pipe cannot be, so it has the keys of the first row.

        Args:
            limit: the most rows to read.
        """
        if self.format != "jsonl" or not self._stream.can_reopen:
            return self.columns
        names = dict.fromkeys(self.columns)
        with suppress(OSError, InputError), self._reopened() as again:
            for row in islice(again, min(limit or _ROWS_SURVEYED, _ROWS_SURVEYED)):
                names.update(dict.fromkeys(row.values))
                if again._stream.position > _BYTES_SURVEYED:
                    break
        return tuple(names)

    def count(self, most: int) -> int | None:
        """Return the number of rows if the file is small and not a pipe, else `None`.

        Args:
            most: stop counting after this many; the result is one more if there are more.
        """
        if not self._stream.can_reopen or self._stream.size > _BYTES_SURVEYED:
            return None
        with suppress(OSError, InputError), self._reopened() as again:
            return sum(1 for _ in islice(again, min(most + 1, sys.maxsize)))
        return None

    @contextmanager
    def _reopened(self) -> Iterator[TextSource]:
        """Open the file once more; a fault is reported when the rows are read.

        Raises:
            OSError: the path is another file by now.
        """
        kind, delimiter, new_decoder = self._options
        stream = self._stream.reopened()
        with TextSource(stream, kind, delimiter=delimiter, new_decoder=new_decoder) as again:
            yield again

    def _broken(self, error: Exception) -> BadRow:
        self.is_broken: bool = True
        # The generator that raised is finished: this row is the last.
        number, line = (self._last.number, self._last.line) if self._last else (0, 0)
        reason = os_problem(error) if isinstance(error, OSError) else str(error).lower()
        problem = f"cannot read on ({reason}); this row and all after it are missing"
        return bad_row(self.path, number + 1, line + 1, problem)


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
