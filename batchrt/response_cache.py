"""A response cache: answers of identical requests, kept on the disk for later runs and other processes."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from batchrt.cache_file import OVERHEAD, connect
from batchrt.errors import InputError
from batchrt.fork_guard import ForkGuard

if TYPE_CHECKING:
    import sqlite3

__all__ = ["CacheStatistics", "ResponseCache", "opened_cache"]

_MAX_BYTES: Final = 2**30
_LEAST_BYTES: Final = 2**16
_FREED: Final = 0.1
"""Share of the bound that is freed at once when it is reached."""
_GROUP_SECONDS: Final = 0.02
"""Seconds between commits, and for which the thread waits for another answer before it ends."""
_MOST_WAITING: Final = 64 * 2**20
"""Bytes of answers that may wait for a slow disk; others are not kept."""
_MINUTE: Final = 60
_FRESH_MINUTES: Final = 5
"""Minutes for which a hit does not record another use: the order of eviction needs no more."""

_LOG: Final = logging.getLogger("batchrt")


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Count the use of a response cache by this object.

    Attributes:
        hits: requests that were answered from it.
        misses: requests whose answer it did not have.
        kept: answers that were put into it.
        bytes: the answers on the disk, those of other processes included; `None` if it cannot be read.
    """

    hits: int
    misses: int
    kept: int
    bytes: int | None


class ResponseCache:
    """Keep answers to identical requests; give it, or its path, as `cache` in the configuration of a run.

        await chain.abatch(rows, config={"cache": "answers.cache"})

    Requests are identical if their address, model, messages and all parameters are. Their answers come from
    the cache in later runs, are not billed, and wait for no limit. Only complete answers are kept: no errors,
    none that was cut off (`length`, `content_filter`) or refused. Many runs, threads and processes may use
    one file, on a local disk.

    The file is a cache: it may be deleted at any time. If it is damaged, or the disk is full, the run goes on
    without it, with one warning of the logger `batchrt`.

    Args:
        path: the file, which is created.
        max_bytes: the most bytes of answers; the least recently used ones are removed first.

    Attributes:
        path: as given.
        max_bytes: as given.
        problem: why the cache was given up, in a sentence; `None` as long as it was not.
        flights: for the models: requests in flight, by key and event loop.

    Raises:
        InputError: the file cannot be created there, or belongs to another program.
        ValueError: `max_bytes` is too small.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = _MAX_BYTES) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < _LEAST_BYTES:
            raise ValueError(
                f"max_bytes must be a whole number of at least {_LEAST_BYTES}, not {max_bytes!r}"
            )
        self.path: str = os.fspath(path)
        self.max_bytes: int = max_bytes
        self.flights: dict[tuple[bytes, object], Any] = {}
        self._hits = self._misses = self._kept = 0
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._file = threading.Lock()  # held while the thread uses its connection; taken before `_lock`
        self._waiting: dict[bytes, bytes | None] = {}
        self._waiting_bytes = 0
        self._touched: set[bytes] = set()
        self._writer: threading.Thread | None = None
        self._reading: sqlite3.Connection | None = None
        self._writing: sqlite3.Connection | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._is_broken = False
        self.problem: str | None = None
        with _guard.lock:
            self._open()
            _guard.add(self)

    @property
    def is_usable(self) -> bool:
        """Whether it is neither closed nor given up."""
        return not self._is_broken

    def __repr__(self) -> str:
        return f"ResponseCache({self.path!r}, max_bytes={self.max_bytes})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.path, self.max_bytes)

    def get(self, key: bytes) -> bytes | None:
        """Return the answer of a request, if it is kept. May be called on any thread; takes microseconds."""
        self._check_process()
        answer: bytes | None = None
        with self._lock:
            if key in self._waiting:
                answer = self._waiting[key]
            else:
                with self._guarded():
                    answer = self._read(key)
        if answer is None:
            self._misses += 1
        else:
            self._hits += 1
        return answer

    def _read(self, key: bytes) -> bytes | None:
        reading = self._reading or self._reopened()
        if reading is None:
            return None
        # All rows are fetched: a statement that has not ended would keep the log of changes growing.
        found = reading.execute("SELECT answer, used FROM answers WHERE key = ?", (key,)).fetchall()
        if not found:
            return None
        ((answer, used),) = found
        if used + _FRESH_MINUTES < _minute():
            self._touched.add(key)
            self._start_writer()
        return bytes(answer)

    def put(self, key: bytes, answer: bytes) -> None:
        """Keep the answer of a request, soon; a thread writes it."""
        self._check_process()
        size = len(answer) + OVERHEAD
        with self._lock:
            if self._is_broken or size > self.max_bytes or self._waiting_bytes + size > _MOST_WAITING:
                return
            self._kept += 1
            self._waiting[key] = answer
            self._waiting_bytes += size
            self._start_writer()

    def discard(self, key: bytes) -> None:
        """Forget the answer of a request, such as one that turned out to be unusable."""
        self._check_process()
        with self._lock:
            if not self._is_broken:
                self._waiting[key] = None
                self._start_writer()

    def flush(self) -> None:
        """Wait until all answers are written. At the exit of the process that happens by itself."""
        writer = self._writer
        if writer is not None and writer is not threading.current_thread():
            writer.join()

    def close(self) -> None:
        """Write all answers and close the file; nothing is kept or found afterwards. Idempotent."""
        self.flush()
        with self._lock:
            self._is_broken = True
            self._close_reading()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def statistics(self) -> CacheStatistics:
        """Return the counts so far."""
        self._check_process()
        size: int | None = None
        with self._lock, self._guarded():
            if (reading := self._reading or self._reopened()) is not None:
                (size,) = reading.execute("SELECT bytes FROM size").fetchone()
        return CacheStatistics(self._hits, self._misses, self._kept, size)

    # The file

    def before_fork(self) -> None:
        """Wait for the end of a commit, and close the file; see `ForkGuard`.

        Otherwise parent and child would each remove the log of changes that the other one is using.
        """
        self._file.acquire()
        self._lock.acquire()
        with self._guarded():
            self._close_reading()
            self._close_writing()

    def after_fork(self) -> None:
        """Let the file be used again, in the parent and in the child, which open it anew."""
        self._lock.release()
        self._file.release()

    def _check_process(self) -> None:
        """Begin anew in a fork, where the thread that writes is missing; it is the parent's to write."""
        if self._process != os.getpid():
            with self._lock:
                self._process = os.getpid()
                self._waiting, self._waiting_bytes, self._touched = {}, 0, set()
                self._writer = None

    def _open(self) -> None:
        import sqlite3

        if Path(self.path).is_dir():
            raise self._unusable("it is a folder; name a file in it")
        if not Path(self.path).absolute().parent.is_dir():
            raise self._unusable(f"there is no folder {str(Path(self.path).parent)!r}; make it first")
        with self._guarded():
            try:
                connection = connect(self.path)
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in {
                    sqlite3.SQLITE_CANTOPEN,
                    sqlite3.SQLITE_READONLY,
                    sqlite3.SQLITE_PERM,
                }:
                    raise self._unusable(f"it cannot be opened ({error})") from error
                raise
            if connection is None:
                raise self._unusable("it is a database of another program or version; name another file")
            self._read_by(connection)

    def _reopened(self) -> sqlite3.Connection | None:
        """Open the file again that a fork has closed, unless the cache is closed or given up."""
        if not self._is_broken:
            self._read_by(self._connection())
        return self._reading

    def _connection(self) -> sqlite3.Connection:
        connection = connect(self.path)
        if connection is None:
            raise OSError("the file was replaced by that of another program or version")
        return connection

    def _read_by(self, connection: sqlite3.Connection) -> None:
        self._reading = connection
        self._finalizer = weakref.finalize(self, connection.close)

    def _unusable(self, problem: str) -> InputError:
        return InputError(f"the response cache {self.path}: {problem}", path=self.path, parameter="cache")

    def _close_reading(self) -> None:
        self._reading = None
        if self._finalizer is not None:
            self._finalizer()

    def _close_writing(self) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Give the cache up, with one warning, if the block's database calls fail."""
        import sqlite3

        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            self._is_broken = True
            self._waiting.clear()
            self._touched.clear()
            if self.problem is None:
                self.problem = (
                    f"the response cache {self.path} is not used any more: {error}; requests are sent. Make "
                    "room, or delete the file if it is damaged"
                )
                _LOG.warning(self.problem)

    # Writing

    def _start_writer(self) -> None:
        """Start the thread that writes, unless one runs; under the lock.

        It is no daemon, so that an exit waits for it, and it ends as soon as there is nothing to write.
        """
        if self._writer is None and not self._is_broken:
            writer = threading.Thread(target=self._write_all, name="batchrt response cache", daemon=False)
            try:
                writer.start()
            except RuntimeError as error:  # the interpreter is shutting down, or there are too many threads
                self._give_up(error)
            else:
                self._writer = writer  # before it can end, for which it needs the lock

    def _write_all(self) -> None:
        try:
            with self._guarded():
                while True:
                    time.sleep(_GROUP_SECONDS)
                    with self._lock:
                        group, touched = dict(self._waiting), list(self._touched)
                        if not (group or touched):
                            self._writer = None
                            return
                        self._touched.clear()
                    with self._file:
                        self._writing = self._writing or self._connection()
                        self._commit(self._writing, group, touched)
                    with self._lock:
                        self._forget_written(group)
        finally:
            with self._file:
                self._close_writing()
            with self._lock:
                if self._writer is threading.current_thread():
                    self._writer = None

    def _commit(
        self, connection: sqlite3.Connection, group: dict[bytes, bytes | None], touched: list[bytes]
    ) -> None:
        now = _minute()
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM answers WHERE key = ?", [(key,) for key in group])
            connection.executemany(
                "INSERT INTO answers VALUES (?, ?, ?)",
                [(key, answer, now) for key, answer in group.items() if answer is not None],
            )
            connection.executemany(
                "UPDATE answers SET used = ? WHERE key = ?", [(now, key) for key in touched]
            )
            self._evict(connection)

    def _evict(self, connection: sqlite3.Connection) -> None:
        """Remove the answers that were used least recently, once there are too many bytes."""
        (size,) = connection.execute("SELECT bytes FROM size").fetchone()
        if size <= self.max_bytes:
            return
        goal = self.max_bytes * (1 - _FREED)
        oldest = connection.execute("SELECT rowid, length(answer) FROM answers ORDER BY used, rowid")
        gone = []
        for row, length in oldest:
            if size <= goal:
                break
            gone.append((row,))
            size -= length + OVERHEAD
        oldest.close()
        connection.executemany("DELETE FROM answers WHERE rowid = ?", gone)

    def _forget_written(self, group: dict[bytes, bytes | None]) -> None:
        for key, answer in group.items():
            if self._waiting.get(key) is answer:
                self._waiting.pop(key, None)
        self._waiting_bytes = sum(len(each or b"") + OVERHEAD for each in self._waiting.values())


def _minute() -> int:
    return int(time.time() // _MINUTE)  # noqa: TID251  the age of answers, across processes


def _opened(path: str, max_bytes: int) -> ResponseCache:
    return ResponseCache(path, max_bytes=max_bytes)


# By path: runs at the same time share requests in flight, and a run sees the answers of the one before,
# which may not be written yet. A thread that writes keeps its cache alive.
_opened_caches: Final[weakref.WeakValueDictionary[str, ResponseCache]] = weakref.WeakValueDictionary()
_guard: Final = ForkGuard()


def opened_cache(given: object) -> ResponseCache | None:
    """Return the cache of a configuration: as it is given, or the one of a path, which a process opens once.

    Raises:
        TypeError: it is neither.
        InputError: see `ResponseCache`.
    """
    if given is None or isinstance(given, ResponseCache):
        return given
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f"cache must be the path of a file, a ResponseCache or None, not {given!r}")
    path = os.path.realpath(os.fspath(given))
    with _guard.lock:
        known = _opened_caches.get(path)
        if known is None or not known.is_usable:
            known = _opened_caches[path] = ResponseCache(path)
        return known
