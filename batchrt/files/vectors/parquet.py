"""Vectors as a Parquet file."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from batchrt.errors import OutputClosedError, OutputError
from batchrt.files.cells import cell, encodable_text, error_line, json_text, shorten
from batchrt.files.output_file import write_error
from batchrt.files.vectors.base import Kind, VectorFormat, VectorSink

__all__ = ["ParquetSink", "pyarrow"]

_GROUP_BYTES: Final = 32 << 20
"""Size of a row group's vectors, which are buffered in memory. Readers want large groups."""
_GROUP_ROWS: Final = 1 << 16
_IN_MEMORY: Final = 1 << 20
_GROUP_OVERHEAD: Final = 4096
"""Bytes of a column of a row group besides its values, in the group and in the footer; some hundred in
practice."""
_LEVELS: Final = 8
"""Parquet's definition and repetition levels take three bits for each 32-bit number where they are not
run-length encoded."""
_CONTENTS: Final = 1 << 16
"""Bytes of the footer without any group: mostly the schema."""
_ZEROS: Final = 1 << 20
_INT_BITS: Final = 63


def pyarrow() -> Any:
    """Return pyarrow, with its `parquet`.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "a .parquet file needs pyarrow: install batchrt[parquet], or write .npy or .jsonl"
        ) from error
    return pa


class ParquetSink(VectorSink):
    """Write a table with the given columns, `embedding` and `error`.

    `embedding` is a list of float32 of fixed size; of any size if there is no vector. Parquet has its
    metadata in a footer: the file can only be read once it is closed.

    Invariant: before a row group is written, disk space for it and for the footer is allocated. On a full
    disk the group is halved until it fits, and the file is closed after it, so that its rows can be read.

    Args:
        stream: an empty file, which is closed with the sink.
        path: its name.
        columns: names and types of the values beside the vectors.
        width: the number of dimensions of a vector, if it is known.
    """

    format: VectorFormat = "parquet"

    def __init__(self, stream: io.FileIO, path: str, columns: Mapping[str, Kind], width: int | None) -> None:
        super().__init__((path,), width)
        self._pa: Any = pyarrow()
        self._raw = stream
        self._stream = io.BufferedWriter(stream)
        # Only a regular file has space to allocate; a pipe has none.
        self._reserves = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
        self._groups = 0
        self._written = 0
        self._is_torn = False
        self._columns = dict(columns)
        self._rows_before_width = _RowsBeforeWidth()
        self._writer: Any = None
        self._failure: OutputError | None = None
        self._clear()

    def _clear(self) -> None:
        self._kept: dict[str, list[Any]] = {name: [] for name in self._columns}
        self._vectors = bytearray()
        self._text_size = 0
        self._errors: list[str | None] = []
        self._valid: list[bool] = []

    def flush(self) -> None:
        """Do nothing: rows are written in groups, and are unreadable before the file is closed."""

    def close(self) -> None:
        """Write the remaining rows and close the file."""
        if self._stream.closed:
            return
        try:
            if self._failure is None:
                self._replay()
                self._write_group()
            self._end()
        finally:
            self._rows_before_width.close()
            with suppress(OSError):  # the failed write has been reported
                self._stream.close()

    def _end(self) -> None:
        """Write the footer, unless a group is torn."""
        if self._writer is None or self._is_torn:
            return
        with self._guarded():
            self._writer.close()
            self._stream.flush()
            if self._reserves:
                self._raw.truncate(self._stream.tell())

    def _put(
        self, values: Mapping[str, Any], vector: bytes | None, error: BaseException | str | None
    ) -> None:
        if self._failure is not None:
            raise self._failure
        line = None if error is None else encodable_text(error_line(error))
        row = [_of_kind(kind, values.get(name)) for name, kind in self._columns.items()]
        if self.width is None:
            self._rows_before_width.put(row, line)
            return
        self._replay()
        self._add(row, vector, line)

    def _replay(self) -> None:
        """Add the rows that came before the width was known."""
        for row, line in self._rows_before_width.take():
            self._add(row, None, line)

    def _add(self, row: list[Any], vector: bytes | None, line: str | None) -> None:
        for kept, value in zip(self._kept.values(), row, strict=True):
            kept.append(value)
            self._text_size += len(value) if isinstance(value, str) else 0
        self._errors.append(line)
        self._text_size += len(line or "")
        self._valid.append(vector is not None)
        self._vectors += bytes(self._size or 0) if vector is None else vector
        if len(self._vectors) + self._text_size >= _GROUP_BYTES or len(self._valid) >= _GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        if self._valid or self._writer is None:
            table = self._table()
            self._clear()
            with self._guarded():
                self._write_table(table)

    def _write_table(self, table: Any) -> None:
        """Write `table`, or as much of its beginning as there is space for.

        Raises:
            OSError: not all of it was written.
        """
        refusal, part = self._reserve(table), table
        if refusal is not None:
            part = table.slice(0, table.num_rows // 2)
            while part.num_rows and self._reserve(part) is not None:
                part = part.slice(0, part.num_rows // 2)
        if part.num_rows or self._writer is None:
            self._put_table(part)
        if refusal is not None:
            raise refusal

    def _put_table(self, table: Any) -> None:
        self._is_torn = True  # until the group is whole
        self._open_writer(table.schema).write_table(table)
        self._stream.flush()
        self._is_torn = False
        self._groups += 1
        self._written += table.num_rows

    def _reserve(self, table: Any) -> OSError | None:
        """Allocate space for `table` as a row group and for the footer; return the error if there is none."""
        if not self._reserves:
            return None
        columns = len(table.schema.names)
        room = table.nbytes + table.nbytes // _LEVELS + _GROUP_OVERHEAD * columns
        contents = _CONTENTS + _GROUP_OVERHEAD * columns * (self._groups + 1)
        start = self._stream.tell()
        try:
            _allocate(self._raw, start, room + contents)
        except OSError as error:
            # The footer's space was allocated with the previous group.
            before = _CONTENTS + _GROUP_OVERHEAD * columns * self._groups
            with suppress(OSError):
                self._raw.truncate(start + (before if self._groups else 0))
            return error
        return None

    def _table(self) -> Any:
        pa = self._pa
        kinds = {int: pa.int64(), str: pa.string()}
        columns = {name: pa.array(kept, kinds[self._columns[name]]) for name, kept in self._kept.items()}
        return pa.table(
            {**columns, "embedding": self._embeddings(), "error": pa.array(self._errors, pa.string())}
        )

    def _embeddings(self) -> Any:
        pa, count = self._pa, len(self._valid)
        if self.width is None:
            return pa.nulls(count, pa.list_(pa.float32()))
        numbers: Any = self._vectors
        if sys.byteorder == "big":
            numbers = array("f", numbers)
            numbers.byteswap()
        child = pa.Array.from_buffers(pa.float32(), count * self.width, [None, pa.py_buffer(numbers)])
        missing = pa.array([not valid for valid in self._valid], pa.bool_())
        return pa.FixedSizeListArray.from_arrays(child, self.width, mask=missing)

    def _open_writer(self, schema: Any) -> Any:
        if self._writer is None:
            # Numbers repeat too seldom for a dictionary, and their minimum is of no use. Statistics of texts
            # may be as long as the texts.
            numbers = [name for name, kind in self._columns.items() if kind is int]
            self._writer = self._pa.parquet.ParquetWriter(
                self._stream, schema, use_dictionary=["error"], write_statistics=numbers or False
            )
        return self._writer

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = self._write_error(error)
            if self._writer is not None and self._is_torn:
                self._writer.is_open = False  # else it tries again when it is collected
            raise self._failure from error

    def _write_error(self, error: OSError) -> OutputError:
        failure = write_error(self.paths[0], error)
        if isinstance(failure, OutputClosedError) or not self._reserves:
            return failure
        kept = "the file is lost" if self._is_torn else f"the file has the first {self._written:,} rows"
        return OutputError(f"{failure}; {kept}", path=self.paths[0])


class _RowsBeforeWidth:
    """Keep rows without vectors until the first vector comes, in a temporary file if there are many."""

    def __init__(self) -> None:
        self._file: Any = None

    def put(self, row: list[Any], line: str | None) -> None:
        if self._file is None:
            self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8")  # noqa: SIM115
        self._file.write(json_text([row, line]) + "\n")

    def take(self) -> Iterator[tuple[list[Any], str | None]]:
        if self._file is None:
            return
        file, self._file = self._file, None
        with file:
            file.seek(0)
            for text in file:
                row, line = json.loads(text)
                yield row, line

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _allocate(stream: io.FileIO, start: int, size: int) -> None:
    """Allocate `size` bytes of disk space from `start` on, beyond the file's end.

    Raises:
        OSError: there is not enough space.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), start, size)
        return
    place = stream.tell()  # elsewhere only writing allocates
    try:
        stream.seek(start)
        zeros = bytes(min(size, _ZEROS))
        while size > 0:
            size -= stream.write(zeros[:size]) or 0
    finally:
        stream.seek(place)


def _of_kind(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is str:
        return encodable_text(cell(value))
    if not isinstance(value, int) or value.bit_length() > _INT_BITS:
        raise ValueError(f"a column of integers of 64 bits cannot hold {shorten(repr(value), 60)}")
    return value
