"""Text sinks: output rows as JSONL, CSV or TSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

from batchrt.files.cells import cell, encodable_text, json_text
from batchrt.files.flattening import Flattening
from batchrt.files.formats import Format
from batchrt.files.output_file import OutputFile, TextOutput
from batchrt.files.sink import Sink

__all__ = ["JsonSink", "TableSink", "encode_table"]


class _TextSink(TextOutput, Sink):
    def __init__(
        self,
        file: OutputFile,
        kind: Format,
        columns: Sequence[str],
        added: tuple[str, ...],
        flattening: Flattening | None = None,
    ) -> None:
        super().__init__(file.path, kind, columns, added, flattening)
        self._file = file


class JsonSink(_TextSink):
    """Write one JSON object a line."""

    def _put(self, values: Mapping[str, Any], last: tuple[Any, ...]) -> None:
        row = dict(values)
        if not row.keys().isdisjoint(self._added):
            self._leave_out(row.keys() & set(self._added))
            for name in self._added:  # the last columns, in every row
                row.pop(name, None)
        row.update(zip(self._added, last, strict=True))
        self._file.put(json_text(row) + "\n")


class TableSink(_TextSink):
    """Write CSV or TSV: a header, then one record a row."""

    def __init__(
        self,
        file: OutputFile,
        kind: Format,
        columns: Sequence[str],
        added: tuple[str, ...],
        flattening: Flattening | None = None,
        *,
        delimiter: str,
    ) -> None:
        super().__init__(file, kind, columns, added, flattening)
        self._known = frozenset(columns)
        self._record = _Record()
        # The csv module quotes a lone \r only if it is part of the line end: so that is \r\n for the module,
        # and \n in the file.
        self._writer = csv.writer(self._record, delimiter=delimiter, lineterminator="\r\n")
        self._writer.writerow(self.columns)
        file.put_header(self._record.text[:-2] + "\n")

    def _put(self, values: Mapping[str, Any], last: tuple[Any, ...]) -> None:
        if not values.keys() <= self._known:
            self._leave_out(set(values.keys() - self._known))
        get = values.get
        fields = [cell(get(column)) for column in self._inputs]
        fields += map(cell, last)
        self._writer.writerow(fields)
        self._file.put(self._record.text[:-2] + "\n")


class _Record:
    """The last record that the csv writer wrote; it writes one at a time."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text


def encode_table(text: str) -> bytes:
    """Return a table's text as UTF-8."""
    # Unencodable characters become U+FFFD, and so does NUL: `open_source` would refuse the row.
    return encodable_text(text.replace("\0", "\ufffd")).encode()
