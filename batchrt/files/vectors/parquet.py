"""Vectors as a Parquet file."""

from __future__ import annotations

import json
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from typing import Any, Final

from batchrt.files.arrow import pyarrow
from batchrt.files.cells import cell, encodable_text, error_line, json_text, shorten
from batchrt.files.new_file import NewFile
from batchrt.files.parquet_file import ParquetFile
from batchrt.files.vectors.base import Kind, VectorFormat, VectorSink

__all__ = ["ParquetSink"]

_GROUP_BYTES: Final = 32 << 20
"""Size of a row group's vectors, which are buffered in memory. Readers want large groups."""
_GROUP_ROWS: Final = 1 << 16
_IN_MEMORY: Final = 1 << 20
_INT_BITS: Final = 63


class ParquetSink(VectorSink):
    """Write a table with the given columns, `embedding` and `error`.

    `embedding` is a list of float32 of fixed size; of any size if there is no vector.

    Args:
        file: an empty file, which is closed with the sink.
        columns: names and types of the values beside the vectors.
        width: the number of dimensions of a vector, if it is known.
    """

    format: VectorFormat = "parquet"

    def __init__(self, file: NewFile, columns: Mapping[str, Kind], width: int | None) -> None:
        super().__init__((file.path,), width)
        self._pa: Any = pyarrow()
        # Numbers repeat too seldom for a dictionary, and their minimum is of no use. Statistics of texts
        # may be as long as the texts.
        numbers = [name for name, kind in columns.items() if kind is int]
        self._file = ParquetFile(file, dictionaries=["error"], statistics=numbers)
        self._columns = dict(columns)
        self._rows_before_width = _RowsBeforeWidth()
        self._has_group = False
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
        if self._file.is_closed:
            return
        complete = False
        try:
            if self._file.failure is None:
                self._replay()
                self._write_group()
            complete = not self._is_partial
        finally:
            self._rows_before_width.close()
            self._file.close(complete=complete)

    @property
    def _new_files(self) -> tuple[NewFile, ...]:
        return (self._file.new_file,)

    def _put(
        self, values: Mapping[str, Any], vector: bytes | None, error: BaseException | str | None
    ) -> None:
        if self._file.failure is not None:
            raise self._file.failure
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
        if self._valid or not self._has_group:
            table = self._table()
            self._clear()
            self._has_group = True
            self._file.write(table)

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


class _RowsBeforeWidth:
    """Keep rows without vectors until the first vector arrives, in a temporary file if there are many."""

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


def _of_kind(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is str:
        return encodable_text(cell(value))
    if not isinstance(value, int) or value.bit_length() > _INT_BITS:
        raise ValueError(f"a column of integers of 64 bits cannot hold {shorten(repr(value), 60)}")
    return value
