"""Sources: opened by their paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from batchrt.errors import InputError
from batchrt.files.compression import DECOMPRESSION_ERRORS
from batchrt.files.encodings import find_encoding
from batchrt.files.formats import STANDARD_STREAM, check_delimiter, choose_format, os_problem
from batchrt.files.merged_source import MergedSource
from batchrt.files.parquet_source import ParquetSource
from batchrt.files.paths import expand_paths
from batchrt.files.remote import is_remote, shown_name
from batchrt.files.source import Source
from batchrt.files.streams import open_stream
from batchrt.files.table_source import TableSource
from batchrt.files.text_source import TextSource

__all__ = ["open_source"]


def open_source(
    path: Any,
    *,
    format: str | None = None,  # noqa: A002
    delimiter: str | None = None,
    encoding: str | None = None,
    follow: bool = False,
) -> Source:
    """Open `path` for reading, with its columns known and no row read further than needed.

    `"-"` is stdin and needs `format`; else the suffix decides (`.csv`, `.tsv`, `.jsonl`, `.ndjson`,
    `.parquet`). Gzip and Zstandard are recognised by their first bytes, whatever the name. Several files are
    read as one, with the columns of all of them (see `MergedSource`).

    Args:
        path: the file, an address such as `s3://bucket/key` (by fsspec), a pattern such as `data/*.jsonl`,
            whose files are read in the order of their names, or several of these; or an object with rows: a
            data frame, an Arrow table, a data set, an iterable of dicts (see `TableSource`).
        format: `csv`, `tsv`, `jsonl` or `parquet`, if the suffix does not tell.
        delimiter: the character between the fields of a CSV. By default it is detected: a comma, or a
            semicolon, tab or bar where the header has no comma.
        encoding: Python's name of the text's encoding; UTF-8 by default. Neither of these two is for Parquet.
        follow: wait for more rows at the end of the file, which grows, until the source is closed. For a
            single uncompressed CSV, TSV or JSONL file of this machine, or a pipe.

    Raises:
        InputError: the file cannot be opened, its format is unknown, it is empty, or its header is unusable.
            One line that names the file and the remedy.
    """
    given = _paths_of(path)
    if given is None:
        return TableSource(path)
    names = expand_paths([os.fspath(each) for each in given])
    for name in names:  # before any is opened
        check_delimiter(delimiter, choose_format(name, format))
    if follow and (len(names) > 1 or is_remote(names[0]) or choose_format(names[0], format) == "parquet"):
        raise InputError("one CSV, TSV or JSONL file can be followed, or a pipe", parameter="follow")
    opened = partial(_open_one, format=format, delimiter=delimiter, encoding=encoding, follow=follow)
    return opened(names[0]) if len(names) == 1 else MergedSource(names, opened)


def _paths_of(data: Any) -> Sequence[str | os.PathLike[str]] | None:
    """Return the paths that are given, or `None` for an object with rows."""
    if isinstance(data, str | os.PathLike):
        return [data]
    is_list = isinstance(data, list | tuple) and all(isinstance(each, str | os.PathLike) for each in data)
    return data if is_list else None


def _open_one(
    name: str,
    format: str | None,  # noqa: A002
    delimiter: str | None,
    encoding: str | None,
    *,
    follow: bool,
) -> Source:
    kind = choose_format(name, format)
    label = "stdin" if name == STANDARD_STREAM else shown_name(name)
    new_decoder = None if encoding is None else find_encoding(encoding)
    try:
        stream = open_stream(name, follow=follow)
        if kind == "parquet":
            return ParquetSource(stream)
        return TextSource(stream, kind, delimiter=delimiter, new_decoder=new_decoder)
    except OSError as error:
        raise InputError(f"{label}: {os_problem(error)}", path=label) from error
    except UnicodeError as error:
        raise InputError(f"{label}: it is not {encoding}: {error}", path=label) from error
    except DECOMPRESSION_ERRORS as error:
        raise InputError(f"{label}: the gzip or zst data is broken; {error}", path=label) from error
    except ImportError as error:
        raise InputError(f"{label}: {error}", path=label) from error
