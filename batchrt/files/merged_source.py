"""Merged sources: several files read as one, one after the other."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from batchrt.errors import InputError
from batchrt.files.formats import SourceFormat
from batchrt.files.remote import shown_name
from batchrt.files.rows import BadRow, EmptyFileError, Row, bad_row
from batchrt.files.source import Source

__all__ = ["MergedSource"]

_BYTES_SURVEYED: Final = 64 << 20


class MergedSource(Source):
    """Read several files as one.

    Its columns are the union of all files' columns, in order; a row has the columns of its file.
    Rows are numbered throughout, but errors name the file and the row in it. All files are opened once when
    the source is, so that a file that cannot be used is found before anything is paid for; one is open at a
    time. Files without any content are skipped. A file that can no longer be opened when its turn comes is
    one `BadRow`, and the next ones are read.

    Args:
        names: of the files, at least two.
        opened: opens one.

    Raises:
        InputError: a file cannot be used, or all of them are empty.
    """

    def __init__(self, names: Sequence[str], opened: Callable[[str], Source]) -> None:
        self._opened = opened
        self._files: list[str] = []
        self._sizes: list[int] = []
        self._ids: set[tuple[int, int]] = set()
        self._firsts: list[int] = []
        self._current: Source | None = None
        facts = _Facts()
        for name in names:
            try:
                with opened(name) as source:
                    facts.add(source)
                    self._add_file(name, source)
            except EmptyFileError as error:
                facts.empty = facts.empty or error
        if not self._files:
            assert facts.empty is not None
            raise facts.empty
        label = shown_name(self._files[0])
        if len(self._files) > 1:
            label += f" and {len(self._files) - 1} more"
        super().__init__(label, facts.format, tuple(facts.columns), self._read())
        self.paths: tuple[str, ...] = tuple(map(shown_name, self._files))
        self.is_table: bool = facts.is_table
        self.delimiter: str | None = facts.delimiter
        self.is_marked: bool = facts.is_marked
        self.arrow_types: Mapping[str, Any] = facts.arrow_types
        self.is_broken: bool = False

    def _add_file(self, name: str, source: Source) -> None:
        size = 0 if source.fraction_read is not None else -1
        with suppress(OSError):
            status = Path(name).stat()
            self._ids.add((status.st_dev, status.st_ino))
            size = status.st_size if size == 0 else size
        self._files.append(name)
        self._sizes.append(size)

    def close(self) -> None:
        """Close the file that is open. Iteration ends."""
        super().close()
        if self._current is not None:
            self._current.close()

    @property
    def fraction_read(self) -> float | None:
        """The share of all files' bytes read so far, 0 to 1; `None` if one is not a regular file."""
        if -1 in self._sizes:
            return None
        done = max(0, len(self._firsts) - 1)
        share = 0.0 if self._current is None else self._current.fraction_read
        here = self._sizes[done] * (1.0 if share is None else share) if self._firsts else 0
        return min(1.0, (sum(self._sizes[:done]) + here) / max(1, sum(self._sizes)))

    def is_same_file(self, other: os.stat_result) -> bool:
        """Return whether `other` is one of the files, by any name or link."""
        return (other.st_dev, other.st_ino) in self._ids

    def survey(self, limit: int | None = None) -> tuple[str, ...]:
        """Return the columns of all rows, as far as they can be known beforehand."""
        names = dict.fromkeys(self.columns)
        surveyed = 0
        for name, size in zip(self._files, self._sizes, strict=True):
            with suppress(InputError), self._opened(name) as source:
                names.update(dict.fromkeys(source.survey(limit)))
            surveyed += size
            if surveyed > _BYTES_SURVEYED:
                break
        return tuple(names)

    def count(self, most: int) -> int | None:
        """Return the number of rows if all files are small, else `None`."""
        rows = 0
        if sum(self._sizes) > _BYTES_SURVEYED:
            return None
        for name in self._files:
            with suppress(InputError), self._opened(name) as source:
                here = source.count(most)
                if here is None:
                    return None
                rows += here
            if rows > most:
                break
        return rows

    def row_error(self, row: Row | BadRow, problem: str, *, column: str | None = None) -> InputError:
        """Return an error about a row, with its file and its number there."""
        place = max(0, bisect_right(self._firsts, row.number) - 1)
        number = row.number - self._firsts[place] + 1
        return bad_row(self.paths[place], number, row.line, problem, column=column).error

    def _read(self) -> Iterator[Row | BadRow]:
        number = 0
        for name in self._files:
            self._firsts.append(number + 1)
            first = number
            try:
                source = self._current = self._opened(name)
            except InputError as error:
                number += 1
                self.is_broken = True
                yield BadRow(number, 0, error)
                continue
            with source:
                for row in source:
                    number = row.number = first + row.number
                    yield row
                self.is_broken = self.is_broken or source.is_broken


class _Facts:
    """Properties that several files have in common."""

    def __init__(self) -> None:
        self.columns: dict[str, None] = {}
        self.arrow_types: dict[str, Any] = {}
        self.format: SourceFormat = "jsonl"
        self.delimiter: str | None = None
        self.is_table: bool = True
        self.is_marked: bool = False
        self.empty: EmptyFileError | None = None
        self._is_first = True

    def add(self, source: Source) -> None:
        """Take a file in; one of another format, or other columns, makes the rows as uneven as JSONL's."""
        if self._is_first:
            self._is_first = False
            self.format, self.is_table = source.format, source.is_table
            self.delimiter, self.is_marked = source.delimiter, source.is_marked
            self.arrow_types = dict(source.arrow_types)
        elif source.format != self.format:
            self.format, self.delimiter, self.arrow_types = "jsonl", None, {}
        else:
            self._unite_types(source)
        self.is_table = (
            self.is_table and source.is_table and source.columns == tuple(self.columns or source.columns)
        )
        self.columns.update(dict.fromkeys(source.columns))

    def _unite_types(self, source: Source) -> None:
        """Keep the type of a column only if all files agree on it."""
        for name, kind in source.arrow_types.items():
            if name not in self.columns:
                self.arrow_types[name] = kind
            elif self.arrow_types.get(name) != kind:
                self.arrow_types.pop(name, None)
