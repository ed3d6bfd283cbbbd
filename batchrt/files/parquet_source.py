"""Parquet sources: input rows from a Parquet file, read some thousand at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Final

from batchrt.errors import InputError
from batchrt.files.arrow import pyarrow
from batchrt.files.arrow_rows import columns_of, rows_of_batch
from batchrt.files.rows import BadRow, Row, bad_row
from batchrt.files.source import Source
from batchrt.files.streams import Stream

__all__ = ["ParquetSource"]

_BUFFER: Final = 1 << 18
_BATCH_BYTES: Final = 4 << 20
_MOST_ROWS: Final = 1024
"""Bytes and rows of a record batch, of which one is in memory."""


class ParquetSource(Source):
    """Read a Parquet file.

    Holds one record batch in memory. A row group that cannot be read is one `BadRow`, which names its rows;
    the groups after it are read.

    Args:
        stream: the file; closed with the source.

    Raises:
        InputError: it is no Parquet file, or an unfinished one; or two columns have the same name.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rows_read = 0
        with ExitStack() as stack:
            stack.push(stream)
            path = stream.path
            if not stream.can_seek:
                problem = "a Parquet file is read from its end; name a file, not a pipe"
                raise InputError(f"{path}: {problem}", path=path)
            self._pa: Any = pyarrow()
            self._file = self._open(path)
            schema = self._file.schema_arrow
            self._total: int = self._file.metadata.num_rows
            super().__init__(path, "parquet", columns_of(schema, path), self._read())
            self.arrow_types: Mapping[str, Any] = dict(zip(self.columns, schema.types, strict=True))
            self._stack = stack.pop_all()

    def _open(self, path: str) -> Any:
        try:
            # Without read-ahead, which would hold a whole row group.
            return self._pa.parquet.ParquetFile(self._stream.file, buffer_size=_BUFFER, pre_buffer=False)
        except self._pa.ArrowException as error:
            reason = _first_line(error)
            problem = f"this is no Parquet file, or one that was not finished ({reason}); write it again"
            raise InputError(f"{path}: {problem}", path=path) from error

    def close(self) -> None:
        """Close the file. Iteration ends."""
        super().close()
        self._stack.close()

    @property
    def fraction_read(self) -> float | None:
        """The share of the rows read so far, 0 to 1; `None` for a remote file, and when closed."""
        if not self._stream.can_reopen or self._stream.file.closed:
            return None
        return self._rows_read / max(1, self._total)

    def is_same_file(self, other: os.stat_result) -> bool:
        """Return whether `other` is this very file, by any name or link."""
        return self._stream.is_same_file(other)

    def survey(self, limit: int | None = None) -> tuple[str, ...]:  # noqa: ARG002  the schema tells
        """Return the columns."""
        return self.columns

    def count(self, most: int) -> int | None:  # noqa: ARG002  the footer tells
        """Return the number of rows."""
        return self._total

    def _read(self) -> Iterator[Row | BadRow]:
        """Yield the rows, group by group."""
        metadata = self._file.metadata
        for group in range(metadata.num_row_groups):
            facts = metadata.row_group(group)
            end = self._rows_read + facts.num_rows
            size = max(1, facts.total_byte_size // max(1, facts.num_rows))
            try:
                yield from self._read_group(group, max(1, min(_MOST_ROWS, _BATCH_BYTES // size)))
            except (OSError, self._pa.ArrowException) as error:
                self.is_broken: bool = True
                first = self._rows_read + 1
                self._rows_read = end
                problem = f"cannot be read, nor the rows after it to row {end} ({_first_line(error)})"
                yield bad_row(self.path, first, 0, f"{problem}; row group {group + 1} is damaged")

    def _read_group(self, group: int, size: int) -> Iterator[Row]:
        for batch in self._file.iter_batches(size, row_groups=[group], use_threads=False):
            for row in rows_of_batch(batch, self.columns, self.path, self._rows_read + 1):
                self._rows_read = row.number
                yield row


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n", 1)[0].split())[:200]
