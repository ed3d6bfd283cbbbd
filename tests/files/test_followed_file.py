"""Files that grow while they are read."""

from __future__ import annotations

import threading
from pathlib import Path

from batchrt.files import Row, ThreadedIterator, open_source
from batchrt.files.compression import buffered
from batchrt.files.followed_file import FollowedFile


def test_followed_file_waits_for_more_until_it_is_left(tmp_path: Path) -> None:
    """What is appended is read, and `leave` ends a read that waits."""
    path = tmp_path / "f"
    path.write_bytes(b"ab")
    raw = FollowedFile(str(path))
    with buffered(raw) as file:
        assert file.read1(10) == b"ab"
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.extend((file.read1(10), file.read1(10))))
        reader.start()
        with path.open("ab") as end:
            end.write(b"cd")
        while raw.tell() < len(b"abcd"):
            assert reader.is_alive()
        raw.leave()
        reader.join()
        assert read == [b"cd", b""]


def test_followed_source_is_closed_while_a_thread_waits_in_it(tmp_path: Path) -> None:
    """It has no share that was read, and neither a count nor a survey, for it has no end."""
    path = tmp_path / "f.jsonl"
    path.write_text('{"n": 1}\n')
    with open_source(path, follow=True) as source:
        assert source.fraction_read is None
        assert source.count(10) is None
        assert source.survey() == ("n",)
        rows = ThreadedIterator(source)
        assert next(source).values == {"n": 1}
        thread = threading.Thread(target=rows._pull)
        thread.start()
    thread.join()


def test_followed_source_gives_each_row_when_it_is_whole(tmp_path: Path) -> None:
    """Also where it is appended in two parts."""
    pieces = {"csv": ("n\n1\n", "2", "3\n"), "jsonl": ('{"n": 1}\n', '{"n": ', "23}\n")}
    for suffix, (first, *parts) in pieces.items():
        path = tmp_path / f"f.{suffix}"
        path.write_text(first)
        with open_source(path, follow=True) as source, path.open("a") as file:
            assert str(next(source).values["n"]) == "1"
            read: list[object] = []
            reader = threading.Thread(target=lambda read=read, rows=source: read.append(next(rows)))
            reader.start()
            for part in parts:
                file.write(part)
                file.flush()
            reader.join()
            (row,) = read
            assert isinstance(row, Row)
            assert str(row.values["n"]) == "23"
