"""Destinations of outputs: files of this machine, and remote ones."""

from __future__ import annotations

from batchrt.files.new_file import NewFile, open_local_file
from batchrt.files.remote import is_remote, local_path
from batchrt.files.source import Source
from batchrt.files.uploaded_file import open_upload

__all__ = ["open_new_file"]


def open_new_file(
    path: str, *, overwrite: bool, source: Source | None, rebuildable: bool = False, in_place: bool = True
) -> NewFile:
    """Open `path` for writing, by fsspec if it is an address such as `s3://bucket/key`.

    A new file that can be read as it grows is written `in_place` (see `NewFile`).

    Raises:
        InputError: `path` is a file that `source` reads, exists and `overwrite` is false, is written by
            another process, or cannot be created; or a library is missing.
    """
    if is_remote(path):
        return open_upload(path, overwrite=overwrite, source=source, rebuildable=rebuildable)
    return open_local_file(
        local_path(path), overwrite=overwrite, source=source, rebuildable=rebuildable, in_place=in_place
    )
