"""Parquet files being written, which can be read however their writing ends."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final

from batchrt.errors import OutputClosedError, OutputError
from batchrt.files.arrow import pyarrow
from batchrt.files.new_file import NewFile, write_error

__all__ = ["ParquetFile"]

_GROUP_OVERHEAD: Final = 4096
"""Bytes of a column of a row group besides its values, in the group and in the footer; some hundred in
practice."""
_LEVELS: Final = 8
"""Parquet's definition and repetition levels take three bits for each 32-bit number where they are not
run-length encoded."""
_CONTENTS: Final = 1 << 16
"""Bytes of the footer without any group: mostly the schema."""
_ZEROS: Final = 1 << 20


class ParquetFile:
    """Write tables as row groups.

    Parquet has its metadata in a footer: the file can only be read once it is closed.

    Invariant: before a row group is written, disk space for it and for the footer is allocated. On a full
    disk the group is halved until it fits, and the file is closed after it, so that its rows can be read.

    Args:
        file: an empty file, which is closed with this object.
        dictionaries: columns with values that are often repeated.
        statistics: columns whose least and greatest value are stored.

    Attributes:
        new_file: as given.
        rows: the number of rows written.
        failure: the error that ended the writing, or `None`.
    """

    def __init__(
        self, file: NewFile, *, dictionaries: Sequence[str] = (), statistics: Sequence[str] = ()
    ) -> None:
        self.rows: int = 0
        self.failure: OutputError | None = None
        self._options = {
            "use_dictionary": list(dictionaries) or False,
            "write_statistics": list(statistics) or False,
        }
        self.new_file: NewFile = file
        self._raw = file.stream
        self._stream = io.BufferedWriter(self._raw)
        # Only a regular file has space to allocate; a pipe has none.
        self._reserves = stat.S_ISREG(os.fstat(self._raw.fileno()).st_mode)
        self._groups = 0
        self._is_torn = False
        self._writer: Any = None

    @property
    def is_closed(self) -> bool:
        """Whether the file is closed."""
        return self._stream.closed

    def write(self, table: Any) -> None:
        """Write `table`, or as much of its beginning as there is space for.

        Raises:
            OutputError: not all of it was written; says how much the file has.
        """
        if self.failure is not None:
            raise self.failure
        with self._guarded():
            self._write_table(table)

    def close(self, *, complete: bool) -> None:
        """Write the footer and close the file; a torn one or one without rows is not kept beside an old one.

        Raises:
            OutputError: the footer cannot be written, or the old file not be replaced.
        """
        if self.is_closed:
            return
        try:
            self._end()
        finally:
            complete = complete and self.failure is None
            with nullcontext() if self.failure is None else suppress(OutputError):
                self.new_file.close(complete=complete, keep=self._is_readable and self._has_use)
            with suppress(OSError):  # the failed write has been reported
                self._stream.close()

    @property
    def _is_readable(self) -> bool:
        return self._writer is not None and not self._is_torn

    @property
    def _has_use(self) -> bool:
        return bool(self.rows) or not self.new_file.replaces

    def _end(self) -> None:
        """Write the footer, unless a group is torn."""
        if self._writer is None or self._is_torn:
            return
        with self._guarded():
            self._writer.close()
            self._stream.flush()
            if self._reserves:
                self._raw.truncate(self._stream.tell())

    def _write_table(self, table: Any) -> None:
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
        if self._writer is None:
            self._writer = pyarrow().parquet.ParquetWriter(self._stream, table.schema, **self._options)
        self._writer.write_table(table)
        self._stream.flush()
        self._is_torn = False
        self._groups += 1
        self.rows += table.num_rows

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

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self._write_error(error)
            if self._writer is not None and self._is_torn:
                self._writer.is_open = False  # else it tries again when it is collected
            raise self.failure from error

    def _write_error(self, error: OSError) -> OutputError:
        failure = write_error(self.new_file.path, error)
        if isinstance(failure, OutputClosedError) or not self._reserves:
            return failure
        kept = "the file is lost" if self._is_torn else f"the file has the first {self.rows:,} rows"
        return OutputError(f"{failure}; {kept}", path=self.new_file.path)


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
