"""New files: written in place, or beside the file that they replace."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Final

from batchrt.errors import InputError, OutputClosedError, OutputError
from batchrt.files.formats import os_problem
from batchrt.files.source import Source

__all__ = ["PARTIAL", "NewFile", "open_local_file", "refuse_source", "write_error"]

_UNFINISHED: Final = ".unfinished"
PARTIAL: Final = ".partial"
"""Suffix of a file that did not replace an old one."""
_DESCRIPTORS: Final = ("/dev/", "/proc/")
"""Names of open descriptors, such as /dev/stdout: a file that replaced theirs is not theirs."""
_PRIVATE: Final = 0o600
_GROUP_BITS: Final = 0o070
_OTHER_BITS: Final = 0o007
_LONGEST_NAME: Final = 255
"""Bytes of a file's name on the usual file systems."""
_ATTEMPTS: Final = 5
_RENAMES_OPEN_FILES: Final = os.name != "nt"


class NewFile:
    """Hold the file that an output is written to until it is closed.

    - A path without a file, with an empty one, or with a device or a pipe (`/dev/stdout`) is written in
      place: there is nothing to lose, and rows can be read (`tail -f`) as they come.
    - A file with content is replaced: the new one is `.NAME.unfinished` in the same folder, so that the
      rename is atomic. It takes the old one's name once it is complete and on the disk; until then the old
      one is unchanged. A file that is closed before it is complete becomes `NAME.partial`, or
      `NAME.partial.2` if that exists.
    - A Parquet file, which cannot be read before it is closed, takes its name then, even where there is no
      old one: what has the name can be read.

    Owner, mode and symbolic links stay; other hard links to the old file keep the old content. The unfinished
    file is locked: a second process is refused. A file whose process was killed becomes `NAME.partial`; if
    it cannot be read, it is deleted.

    Args:
        stream: the file; closed with this object.
        path: its name as it was given.
        target: the name that the file takes, or `None` for a file that is written in place.
        is_new: whether no old file has this name.
        unfinished: the name of the new one until it replaces `target`.
        rebuildable: its rows can be written again, as from a journal: an earlier partial file is replaced.

    Attributes:
        kept_old: after `close`, whether the old file is unchanged.
        partial_paths: after `close`, the name of a file that did not replace the old one, if it was kept.
        left_over_paths: the names of files of processes that were killed while they replaced the same file.
    """

    def __init__(
        self,
        stream: io.FileIO,
        path: str,
        *,
        target: str | None = None,
        is_new: bool = False,
        unfinished: str = "",
        rebuildable: bool = False,
        left_over_paths: tuple[str, ...] = (),
    ) -> None:
        self.stream: io.FileIO = stream
        self.path: str = path
        self.kept_old: bool = False
        self.partial_paths: tuple[str, ...] = ()
        self.left_over_paths: tuple[str, ...] = left_over_paths
        self._target = target
        self._is_new = is_new
        self._unfinished = unfinished
        self._rebuildable = rebuildable

    @property
    def replaces(self) -> bool:
        """Whether there is an old file, which stays until this one is complete."""
        return self._target is not None and not self._is_new

    def close(self, *, complete: bool, keep: bool = True) -> None:
        """Close the file and put it in its place. Idempotent.

        Args:
            complete: replace the old file.
            keep: otherwise keep this file, beside the old one if there is one; else it is deleted.

        Raises:
            OutputError: the file cannot be closed, or cannot replace the old one; says where the rows are.
        """
        if self.stream.closed:
            return
        try:
            if self._target is not None:
                self._settle(self._target, complete=complete, keep=keep)
        finally:
            self._close_stream(failed=sys.exc_info()[0] is not None)

    def _settle(self, target: str, *, complete: bool, keep: bool) -> None:
        if not _RENAMES_OPEN_FILES:
            os.fsync(self.stream.fileno())
            self.stream.close()
        self.kept_old = not complete and not self._is_new
        if complete or (keep and self._is_new):
            self._put_in_place(target)
        elif keep:
            self.partial_paths = (_set_aside(self._unfinished, target, replace=self._rebuildable),)
        else:
            with suppress(OSError):
                Path(self._unfinished).unlink()

    def _put_in_place(self, target: str) -> None:
        try:
            # Renamed before its data are on the disk, it would be empty after a crash of the machine.
            if _RENAMES_OPEN_FILES:
                os.fsync(self.stream.fileno())
            if self._is_new:
                _rename_to_unused(self._unfinished, iter([target]))
            else:
                Path(self._unfinished).replace(target)
        except OSError as error:
            kept = _set_aside(self._unfinished, target, replace=self._rebuildable)
            self.kept_old, self.partial_paths = True, (kept,)
            verb = "made" if self._is_new else "replaced"
            problem = f"cannot be {verb}: {os_problem(error)}; the new file is {kept}"
            raise OutputError(f"{self.path}: {problem}", path=self.path) from error
        _sync_folder(target)

    def _close_stream(self, *, failed: bool) -> None:
        try:
            self.stream.close()
        except OSError as error:  # a network file system may report a lost write only now
            if not failed:
                raise write_error(self.path, error) from error


def open_local_file(
    path: str, *, overwrite: bool, source: Source | None, rebuildable: bool = False, in_place: bool = True
) -> NewFile:
    """Open `path` for writing; a new file that cannot be read before it is closed, not `in_place`.

    Raises:
        InputError: `path` is a file that `source` reads, exists and `overwrite` is false, is written by
            another process, or cannot be created.
    """
    try:
        status: os.stat_result | None = Path(path).stat()
    except OSError:  # missing or out of reach: opening it tells which
        status = None
    if status is not None:
        refuse_source(path, status, source)
    try:
        if status is None and not in_place:
            _check_unused(path, overwrite=overwrite)
            return _open_beside(path, None, rebuildable=rebuildable, salvage=False)
        if status is not None and overwrite and _has_content(path, status):
            return _open_beside(path, status, rebuildable=rebuildable, salvage=in_place)
        return NewFile(_open_in_place(path, status, overwrite=overwrite), path)
    except OSError as error:
        parameter = "overwrite" if isinstance(error, FileExistsError) else None
        raise InputError(f"{path}: {_open_problem(path, error)}", path=path, parameter=parameter) from error


def _has_content(path: str, status: os.stat_result) -> bool:
    """Return whether this is a non-empty regular file with a name of its own, not a descriptor's."""
    return stat.S_ISREG(status.st_mode) and status.st_size > 0 and not path.startswith(_DESCRIPTORS)


def _open_in_place(path: str, status: os.stat_result | None, *, overwrite: bool) -> io.FileIO:
    if status is not None and (overwrite or not stat.S_ISREG(status.st_mode)):
        # Only a regular file has content to lose; a device or a named pipe is named on purpose.
        return io.FileIO(path, "w")
    # A link to a file that is gone is replaced by the file, not by an error that it exists.
    return io.FileIO(os.path.realpath(path) if overwrite else path, "x")


def _check_unused(path: str, *, overwrite: bool) -> None:
    """Raise FileExistsError for a link to no file, as opening a new file does."""
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _open_beside(path: str, status: os.stat_result | None, *, rebuildable: bool, salvage: bool) -> NewFile:
    target = os.path.realpath(path) if Path(path).is_symlink() else path
    if status is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    unfinished = _sibling(target, ".", _UNFINISHED)
    left_over: list[str] = []
    for _ in range(_ATTEMPTS):
        try:
            stream = io.FileIO(unfinished, "x", opener=None if status is None else _open_private)
        except FileExistsError:
            left_over += _clear_left_over(path, unfinished, target, salvage=salvage and not rebuildable)
            continue
        except PermissionError as error:
            folder = str(Path(target).parent)
            use = "" if status is None else " to replace it"
            problem = f"no file can be made in {folder!r}{use}; allow that or name another file"
            raise InputError(f"{path}: {problem}", path=path) from error
        if not _lock(stream):  # another process found it in the moment after it was made
            stream.close()
            raise _is_written(path)
        if status is not None:
            _take_over(stream, status)
        return NewFile(
            stream,
            path,
            target=target,
            is_new=status is None,
            unfinished=unfinished,
            rebuildable=rebuildable,
            left_over_paths=tuple(left_over),
        )
    raise _is_written(path)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, _PRIVATE)


def _take_over(stream: io.FileIO, status: os.stat_result) -> None:
    """Give a new file the owner and the mode of the old one, as far as the system allows."""
    mode = stat.S_IMODE(status.st_mode)
    if hasattr(os, "fchown"):
        try:
            os.fchown(stream.fileno(), status.st_uid, status.st_gid)
        except OSError:
            if os.fstat(stream.fileno()).st_gid != status.st_gid:
                # The new file has another group, which gets the permissions of others.
                mode = (mode & ~_GROUP_BITS) | (mode & _OTHER_BITS) << 3
    if hasattr(os, "fchmod"):
        os.fchmod(stream.fileno(), mode)


def _clear_left_over(path: str, unfinished: str, target: str, *, salvage: bool) -> list[str]:
    """Set the file of a killed process aside, and return its new name; without use, it is deleted.

    Raises:
        InputError: its process is alive.
    """
    with suppress(FileNotFoundError), io.FileIO(unfinished, "r+") as stream:
        if not _lock(stream):
            raise _is_written(path)
        status = os.fstat(stream.fileno())
        if not os.path.samestat(status, Path(unfinished).stat()):
            return []  # it was renamed before it was locked
        if status.st_size and salvage:
            return [_set_aside(unfinished, target, replace=False)]
        Path(unfinished).unlink()
    return []


def _is_written(path: str) -> InputError:
    problem = "another process is replacing this file; wait for its end or name another file"
    return InputError(f"{path}: {problem}", path=path)


def _set_aside(unfinished: str, target: str, *, replace: bool) -> str:
    """Rename an unfinished file to one beside `target`, and return that; its own name if it cannot be."""
    try:
        if replace:
            name = _sibling(target, "", PARTIAL)
            Path(unfinished).replace(name)
            return name
        names = chain(
            [_sibling(target, "", PARTIAL)],
            (_sibling(target, "", f"{PARTIAL}.{number}") for number in count(2)),
        )
        return _rename_to_unused(unfinished, names)
    except OSError:
        return unfinished


def _rename_to_unused(unfinished: str, names: Iterator[str]) -> str:
    """Rename a file to the first of `names` that is no file yet, and return it.

    Raises:
        OSError: each is one, or the file cannot be renamed.
    """
    for name in names:
        try:
            os.link(unfinished, name)  # unlike a rename, it replaces nothing
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links
            if os.path.lexists(name):
                continue
            Path(unfinished).rename(name)
            return name
        Path(unfinished).unlink()
        return name
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _sibling(path: str, before: str, after: str) -> str:
    """Return the path of a file beside `path`, whose name is cut if the system allows no longer one."""
    folder, name = os.path.split(path)
    room = _LONGEST_NAME - len(before) - len(after)
    if len(os.fsencode(name)) > room:
        name = os.fsencode(name)[:room].decode(errors="ignore")
    return str(Path(folder) / f"{before}{name}{after}") if folder else f"{before}{name}{after}"


def _sync_folder(path: str) -> None:
    """Sync a rename to the disk, if the file system can sync folders."""
    with suppress(OSError):
        descriptor = os.open(Path(path).parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


if sys.platform == "win32":

    def _lock(stream: io.FileIO) -> bool:  # noqa: ARG001  a file in use cannot be renamed there
        return True

else:
    import fcntl

    def _lock(stream: io.FileIO) -> bool:
        """Return whether no other process has locked the file; it is locked until it is closed."""
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in {errno.EWOULDBLOCK, errno.EAGAIN}  # else there are no locks here
        return True


def refuse_source(path: str, status: os.stat_result, source: Source | None) -> None:
    """Raise InputError if a file with this status is the one that `source` reads."""
    if source is not None and source.is_same_file(status):
        problem = f"this is the input ({source.path}); name another file for the output"
        raise InputError(f"{path}: {problem}", path=path)


def write_error(path: str, error: OSError) -> OutputError:
    """Return the exception for a failed write to `path`."""
    if isinstance(error, BrokenPipeError):
        return OutputClosedError(f"{path}: its reader has gone", path=path)
    message = f"{path}: cannot write: {os_problem(error)}; make room or name another file"
    return OutputError(message, path=path)


def _open_problem(path: str, error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return "the file exists already; name another one or add `overwrite`"
    folder = str(Path(path).parent)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return f"there is no folder {folder!r}; make it first"
    return os_problem(error)
