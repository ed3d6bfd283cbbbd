"""Vectors as a Parquet file."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from batchrt.errors import OutputError
from batchrt.jobs.outlets import refused
from batchrt.jobs.rendering import cell, error_line, json_text
from batchrt.jobs.vectors import Kind, VectorFormat, VectorSink

__all__ = ["ParquetSink", "pyarrow"]

_GROUP_BYTES: Final = 32 << 20
"""Of a row group's vectors. Readers want groups large, and this is what has to be kept in memory."""
_GROUP_ROWS: Final = 1 << 16
_IN_MEMORY: Final = 1 << 20


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
    """Write a table with the columns that are kept, `embedding` and `error`.

    `embedding` is a list of float32 of fixed size; without any vector, of any size. Parquet has its
    table of contents at the end of the file: it can be read once it is closed, and not before.

    Args:
        stream: an empty file, to be closed with the sink.
        path: its name.
        columns: what is kept, and of what kind.
        width: how many numbers a vector has, if that is known.
    """

    format: VectorFormat = "parquet"

    def __init__(self, stream: io.FileIO, path: str, columns: Mapping[str, Kind], width: int | None) -> None:
        super().__init__((path,), width)
        self._pa: Any = pyarrow()
        self._stream = io.BufferedWriter(stream)
        self._columns = dict(columns)
        self._early = _Early()
        self._writer: Any = None
        self._failure: OutputError | None = None
        self._clear()

    def _clear(self) -> None:
        self._kept: dict[str, list[Any]] = {name: [] for name in self._columns}
        self._vectors = bytearray()
        self._errors: list[str | None] = []
        self._valid: list[bool] = []

    def flush(self) -> None:
        """Do nothing: rows are written in groups, and of no use before the file is closed."""

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._stream.closed:
            return
        try:
            if self._failure is None:
                self._replay()
                self._write_group()
                with self._guarded():
                    self._writer.close()
                    self._stream.flush()
        finally:
            self._early.close()
            with suppress(OSError):  # what could not be written has been said
                self._stream.close()

    def _put(
        self, values: Mapping[str, Any], vector: bytes | None, error: BaseException | str | None
    ) -> None:
        if self._failure is not None:
            raise self._failure
        line = None if error is None else error_line(error)
        row = [_of_kind(kind, values.get(name)) for name, kind in self._columns.items()]
        if self.width is None:
            self._early.put(row, line)
            return
        self._replay()
        self._add(row, vector, line)

    def _replay(self) -> None:
        """Take the rows that came before anybody knew how wide vectors are."""
        for row, line in self._early.take():
            self._add(row, None, line)

    def _add(self, row: list[Any], vector: bytes | None, line: str | None) -> None:
        for kept, value in zip(self._kept.values(), row, strict=True):
            kept.append(value)
        self._errors.append(line)
        self._valid.append(vector is not None)
        self._vectors += bytes(self._size or 0) if vector is None else vector
        if len(self._vectors) >= _GROUP_BYTES or len(self._valid) >= _GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        if self._valid or self._writer is None:
            table = self._table()
            self._clear()
            with self._guarded():
                self._open_writer(table.schema).write_table(table)

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
            # Numbers repeat too seldom for a dictionary of them to be anything but work.
            self._writer = self._pa.parquet.ParquetWriter(self._stream, schema, use_dictionary=["error"])
        return self._writer

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = refused(self.paths[0], error)
            if self._writer is not None:
                self._writer.is_open = False  # or it would try again when it is collected
            raise self._failure from error


class _Early:
    """Keep rows without vectors, on the disk if they are many, until the first vector comes."""

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
    return cell(value) if kind is str and value is not None else value
