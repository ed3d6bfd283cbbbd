"""Sinks: opened by their paths."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from batchrt.errors import InputError
from batchrt.files.arrow import pyarrow
from batchrt.files.destinations import open_new_file
from batchrt.files.encodings import OUTPUT_ENCODINGS
from batchrt.files.flattening import FieldKind, Flattening
from batchrt.files.formats import (
    DELIMITERS,
    STANDARD_STREAM,
    TEXT_TABLES,
    Format,
    check_delimiter,
    choose_format,
)
from batchrt.files.output_file import encode_json, open_output
from batchrt.files.parquet_file import ParquetFile
from batchrt.files.parquet_sink import ParquetSink
from batchrt.files.sink import Sink
from batchrt.files.source import Source
from batchrt.files.text_sinks import JsonSink, TableSink, encode_table

__all__ = ["open_sink"]


def open_sink(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str],
    output_column: str = "output",
    error_column: str | None = None,
    format: str | None = None,  # noqa: A002
    overwrite: bool = False,
    source: Source | None = None,
    rebuildable: bool = False,
    finish_reasons: bool = False,
    flatten: Mapping[str, FieldKind] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Sink:
    """Open `path` for rows of `columns` followed by an output and an error.

    `"-"` is stdout, JSONL unless `format` says otherwise; else the suffix decides, and `.gz` or
    `.zst` after it compresses. `error_column` is by default `error`, and `{output_column}_error` beside an
    output column of another name, so that an output can be the input of a second run. With `source`
    given, its own file is refused even when `overwrite` is allowed.

    Args:
        path: the file to write.
        columns: the input's.
        output_column: the answer's.
        error_column: the error's.
        format: `csv`, `tsv`, `jsonl` or `parquet`, if the suffix does not tell.
        overwrite: replace an existing file once the new one is complete (see `NewFile`).
        rebuildable: the rows can be written again, as from a journal: an earlier partial file is replaced.
        source: the origin of the rows. A CSV is written like a CSV that is read: with its delimiter, and with
            a byte order mark if it has one.
        finish_reasons: add a third column, `finish_reason`, or `{output_column}_finish_reason`.
        flatten: add columns for these fields of an output that is an object, before `output_column`, which is
            empty then if they hold all of it (see `Flattening` and `fields_of_schema`).
        delimiter: the character between the fields of a CSV; else `source`'s, else a comma.
        encoding: `utf-8`, or `utf-8-sig` for a byte order mark, by which spreadsheets recognise UTF-8.

    Raises:
        InputError: a name is taken, the format is unknown, or the file exists, is the input, or cannot be
            created. Nothing is written then.
    """
    name = os.fspath(path)
    prefix = "" if output_column == "output" else f"{output_column}_"
    if error_column is None:
        error_column = f"{prefix}error"
    added = (output_column, error_column, *([f"{prefix}finish_reason"] if finish_reasons else []))
    reasons, flattening = added[1:], None
    kind = "jsonl" if name == STANDARD_STREAM and format is None else choose_format(name, format)
    check_delimiter(delimiter, kind)
    _check_names(columns, added)
    if flatten is not None:
        flattening = Flattening(flatten, {*columns, *added}, output_column)
        added = (*flattening.kinds, *added)
    mark = _is_marked(kind, encoding, source)
    if kind == "parquet":
        _check_pyarrow(name)
        new = open_new_file(name, overwrite=overwrite, source=source, rebuildable=rebuildable, in_place=False)
        file = ParquetFile(new, dictionaries=reasons)
        return ParquetSink(file, columns, added, {} if source is None else source.arrow_types, flattening)
    encode = encode_json if kind == "jsonl" else encode_table
    text = open_output(name, encode, overwrite=overwrite, source=source, rebuildable=rebuildable)
    if mark:
        text.put_header("\ufeff")
    if kind == "jsonl":
        return JsonSink(text, kind, columns, added, flattening)
    return TableSink(
        text, kind, columns, added, flattening, delimiter=delimiter or _delimiter_like(kind, source)
    )


def _check_pyarrow(name: str) -> None:
    try:
        pyarrow(instead=", or write .csv or .jsonl")
    except ImportError as error:
        raise InputError(f"{name}: {error}", path=name) from error


def _is_marked(kind: Format, encoding: str | None, source: Source | None) -> bool:
    """Return whether the output begins with a byte order mark, which JSON must not have (RFC 8259, 8.1)."""
    if encoding is not None and encoding not in OUTPUT_ENCODINGS:
        names = " or ".join(OUTPUT_ENCODINGS)
        raise InputError(f"an output is written as {names}, not {encoding[:40]!r}")
    if kind not in TEXT_TABLES:
        return False
    if encoding is None:
        return source is not None and source.format in TEXT_TABLES and source.is_marked
    return encoding == "utf-8-sig"


def _delimiter_like(kind: Format, source: Source | None) -> str:
    if kind == "csv" and source is not None and source.format == "csv" and source.delimiter is not None:
        return source.delimiter
    return DELIMITERS[kind]


def _check_names(columns: Sequence[str], added: tuple[str, ...]) -> None:
    if len(set(added)) < len(added):
        message = f"output and error cannot both be called {added[0]!r}; rename one"
        raise InputError(message, column=added[0])
    for name in added:
        if name in columns:
            message = f"the input has a column {name!r} already; choose another with `output_column`"
            raise InputError(message, column=name, parameter="output_column")
