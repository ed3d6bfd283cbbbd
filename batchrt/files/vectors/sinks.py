"""Sinks for vectors: .npy, Parquet and JSONL files, or stdout."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypedDict, get_args

from batchrt.errors import InputError
from batchrt.files.arrow import pyarrow
from batchrt.files.compression import bare_name, compression_of
from batchrt.files.destinations import open_new_file
from batchrt.files.formats import STANDARD_STREAM, known_format
from batchrt.files.new_file import NewFile
from batchrt.files.output_file import OutputFile, encode_json, open_output
from batchrt.files.source import Source
from batchrt.files.vectors.base import Kind, VectorFormat, VectorSink
from batchrt.files.vectors.jsonl import JsonlSink
from batchrt.files.vectors.npy import NpySink
from batchrt.files.vectors.parquet import ParquetSink

__all__ = ["open_vector_sink"]

_FORMATS: Final[tuple[VectorFormat, ...]] = get_args(VectorFormat)
_SUFFIXES: Final[dict[str, VectorFormat]] = {
    ".npy": "npy",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_SAY_WHICH: Final = "name it .npy, .parquet or .jsonl, or say which with `format`"


def open_vector_sink(
    path: str | os.PathLike[str],
    *,
    columns: Mapping[str, Kind],
    width: int | None = None,
    format: str | None = None,  # noqa: A002
    overwrite: bool = False,
    source: Source | None = None,
    rebuildable: bool = False,
) -> VectorSink:
    """Open `path` for vectors, each with the values of `columns` beside it.

    `"-"` is stdout, as JSONL; else the suffix decides. `.gz` or `.zst` after `.jsonl` compresses.
    `vectors.npy` has room for numbers only, so the values go to `vectors.ids.jsonl`.

    Args:
        path: the file to write.
        columns: names and types of the values. Parquet stores the types; the other formats write the values
            as they are.
        width: the number of dimensions of a vector, if it is known.
        format: `npy`, `parquet` or `jsonl`, if the suffix does not tell.
        overwrite: replace an existing file once the new one is complete (see `NewFile`).
        source: the origin of the rows; its own file is refused even with `overwrite`.
        rebuildable: the vectors can be written again, as from a journal: an earlier partial file is replaced.

    Raises:
        InputError: the format is unknown, or a file exists, is the input, or cannot be created. Nothing is
            written then.
        ImportError: Parquet needs pyarrow.
    """
    name = os.fspath(path)
    kind = _choose_format(name, format)
    opened = _Opening(overwrite=overwrite, source=source, rebuildable=rebuildable)
    if kind == "jsonl":
        return JsonlSink(open_output(name, encode_json, **opened), width)
    if name == STANDARD_STREAM:
        raise InputError(f"stdout takes jsonl only; name a file for {kind}", path="stdout")
    if kind == "parquet":
        pyarrow(instead=", or write .npy or .jsonl")
        return ParquetSink(open_new_file(name, **opened, in_place=False), columns, width)
    file, beside = _open_pair(name, opened)
    return NpySink(file, beside, width)


class _Opening(TypedDict):
    overwrite: bool
    source: Source | None
    rebuildable: bool


def _choose_format(path: str, explicit: str | None) -> VectorFormat:
    if explicit is not None:
        return known_format(explicit, _FORMATS, path)
    if path == STANDARD_STREAM:
        return "jsonl"
    lower = path.lower()
    suffix = Path(bare_name(lower)).suffix
    if suffix not in _SUFFIXES:
        named = f"the suffix {suffix!r} is none of a file of vectors" if suffix else "it has no suffix"
        raise InputError(f"{path}: {named}; {_SAY_WHICH}", path=path, parameter="format")
    packed = compression_of(path)
    if packed is not None and _SUFFIXES[suffix] != "jsonl":
        raise InputError(f"{path}: {suffix} is not compressed like this; leave .{packed} out", path=path)
    return _SUFFIXES[suffix]


def _open_pair(path: str, opened: _Opening) -> tuple[NewFile, OutputFile]:
    """Open both files or neither."""
    is_new = not os.path.exists(path)  # noqa: PTH110  unlike Path's it raises nothing
    with ExitStack() as undo:
        file = open_new_file(path, **opened, in_place=not opened["rebuildable"])
        if is_new:
            undo.callback(Path(path).unlink, missing_ok=True)
        undo.callback(file.close, complete=False, keep=False)
        if not stat.S_ISREG(os.fstat(file.stream.fileno()).st_mode):
            problem = "the head of an .npy file is written last; name a regular file, or use jsonl"
            raise InputError(f"{path}: {problem}", path=path)
        beside = open_output(_beside(path), encode_json, **opened)
        undo.pop_all()
    return file, beside


def _beside(path: str) -> str:
    stem = path[: -len(".npy")] if path.lower().endswith(".npy") else path
    return f"{stem}.ids.jsonl"
