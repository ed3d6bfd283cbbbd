"""Parquet sinks: output rows in typed columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from batchrt.files.arrow import pyarrow, restored, storable
from batchrt.files.cells import cell, encodable_text
from batchrt.files.flattening import Flattening
from batchrt.files.new_file import NewFile
from batchrt.files.parquet_file import ParquetFile
from batchrt.files.sink import Sink

__all__ = ["ParquetSink"]

_GROUP_BYTES: Final = 32 << 20
_GROUP_ROWS: Final = 1 << 16
"""Bytes and rows of a row group, which is buffered in memory. Large groups are faster to read."""
_NUMBER_BYTES: Final = 8
_INT_BITS: Final = 63
_EXACT_BITS: Final = 53
"""Bits of an integer that a double holds exactly."""


class ParquetSink(Sink):
    """Write rows as Parquet.

    Columns of a Parquet or Arrow input keep their types, and may be null. Columns of another input are
    strings, or, if all values of the first row group are such, booleans, 64-bit integers or doubles; lists
    and objects are JSON text. Outputs, errors and finish reasons are strings, an output of another type is
    JSON text, but a flattened output's fields have their types: every file has the same schema, whatever the
    answers were.

    A later value that its column cannot hold is null and counts as left out. The file can be read once it is
    closed.

    Args:
        file: an empty file, which is closed with the sink.
        columns: the input's columns.
        added: the output's, the error's, and the finish reason's if there is to be one.
        types: Arrow's, of the input's columns, as far as it has them.
        flattening: splits outputs into their fields.
    """

    def __init__(
        self,
        file: ParquetFile,
        columns: Sequence[str],
        added: tuple[str, ...],
        types: Mapping[str, Any],
        flattening: Flattening | None = None,
    ) -> None:
        super().__init__(file.new_file.path, "parquet", columns, added, flattening)
        self._pa: Any = pyarrow()
        self._file = file
        self._known = frozenset(columns)
        self._types = {name: storable(kind) for name, kind in types.items() if name in self._known}
        arrow = {"integer": self._pa.int64(), "number": self._pa.float64(), "boolean": self._pa.bool_()}
        kinds = {} if flattening is None else flattening.kinds
        self._types |= {name: arrow[kind] for name, kind in kinds.items() if kind in arrow}
        self._is_text = [name not in self._types for name in added]
        self._has_group = False
        self._clear()

    def _clear(self) -> None:
        self._lists: list[list[Any]] = [[] for _ in self.columns]
        self._size = 0
        self._count = 0

    def flush(self) -> None:
        """Do nothing: rows are written in groups, and are unreadable before the file is closed."""

    def close(self) -> None:
        """Write the remaining rows and close the file. Raises as `write` does."""
        if self._file.is_closed:
            return
        complete = False
        try:
            if self._file.failure is None:
                self._write_group()
            complete = not self._is_partial
        finally:
            self._file.close(complete=complete)

    @property
    def _new_files(self) -> tuple[NewFile, ...]:
        return (self._file.new_file,)

    def _put(self, values: Mapping[str, Any], last: tuple[Any, ...]) -> None:
        if self._file.failure is not None:
            raise self._file.failure
        if not values.keys() <= self._known:
            self._leave_out(set(values.keys() - self._known))
        row = [values.get(name) for name in self._inputs]
        row += [_text(value) if text else value for value, text in zip(last, self._is_text, strict=True)]
        for kept, value in zip(self._lists, row, strict=True):
            kept.append(value)
            self._size += _size_of(value)
        self._count += 1
        if self._size >= _GROUP_BYTES or self._count >= _GROUP_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        if self._count or not self._has_group:
            arrays = [self._array(*pair) for pair in zip(self.columns, self._lists, strict=True)]
            schema = self._pa.schema(list(zip(self.columns, (array.type for array in arrays), strict=True)))
            self._clear()
            self._has_group = True
            self._file.write(self._pa.Table.from_arrays(arrays, schema=schema))

    def _array(self, name: str, values: list[Any]) -> Any:
        """Return the values of a column in its type; decide on it for the first row group."""
        pa = self._pa
        if name not in self._types:
            self._types[name] = pa.string() if name in self._added else _type_of(pa, values)
        kind = self._types[name]
        if kind == pa.string():
            return pa.array([_text(value) for value in values], kind)
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            return pa.array([self._fitting(name, value, kind) for value in values], kind)

    def _fitting(self, name: str, value: Any, kind: Any) -> Any:
        """Return `value` as its column can hold it, or else `None`."""
        if value is None:
            return None
        for restore in (False, True):  # a value out of a journal has been JSON
            with suppress(self._pa.ArrowException, ValueError, TypeError, OverflowError):
                return self._pa.array([restored(value, kind) if restore else value], kind)[0]
        self._leave_out({name})
        return None


def _type_of(pa: Any, values: list[Any]) -> Any:
    """Return the type of a column of JSON values; without values, that of strings."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and all(value is None or value.bit_length() <= _INT_BITS for value in values):
        return pa.int64()
    if kinds == {float}:
        return pa.float64()
    if kinds == {int, float} and all(
        type(value) is not int or value.bit_length() <= _EXACT_BITS for value in values
    ):
        return pa.float64()
    return pa.string()


def _text(value: Any) -> str | None:
    return None if value is None else encodable_text(cell(value))


def _size_of(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(map(_size_of, value))
    if isinstance(value, dict):
        return sum(map(_size_of, value.values()))
    return _NUMBER_BYTES
