"""Base class of the sinks for vectors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from batchrt.files.output_file import Closeable

__all__ = ["FLOAT_BYTES", "Kind", "VectorFormat", "VectorSink"]

VectorFormat: TypeAlias = Literal["npy", "parquet", "jsonl"]
Kind: TypeAlias = type[int] | type[str]
"""Type of the values of a column, for the formats that store it."""

FLOAT_BYTES: Final = 4


class VectorSink(Closeable):
    """Write vectors to a file, in the order they are given.

    Attributes:
        paths: the names of the files, the one with the vectors first; `stdout` for `"-"`.
        format: `npy`, `parquet` or `jsonl`.
        rows: the number of rows written.
        width: the number of dimensions of a vector; `None` until it is known.
    """

    format: VectorFormat

    def __init__(self, paths: tuple[str, ...], width: int | None) -> None:
        self.paths: tuple[str, ...] = paths
        self.rows: int = 0
        self.width: int | None = width

    def write(
        self,
        values: Mapping[str, Any],
        vector: bytes | None = None,
        error: BaseException | str | None = None,
    ) -> None:
        """Write one row: the values beside it, and its vector or its error.

        Args:
            values: a value for each of the columns that the file was opened with.
            vector: little-endian float32.
            error: an exception, or a line.

        Raises:
            ValueError: `vector` has another width than those before it.
            OutputClosedError: the reader of the output has closed it.
            OutputError: the output cannot be written to.
        """
        if vector is not None and len(vector) != self._size:
            self._learn_width(len(vector))
        self.rows += 1
        self._put(values, vector, error)

    @abstractmethod
    def flush(self) -> None:
        """Hand the rows written so far to the operating system, as far as the format allows."""

    @abstractmethod
    def _put(
        self, values: Mapping[str, Any], vector: bytes | None, error: BaseException | str | None
    ) -> None:
        """Write one row, whose vector is of the right size."""

    @property
    def _size(self) -> int | None:
        return None if self.width is None else self.width * FLOAT_BYTES

    def _learn_width(self, size: int) -> None:
        width, rest = divmod(size, FLOAT_BYTES)
        if rest or not width:
            raise ValueError(f"a vector is float32, 4 bytes a number; {size} bytes are no such thing")
        if self.width is not None:
            raise ValueError(f"the vector has {width} numbers, and those before it have {self.width}")
        self.width = width
