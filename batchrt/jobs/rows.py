"""The rows of a job: values of its source, as inputs of the chain."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, Final, TypeAlias

from anyio import CancelScope

from batchrt.files import BadRow, Row, Source, open_source
from batchrt.files.remote import is_remote

__all__ = ["Given", "JobSource", "count_rows", "open_rows", "read_async_rows", "read_rows", "source_paths"]

JobSource: TypeAlias = "str | os.PathLike[str] | Source | Iterable[Any] | AsyncIterable[Any]"
"""Rows: a file of any format, by its path or open; a data frame or Arrow table; or any iterable of values
that JSON can carry."""


Given: TypeAlias = tuple[Any, Any, "Exception | None"]
"""A row of the source: the chain's input, the input as it is recorded, and the reason why the row cannot be
read, or `None`. The input lacks values that cannot be read, which are recorded as `None`."""


_MOST_COUNTED: Final = 20_000
"""Rows of a file that are counted before it is read."""


def open_rows(source: JobSource) -> AbstractContextManager[Any]:
    """Return a context with the rows of `source`; a path or table is opened, and closed at the end.

    Raises:
        InputError: the file cannot be read.
        TypeError: the source is a single value.
    """
    if isinstance(source, str | os.PathLike) or _is_table(source):
        return open_source(source)
    if isinstance(source, bytes | Mapping) or not isinstance(source, Iterable | AsyncIterable):
        raise TypeError(
            f"a job's source is a file's path or an iterable of rows, not {type(source).__name__}"
        )
    return nullcontext(source)


def _is_table(source: object) -> bool:
    """Whether iterating over an object gives columns or batches, not rows: a data frame or Arrow's data."""
    return any(hasattr(source, name) for name in ("__arrow_c_stream__", "itertuples", "iter_rows"))


def source_paths(rows: object) -> tuple[str, ...]:
    """Return the absolute paths of the files that rows come from, and the addresses of remote ones."""
    if not isinstance(rows, Source) or rows.format == "table":
        return ()
    return tuple(path if is_remote(path) else os.path.realpath(path) for path in rows.paths)


def count_rows(rows: object, limit: int | None) -> int | None:
    """Return how many rows there are to read, if that is quickly known."""
    count = len(rows) if isinstance(rows, Sized) else None
    if isinstance(rows, Source):
        count = rows.count(_MOST_COUNTED)
        if count is not None and count > _MOST_COUNTED and (limit is None or limit > count):
            return None
    return count if limit is None or count is None else min(count, limit)


def read_rows(rows: Iterable[Any], limit: int | None) -> Iterator[Given]:
    """Yield the rows of a source, at most `limit`."""
    return islice(map(_given, rows), None if limit is None else min(limit, sys.maxsize))


async def read_async_rows(rows: AsyncIterable[Any], limit: int | None) -> AsyncGenerator[Given, None]:
    """Yield the rows of an async source, at most `limit`, and close it."""
    iterator = aiter(rows)
    left = -1 if limit is None else limit
    try:
        while left:
            try:
                row = await anext(iterator)
            except StopAsyncIteration:
                return
            left -= 1
            yield _given(row)
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            with CancelScope(shield=True):
                await close()


def _given(row: Any) -> Given:
    if isinstance(row, Row):
        if row.faults:
            good = {name: value for name, value in row.values.items() if name not in row.faults}
            return good, {**row.values, **dict.fromkeys(row.faults)}, None
        return row.values, row.values, None
    if isinstance(row, BadRow):
        return row.values, row.values, row.error
    return row, row, None
