"""Errors of a journal: a failed system or database call, with the path and the remedy."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from batchrt.errors import JournalError, JournalFault

__all__ = ["journal_error", "translated"]

_REMEDIES: Final[dict[JournalFault, str]] = {
    "full": "the disk is full; make room and run the job again: it goes on with the rows that are missing",
    "io": "the disk cannot be read or written; check it, or copy the journal to another one",
    "permission": "it cannot be written; check the permissions of file and folder, or name another path",
    "locked": "another process has it open; wait for its end, or name another journal",
    "corrupt": "it is damaged or no journal; check the path, or begin anew (`fresh` keeps the old file)",
    "version": "another version of batchrt wrote it; use that one, or begin anew (`fresh`) and keep it aside",
    "path": "it cannot be opened; check the path and its folder",
}

_BY_CODE: Final[dict[int, JournalFault]] = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_PERM: "permission",
    sqlite3.SQLITE_READONLY: "permission",
    sqlite3.SQLITE_CANTOPEN: "permission",
    sqlite3.SQLITE_AUTH: "permission",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_PROTOCOL: "locked",
    sqlite3.SQLITE_ERROR: "corrupt",  # as for a table or a column that is missing
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
}
_BY_ERRNO: Final[dict[int, JournalFault]] = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EFBIG: "full",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
    errno.ENOENT: "path",
    errno.ENOTDIR: "path",
    errno.EISDIR: "path",
}


def journal_error(path: str, fault: JournalFault, detail: str = "") -> JournalError:
    """Return the error of a journal at `path`."""
    reason = f" ({detail})" if detail else ""
    return JournalError(f"the journal {path}: {_REMEDIES[fault]}{reason}", path=path, fault=fault)


def _fault_of(error: BaseException) -> JournalFault:
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, "io")
    # The low byte is the primary code (https://www.sqlite.org/rescode.html); Python's own errors have none.
    return _BY_CODE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "io")


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise errors of the block's system and database calls as `JournalError`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        # The text of an OSError names the lock file; the message already has the journal's path.
        detail = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise journal_error(path, _fault_of(error), detail) from error
