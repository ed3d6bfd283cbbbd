"""The response cache: its file, its bound, its use by threads and processes, its failures."""

from __future__ import annotations

import logging
import os
import pickle
import random
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from batchrt import InputError, ResponseCache, cache_file
from batchrt import response_cache as module


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.cache"


def key(number: int) -> bytes:
    return number.to_bytes(24)


def test_response_cache_finds_answers_again(path: Path) -> None:
    """At once, after they are written, and in another object or process."""
    with ResponseCache(path) as cache:
        cache.put(key(1), b"one")
        assert cache.get(key(1)) == b"one"
        assert cache.get(key(2)) is None
        cache.flush()
        assert cache.get(key(1)) == b"one"
        told = cache.statistics()
        assert (told.hits, told.misses, told.kept, told.bytes) == (2, 1, 1, 103)
    with ResponseCache(path) as other:
        assert other.get(key(1)) == b"one"


def test_response_cache_keeps_the_latest_answer(path: Path) -> None:
    """Of one request, and counts its bytes once."""
    with ResponseCache(path) as cache:
        for answer in (b"first", b"second", b"3"):
            cache.put(key(1), answer)
            cache.flush()
        assert cache.get(key(1)) == b"3"
        assert cache.statistics().bytes == 101


def test_response_cache_forgets_what_is_discarded(path: Path) -> None:
    """Before it is written and afterwards."""
    with ResponseCache(path) as cache:
        cache.put(key(1), b"one")
        cache.discard(key(1))
        assert cache.get(key(1)) is None
        cache.put(key(2), b"two")
        cache.flush()
        cache.discard(key(2))
        assert cache.get(key(2)) is None
        cache.flush()
        assert cache.get(key(2)) is None
        assert cache.statistics().bytes == 0


def test_response_cache_stays_within_its_bound(path: Path) -> None:
    """The answers that were used least recently go first, in the file as well."""
    with ResponseCache(path, max_bytes=100_000) as cache:
        for number in range(300):
            cache.put(key(number), bytes(900))
            cache.flush()
            told = cache.statistics().bytes
            assert told is not None
            assert told <= 100_000
        there = [number for number in range(300) if cache.get(key(number))]
        assert there == list(range(there[0], 300))
        assert 80 <= len(there) <= 100
    assert path.stat().st_size < 300_000


def test_response_cache_counts_a_hit_as_a_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes later: an old answer that is used again outlives younger ones."""
    minute = 1_000_000
    monkeypatch.setattr(module, "_minute", lambda: minute)
    with ResponseCache(path, max_bytes=100_000) as cache:
        for number in range(90):
            cache.put(key(number), bytes(900))
            cache.flush()
            minute += 1
        minute += 100
        assert cache.get(key(0))
        cache.flush()
        for number in range(90, 130):
            cache.put(key(number), bytes(900))
            cache.flush()
        assert cache.get(key(0))
        assert cache.get(key(1)) is None


def test_response_cache_takes_no_answer_larger_than_itself(path: Path) -> None:
    """It would drive out all others."""
    with ResponseCache(path, max_bytes=70_000) as cache:
        cache.put(key(1), b"small")
        cache.put(key(2), bytes(80_000))
        cache.flush()
        assert (cache.get(key(1)), cache.get(key(2))) == (b"small", None)
    for wrong in (100, True, 1e9):
        with pytest.raises(ValueError, match="max_bytes"):
            ResponseCache(path, max_bytes=wrong)  # type: ignore[arg-type]


WRITER = """
import sys
from batchrt import ResponseCache
cache = ResponseCache(sys.argv[1])
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    cache.put(number.to_bytes(24), str(number).encode())
"""


def test_response_cache_is_shared_by_processes(path: Path) -> None:
    """Which open it at the same time; each writes all of its answers before it exits."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(first), str(first + 500)])
        for first in range(0, 2000, 500)
    ]
    assert [writer.wait() for writer in writers] == [0] * 4
    with ResponseCache(path) as cache:
        assert all(cache.get(key(number)) == str(number).encode() for number in range(2000))


def test_response_cache_is_shared_by_threads(path: Path) -> None:
    """An answer is that of its request, whatever else happens at the time."""
    wrong: list[int] = []
    with ResponseCache(path, max_bytes=200_000) as cache:

        def use(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(2000):
                number = chance.randrange(3000)
                answer = cache.get(key(number))
                if answer is None:
                    cache.put(key(number), str(number).encode() * 20)
                elif answer != str(number).encode() * 20:
                    wrong.append(number)

        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_response_cache_is_opened_anew_in_a_fork(path: Path) -> None:
    """A connection must not be used by both processes."""
    program = (
        "import os, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from batchrt import ResponseCache\n"
        "cache = ResponseCache(sys.argv[1])\n"
        "cache.put(bytes(24), b'parent'); cache.flush()\n"
        "child = os.fork()\n"
        "assert cache.get(bytes(24)) == b'parent'\n"
        "cache.put(bytes(23) + (b'c' if not child else b'p'), b'x'); cache.flush()\n"
        "if not child: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert cache.get(bytes(23) + b'c') == b'x' and cache.get(bytes(23) + b'p') == b'x'\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_response_cache_in_a_fork_outlives_that_of_the_parent(path: Path) -> None:
    """Whichever process closes the file first: the other one goes on writing to it, and finds its answers."""
    program = (
        "import os, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from batchrt import ResponseCache\n"
        "cache = ResponseCache(sys.argv[1])\n"
        "key = lambda name, number: name + number.to_bytes(23)\n"
        "def use(name, numbers):\n"
        "    for number in numbers:\n"
        "        cache.put(key(name, number), name * (1000 + number)); cache.flush()\n"
        "    for each in numbers:\n"
        "        assert cache.get(key(name, each)) == name * (1000 + each), cache.problem\n"
        "cache.put(key(b'a', 0), b'a' * 1000)\n"  # being written
        "closed, close = os.pipe()\n"
        "children = []\n"
        "for name in (b'b', b'c'):\n"
        "    children.append(os.fork())\n"
        "    if not children[-1]:\n"
        "        os.close(close)\n"
        "        use(name, range(20))\n"
        "        os.read(closed, 1)\n"  # until the parent has closed its end
        "        use(name, range(20, 40))\n"
        "        cache.close()\n"
        "        os._exit(0 if cache.problem is None else 1)\n"
        "use(b'a', range(20))\n"
        "cache.close()\n"
        "os.close(close)\n"
        "with ResponseCache(sys.argv[1]) as cache: use(b'd', range(40))\n"
        "assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]\n"
        "with ResponseCache(sys.argv[1]) as cache:\n"
        "    for name in (b'b', b'c', b'd'):\n"
        "        for each in range(40): assert cache.get(key(name, each)) == name * (1000 + each)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_response_cache_can_be_pickled(path: Path) -> None:
    """As a part of a configuration that goes to another process."""
    with ResponseCache(path, max_bytes=70_000) as cache:
        cache.put(key(1), b"one")
        cache.flush()
        with pickle.loads(pickle.dumps(cache)) as other:
            assert (other.path, other.max_bytes) == (cache.path, cache.max_bytes)
            assert other.get(key(1)) == b"one"


def test_response_cache_refuses_what_is_no_cache(tmp_path: Path) -> None:
    """A folder, a file in no folder, another program's database: before anything is sent."""
    other = tmp_path / "other"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE t (x)")
    before = other.read_bytes()
    for path, problem in ((tmp_path, "a folder"), (tmp_path / "no" / "c", "no folder"), (other, "another")):
        with pytest.raises(InputError, match=problem) as caught:
            ResponseCache(path)
        assert str(path) in str(caught.value)
        assert caught.value.parameter == "cache"
    assert other.read_bytes() == before


def test_response_cache_that_is_damaged_is_not_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With one warning, however often it is asked."""
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    with caplog.at_level(logging.WARNING, "batchrt"), ResponseCache(path) as cache:
        for number in range(5):
            cache.put(key(number), b"x")
            assert cache.get(key(number)) is None
        cache.flush()
        assert cache.statistics().bytes is None
    assert len(caplog.messages) == 1
    assert str(path) in caplog.messages[0]
    assert "delete the file" in caplog.messages[0]


def test_response_cache_that_is_damaged_later_is_not_used(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers that cannot be read are misses."""
    with ResponseCache(path) as cache:
        for number in range(2000):
            cache.put(key(number), bytes(2000))
    with caplog.at_level(logging.WARNING, "batchrt"), ResponseCache(path) as cache:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size - 4096))
        assert [cache.get(key(number)) for number in range(0, 2000, 100)] == [None] * 20
        cache.put(key(1), b"x")
        cache.flush()
    assert len(caplog.messages) == 1


def test_response_cache_on_a_full_disk_is_not_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is raised, and what it had can still be read."""
    with ResponseCache(path) as cache:
        cache.put(key(1), b"one")
    real = cache_file.connect

    def full(name: str) -> sqlite3.Connection | None:
        connection = real(name)
        assert connection is not None
        connection.execute("PRAGMA max_page_count = 10")
        return connection

    with caplog.at_level(logging.WARNING, "batchrt"), ResponseCache(path) as cache:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "connect", full)
            for number in range(2, 50):
                cache.put(key(number), bytes(5000))
            cache.flush()
            cache.put(key(100), b"x")
            cache.flush()
        assert cache.get(key(1)) == b"one"
        assert cache.get(key(100)) is None
    assert len(caplog.messages) == 1
    assert "full" in caplog.messages[0]


def test_response_cache_leaves_no_thread(path: Path) -> None:
    """Its thread ends when all is written."""
    with ResponseCache(path) as cache:
        cache.put(key(1), b"x")
        cache.flush()
        assert not [each for each in threading.enumerate() if each.name == "batchrt response cache"]


def test_response_cache_without_a_thread_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where none can be started, as at the end of the program: answers are lost to the cache alone."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with caplog.at_level(logging.WARNING, "batchrt"), ResponseCache(path) as cache:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            cache.put(key(1), b"x")
            cache.put(key(2), b"x")
        assert cache.get(key(1)) is None
    assert len(caplog.messages) == 1
