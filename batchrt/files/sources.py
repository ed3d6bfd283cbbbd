"""Sources: opened by their paths."""

from __future__ import annotations

import os

from batchrt.errors import InputError
from batchrt.files.compression import DECOMPRESSION_ERRORS
from batchrt.files.encodings import find_encoding
from batchrt.files.formats import STANDARD_STREAM, check_delimiter, choose_format, os_problem
from batchrt.files.parquet_source import ParquetSource
from batchrt.files.source import Source
from batchrt.files.streams import open_stream
from batchrt.files.text_source import TextSource

__all__ = ["open_source"]


def open_source(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Source:
    """Open `path` for reading, with its columns known and no row read further than needed.

    `"-"` is stdin and needs `format`; else the suffix decides (`.csv`, `.tsv`, `.jsonl`, `.ndjson`,
    `.parquet`). Gzip and Zstandard are recognised by their first bytes, whatever the name.

    Args:
        path: the file.
        format: `csv`, `tsv`, `jsonl` or `parquet`, if the suffix does not tell.
        delimiter: the character between the fields of a CSV. By default it is detected: a comma, or a
            semicolon, tab or bar where the header has no comma.
        encoding: Python's name of the text's encoding; UTF-8 by default.

    Raises:
        InputError: the file cannot be opened, its format is unknown, it is empty, or its header is unusable.
            One line that names the file and the remedy.
    """
    name = os.fspath(path)
    kind = choose_format(name, format)
    label = "stdin" if name == STANDARD_STREAM else name
    check_delimiter(delimiter, kind)
    new_decoder = None if encoding is None else find_encoding(encoding)
    try:
        stream = open_stream(name)
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
