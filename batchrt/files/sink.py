"""The base class of sinks, to which output rows are written one at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

from batchrt.files.cells import error_line
from batchrt.files.flattening import Flattening
from batchrt.files.formats import Format
from batchrt.files.output_file import Closeable

__all__ = ["Sink"]

_MOST_NAMES: Final = 20
_ALWAYS_ADDED: Final = 2


class Sink(Closeable):
    """Write rows to a file, in the order they are given.

    Args:
        path: the file's name.
        kind: its format.
        columns: the input's columns.
        added: the columns of a flattened output's fields, of the output, the error, and the finish reason if
            there is to be one.
        flattening: splits outputs into their fields.

    Attributes:
        path: the file's name as it was given, `stdout` for `"-"`.
        format: `csv`, `tsv`, `jsonl` or `parquet`.
        columns: the input's columns, those of a flattened output's fields, then the output's, the error's and
            the finish reason's, if there is one.
        left_out: names of values without a place: in CSV, TSV and Parquet those that are not among `columns`,
            in Parquet also those of another type than their column, in JSONL those that a row has under the
            name of an added column. At most twenty names are kept.
        rows_short: the number of rows with such values.
    """

    def __init__(
        self,
        path: str,
        kind: Format,
        columns: Sequence[str],
        added: tuple[str, ...],
        flattening: Flattening | None = None,
    ) -> None:
        self.path: str = path
        self.format = kind
        self.columns: tuple[str, ...] = (*columns, *added)
        self.left_out: set[str] = set()
        self.rows_short: int = 0
        self._inputs = tuple(columns)
        self._added = added
        self._flattening = flattening
        fields = 0 if flattening is None else len(flattening.kinds)
        self._has_reasons = len(added) > _ALWAYS_ADDED + fields

    def write(
        self,
        values: Mapping[str, Any],
        output: object = None,
        error: BaseException | str | None = None,
        finish_reason: str | None = None,
    ) -> None:
        """Write one row: the input's `values`, and its output or error.

        Strings are written as they are. Everything else is JSON: nested in JSONL, as the text of a field in
        CSV and TSV, where `None` is an empty field. In Parquet, input columns have their types, and an output
        is a text. `finish_reason` is only written if it has a column.

        Raises:
            OutputClosedError: the reader of the output has closed it.
            OutputError: the output cannot be written to.
        """
        line = None if error is None else error_line(error)
        if self._flattening is not None:
            fields, rest = self._flattening.split(output)
            last = (*fields, rest, line, finish_reason)
            self._put(values, last if self._has_reasons else last[:-1])
        else:
            self._put(values, (output, line, finish_reason) if self._has_reasons else (output, line))

    @abstractmethod
    def flush(self) -> None:
        """Hand the rows written so far to the operating system, as far as the format allows."""

    @abstractmethod
    def _put(self, values: Mapping[str, Any], last: tuple[Any, ...]) -> None:
        """Write one row; `last` are the values of the added columns."""

    def _leave_out(self, names: set[str]) -> None:
        self.rows_short += 1
        room = _MOST_NAMES - len(self.left_out)
        self.left_out.update(sorted(names - self.left_out)[: max(0, room)])
