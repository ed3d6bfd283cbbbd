"""The output of a job: its rows, written from the journal in the order of the input."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from batchrt.errors import InputError
from batchrt.files import Sink, Source, VectorSink, open_sink
from batchrt.files.arrow import restored
from batchrt.files.formats import STANDARD_STREAM
from batchrt.files.new_file import refuse_source
from batchrt.files.remote import is_remote, local_path, remote_exists, shown_name
from batchrt.jobs.journal_reader import JournalReader
from batchrt.jobs.records import Record, decode_json, decode_output, error_text

__all__ = [
    "OutputLayout",
    "RowWriting",
    "check_output",
    "check_unused",
    "is_free",
    "is_stream",
    "write_output",
]

_COLUMN_ROWS: Final = 20_000
"""Rows whose names become columns of a CSV; as many as are surveyed of a file."""
_ROWS_UNCHECKED: Final = 1000
"""Rows that are written in some milliseconds."""


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Lay out a job's output otherwise than with its input's columns, `output` and `error`.

    Attributes:
        open: opens a sink at a path; it replaces an older file (`overwrite`, `rebuildable`).
        write: writes a row to it: the row's place in the input, the input's values, the recorded output, and
            the error as a line. One of the last two is `None`, unless `refine` has given a row both.
    """

    open: Callable[[str], Sink | VectorSink]
    write: Callable[[Any, int, Mapping[str, Any], Any, str | None], object]


def is_stream(path: str) -> bool:
    """Whether an output is stdout, a pipe or a device, which has no file to replace."""
    with suppress(OSError):
        return path == STANDARD_STREAM or not stat.S_ISREG(Path(path).stat().st_mode)
    return False


def is_free(path: str) -> bool:
    """Whether there is no file at the path of an output; never said of a remote one."""
    return not (is_remote(path) or Path(path).exists())


def check_output(path: str, source: Source | None, layout: OutputLayout | None = None) -> list[str]:
    """Check that the output can be made, before anything is sent, and return the paths of its files.

    Raises:
        InputError: the format is unknown, the name is the input's or that of a column is taken, or the folder
            cannot be written to.
    """
    if path == STANDARD_STREAM:
        _try("stdout.jsonl", source, layout)
        return []
    if is_remote(path):
        with _open(path, () if source is None else source.columns, source, layout) as sink:
            sink.mark_partial()  # so that nothing is uploaded
        return [path]
    target = Path(local_path(path))
    if target.exists():
        refuse_source(path, target.stat(), source)
    if not os.access(target.parent, os.W_OK):
        there = target.parent.exists()
        folder = str(target.parent)
        problem = f"the folder {folder!r} cannot be written to" if there else f"there is no folder {folder!r}"
        raise InputError(f"{path}: {problem}; make it first or name another one", path=path)
    names = _try(path, source, layout)
    return [] if is_stream(path) else [path, *(str(target.parent / name) for name in names)]


def check_unused(paths: Iterable[str]) -> None:
    """Raise InputError if one of the files exists."""
    for path in paths:
        if remote_exists(path) if is_remote(path) else Path(local_path(path)).exists():
            path = shown_name(path)  # noqa: PLW2901
            problem = "the file exists already; name another one or add `overwrite`"
            raise InputError(f"{path}: {problem}", path=path, parameter="overwrite")


def _try(path: str, source: Source | None, layout: OutputLayout | None) -> list[str]:
    """Open an output of this name in another folder, for its errors, and return the names of its files."""
    with TemporaryDirectory() as folder:
        name = str(Path(folder) / Path(path).name)
        try:
            _open(name, () if source is None else source.columns, source, layout).close()
        except InputError as error:
            message = str(error).replace(name, path)
            raise InputError(message, path=path, column=error.column, parameter=error.parameter) from None
        return [made.name for made in Path(folder).iterdir()]


def write_output(
    journal: str,
    path: str,
    source: Source | None,
    *,
    rows: int | None = None,
    failed: bool = False,
    layout: OutputLayout | None = None,
    check: Callable[[], object] = lambda: None,
) -> int:
    """Write rows of a journal to `path`, replacing what is there, and return their number.

    Args:
        journal: the journal's path.
        path: the output's.
        source: the file that the rows come from, or `None`.
        rows: of so many rows of the input; by default of all.
        failed: those that failed alone.
        layout: of the file; by default that of its source.
        check: called now and then; its error ends the writing, and the old file is unchanged.

    Raises:
        InputError: the file cannot be created.
        OutputError: it cannot be written; an older one is unchanged.
        JournalError: the journal cannot be read.
    """
    with JournalReader(journal) as reader:
        writing = RowWriting(path, source, layout)
        with writing.open(given for _, given, _ in islice(reader.records(), _COLUMN_ROWS)) as sink:
            count = 0
            for place, given, record in reader.records(rows, failed=failed):
                writing.write(sink, place, given, record)
                count += 1
                if count % _ROWS_UNCHECKED == 0:
                    check()
    return count


def _open(
    path: str, columns: Sequence[str], source: Source | None, layout: OutputLayout | None
) -> Sink | VectorSink:
    if layout is not None:
        return layout.open(path)
    return open_sink(path, columns=columns, overwrite=True, source=source, rebuildable=True)


def _write(sink: Any, _place: int, values: Mapping[str, Any], output: Any, error: str | None) -> None:
    sink.write(values, output, error)


class RowWriting:
    """Write recorded rows to an output.

    Args:
        path: the output's.
        source: the file that the rows come from, or `None`.
        layout: of the file; by default that of its source.
    """

    def __init__(self, path: str, source: Source | None, layout: OutputLayout | None) -> None:
        self._path = path
        self._source = source
        self._layout = layout
        types = {} if source is None else source.arrow_types
        # Columns with bytes are text in JSON.
        self._binary = {name: kind for name, kind in types.items() if "binary" in str(kind)}
        self._put = _write if layout is None else layout.write

    def open(self, inputs: Iterable[str]) -> Sink | VectorSink:
        """Open the output, replacing what is there; `inputs` have the columns if nothing else does."""
        columns: Sequence[str] = ()
        if self._layout is None:
            columns = _columns(inputs) if self._source is None else self._source.survey()
        return _open(self._path, columns, self._source, self._layout)

    def write(self, sink: Sink | VectorSink, place: int, given: str, record: Record) -> None:
        """Write the row at a place of the input."""
        output = None if record.output is None else decode_output(record.output)
        error = None if record.error is None else error_text(record.error)
        values = _values(decode_json(given))
        for name, kind in self._binary.items():
            if name in values:
                values[name] = restored(values[name], kind)
        self._put(sink, place, values, output, error)


def _columns(inputs: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the columns of inputs that are objects."""
    names: dict[str, None] = {}
    for given in inputs:
        names.update(dict.fromkeys(_values(decode_json(given))))
    return tuple(names)


def _values(value: Any) -> dict[str, Any]:
    """Return an input as columns; one that is no object has the column `input`."""
    return value if isinstance(value, dict) else {"input": value}
