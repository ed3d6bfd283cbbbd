"""Table sources: rows of data frames, Arrow tables, data sets and other objects of Python."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final

from batchrt.errors import InputError
from batchrt.files.arrow import pyarrow
from batchrt.files.arrow_rows import columns_of, rows_of_batch
from batchrt.files.rows import BadRow, Row, bad_row
from batchrt.files.source import Source

__all__ = ["TableSource"]

_NAME: Final = "the table"
_BATCH_ROWS: Final = 1024
_ROWS_SURVEYED: Final = 20_000
_ARROW: Final = "__arrow_c_stream__"
"""Method of the Arrow PyCapsule interface, which pandas, polars, pyarrow, DuckDB and others have."""


class TableSource(Source):
    """Read the rows of an object: an Arrow stream, a data frame, or an iterable of mappings.

    An object with an Arrow stream is read by pyarrow if that is installed, as a Parquet file is. Else a data
    frame of polars or pandas gives its rows, without pandas' index, and so does any iterable of mappings,
    such as a data set of Hugging Face or a list of dicts. Of these, rows may have more keys than the first.

    Args:
        data: the object.

    Raises:
        InputError: it has no rows that can be read, or no columns.
    """

    def __init__(self, data: Any) -> None:
        self._length: int | None = len(data) if hasattr(data, "__len__") else None
        self._rows_read = 0
        self._data = data
        types: dict[str, Any] = {}
        columns, rows = self._opened(data, types)
        super().__init__(_NAME, "table", columns, rows)
        self.arrow_types: Mapping[str, Any] = types

    def _opened(self, data: Any, types: dict[str, Any]) -> tuple[tuple[str, ...], Iterator[Row | BadRow]]:
        if hasattr(data, _ARROW) and importlib.util.find_spec("pyarrow") is not None:
            pa = pyarrow()
            try:
                reader = pa.RecordBatchReader.from_stream(data)
            except pa.ArrowException:  # such as a column of pandas with values of several types
                if not hasattr(data, "itertuples"):
                    raise
            else:
                columns = columns_of(reader.schema, _NAME)
                types.update(zip(columns, reader.schema.types, strict=True))
                return columns, self._numbered(_arrow_rows(reader, columns))
        if hasattr(data, "iter_rows"):
            return tuple(data.columns), self._numbered(map(_row, data.iter_rows(named=True)))
        if hasattr(data, "itertuples"):
            names = tuple(map(str, data.columns))
            records = data.itertuples(index=False, name=None)
            return names, self._numbered(_row(dict(zip(names, record, strict=True))) for record in records)
        return self._opened_mappings(data)

    def _opened_mappings(self, data: Any) -> tuple[tuple[str, ...], Iterator[Row | BadRow]]:
        if isinstance(data, Mapping | str | bytes) or not isinstance(data, Iterable):
            kind = type(data).__name__
            if hasattr(data, _ARROW):
                raise InputError(f"{kind} needs pyarrow: install batchrt[parquet]")
            raise InputError(f"rows cannot be read from {kind}; pass a path, a table, or a list of dicts")
        rows = iter(data)
        first = list(islice(rows, 1))
        if first and not isinstance(first[0], Mapping):
            kind = type(first[0]).__name__
            raise InputError(f"a row must be a mapping of names to values, such as a dict, not {kind}")
        columns = tuple(map(str, first[0])) if first else ()
        columns = columns or tuple(getattr(data, "column_names", None) or ())
        return columns, self._numbered(map(_row, chain(first, rows)))

    def _numbered(self, rows: Iterator[Row | BadRow]) -> Iterator[Row | BadRow]:
        for number, row in enumerate(rows, 1):
            self._rows_read = row.number = number
            yield row

    @property
    def fraction_read(self) -> float | None:
        """The share of the rows read so far, 0 to 1; `None` if their number is not known."""
        return None if self._length is None else self._rows_read / max(1, self._length)

    def is_same_file(self, other: os.stat_result) -> bool:  # noqa: ARG002  there is no file
        """Return `False`."""
        return False

    def survey(self, limit: int | None = None) -> tuple[str, ...]:
        """Return the columns; for a sequence of mappings, the keys of its first 20,000 rows."""
        names = dict.fromkeys(self.columns)
        if isinstance(self._data, Sequence):
            for row in self._data[: min(limit or _ROWS_SURVEYED, _ROWS_SURVEYED)]:
                if isinstance(row, Mapping):
                    names.update(dict.fromkeys(map(str, row)))
        return tuple(names)

    def count(self, most: int) -> int | None:  # noqa: ARG002  its length is known, or nothing is
        """Return the number of rows if the object has a length, else `None`."""
        return self._length


def _arrow_rows(reader: Any, columns: tuple[str, ...]) -> Iterator[Row]:
    """Yield the rows of a reader; a batch may be a whole table."""
    number = 1
    for batch in reader:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            part = batch.slice(start, _BATCH_ROWS)
            yield from rows_of_batch(part, columns, _NAME, number)
            number += part.num_rows


def _row(values: Any) -> Row | BadRow:
    """Return a row without its number, which is set later."""
    if not isinstance(values, Mapping):
        return bad_row(_NAME, 0, 0, f"a row must be a mapping such as a dict, not {type(values).__name__}")
    return Row(0, 0, {str(name): value for name, value in values.items()})
