"""Rows of Arrow record batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from batchrt.errors import InputError
from batchrt.files.arrow import python_values
from batchrt.files.cells import shorten
from batchrt.files.rows import Row, bad_row

__all__ = ["columns_of", "rows_of_batch"]


def columns_of(schema: Any, path: str) -> tuple[str, ...]:
    """Return the names of the columns.

    Raises:
        InputError: there are none, or two have the same name.
    """
    names = [name or f"column_{place}" for place, name in enumerate(schema.names, 1)]
    if not names:
        raise InputError(f"{path}: there are no columns", path=path)
    seen: dict[str, int] = {}
    for place, name in enumerate(names, 1):
        if name in seen:
            twice = f"columns {seen[name]} and {place} are both called {shorten(name)!r}"
            raise InputError(f"{path}: {twice}; rename one", path=path, column=name)
        seen[name] = place
    return tuple(names)


def rows_of_batch(batch: Any, columns: tuple[str, ...], path: str, start: int) -> Iterator[Row]:
    """Yield the rows of a record batch, of which the first has the number `start`.

    A value that has no form in Python is `None`, and a fault of its row.
    """
    lists: list[list[Any]] = []
    faults: dict[int, dict[str, InputError]] = {}
    for name, array in zip(columns, batch.columns, strict=True):
        values, problems = python_values(array)
        lists.append(values)
        for position, problem in problems.items():
            error = bad_row(path, start + position, 0, problem, column=name).error
            faults.setdefault(position, {})[name] = error
    size = batch.nbytes // max(1, batch.num_rows)
    records: Iterable[tuple[Any, ...]] = zip(*lists, strict=True)
    for position, record in enumerate(records):
        values_by_name = dict(zip(columns, record, strict=True))
        yield Row(start + position, 0, values_by_name, faults.get(position), size)
