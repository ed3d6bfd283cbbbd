"""Vectors as a numpy file, with the values beside them in a second file."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final

from batchrt.errors import OutputError
from batchrt.files.cells import error_line, json_text
from batchrt.files.new_file import NewFile, write_error
from batchrt.files.output_file import OutputFile, write_all
from batchrt.files.vectors.base import VectorFormat, VectorSink

__all__ = ["NpySink"]

_MAGIC: Final = b"\x93NUMPY\x01\x00"
_HEADER_BYTES: Final = 128
"""Fits any shape, and is a multiple of 64, which numpy's format asks for so that a file can be mapped into
memory (numpy.lib.format, version 1.0)."""
_CHUNK: Final = 1 << 20
_NAN: Final = struct.pack("<f", float("nan"))


class NpySink(VectorSink):
    """Write a float32 matrix with one row for each row given, of NaN where there is no vector.

    A second file has lines `{"row": 0, …, "error": null}`, where `row` is the matrix's. The matrix's header
    is updated after the rows that it counts are in both files: however the process ends, the files can be
    read up to the last flush. Without any vector the matrix has `width` columns, or none.

    Args:
        file: an empty file, which is closed with the sink.
        beside: the second file.
        width: the number of dimensions of a vector, if it is known.
    """

    format: VectorFormat = "npy"

    def __init__(self, file: NewFile, beside: OutputFile, width: int | None) -> None:
        super().__init__((file.path, beside.path), width)
        self._file = file
        self._stream = file.stream
        self._beside = beside
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._blank = 0
        self._failure: OutputError | None = None

    def flush(self) -> None:
        """Hand all rows written so far to the operating system."""
        if self._stream.closed:
            return
        self._append()
        self._beside.flush()
        with self._guarded():
            self._stream.seek(0)
            write_all(self._stream, _header(self.rows, self.width or 0))

    def close(self) -> None:
        """Write the remaining rows and close both files; the values replace the old ones first."""
        complete = False
        try:
            if self._failure is None:
                self.flush()
            complete = self._failure is None and not self._is_partial
        finally:
            self._close_files(complete=complete)

    @property
    def _new_files(self) -> tuple[NewFile, ...]:
        return (self._file, *self._beside._new_files)

    def _put(
        self, values: Mapping[str, Any], vector: bytes | None, error: BaseException | str | None
    ) -> None:
        line = None if error is None else error_line(error)
        self._beside.put(json_text({"row": self.rows - 1, **values, "error": line}) + "\n")
        if self.width is None:
            self._blank += 1
            return
        while self._blank:  # rows from before the width was known
            self._blank -= 1
            self._take(_NAN * self.width)
        self._take(_NAN * self.width if vector is None else vector)

    def _take(self, vector: bytes) -> None:
        self._pending.append(vector)
        self._pending_bytes += len(vector)
        if self._pending_bytes >= _CHUNK:
            self._append()

    def _append(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        with self._guarded():
            # At the end of the file; at first behind the header, which is written later.
            self._stream.seek(max(_HEADER_BYTES, self._stream.seek(0, io.SEEK_END)))
            write_all(self._stream, data)

    def _close_files(self, *, complete: bool) -> None:
        if not complete:
            self._beside.mark_partial()
        try:
            self._beside.close()
        except OutputError:
            complete = False
            raise
        finally:
            with nullcontext() if self._failure is None else suppress(OutputError):
                self._file.close(complete=complete, keep=bool(self.rows))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except OSError as error:
            self._failure = write_error(self.paths[0], error)
            raise self._failure from error


def _header(rows: int, width: int) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}"
    size = _HEADER_BYTES - len(_MAGIC) - 2
    return _MAGIC + struct.pack("<H", size) + text.ljust(size - 1).encode() + b"\n"
