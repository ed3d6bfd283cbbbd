"""Output files: nothing is overwritten by accident, and errors are one line."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchrt.errors import InputError
from batchrt.files import (
    OutputClosedError,
    OutputError,
    open_sink,
    open_source,
)

FULL = Path("/dev/full")


def refuse(path: Path | str, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        open_sink(path, **{"columns": ["id"], **options})
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
def test_output_file_compresses_gz(tmp_path: Path, name: str) -> None:
    """Flushed rows can be decompressed before the file is closed."""
    path = tmp_path / name
    with open_sink(path, columns=["id"]) as sink:
        sink.write({"id": "1"}, "x" * 200_000)
        sink.write({"id": "2"}, "y")
        sink.flush()
        early = gzip.GzipFile(fileobj=io.BytesIO(path.read_bytes()))
        assert early.read(200_000).count(b"x") > 199_000
    whole = gzip.decompress(path.read_bytes()).decode()
    assert whole.count("x") == 200_000
    with open_source(path) as source:
        assert [row.values["output"][:1] for row in source] == ["x", "y"]


def test_output_file_is_not_overwritten(tmp_path: Path) -> None:
    """An existing file is left alone without `overwrite`."""
    path = tmp_path / "a.jsonl"
    path.write_text("precious")
    refusal = refuse(path)
    assert "add `overwrite`" in str(refusal)
    assert refusal.parameter == "overwrite"
    assert path.read_text() == "precious"
    with open_sink(path, columns=[], overwrite=True):
        pass
    assert path.read_text() == ""


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "dotted"])
def test_output_file_is_never_the_input(tmp_path: Path, link: str) -> None:
    """By any name or link, even with `overwrite`."""
    path, other = tmp_path / "a.csv", tmp_path / "b.csv"
    path.write_text("id\n1\n")
    if link == "symlink":
        other.symlink_to(path)
    elif link == "hardlink":
        os.link(path, other)
    else:
        other = path if link == "same" else tmp_path / ".." / tmp_path.name / "a.csv"
    with open_source(path) as source:
        error = refuse(other, source=source, overwrite=True)
        assert "this is the input" in str(error)
        assert [row.values for row in source] == [{"id": "1"}]


def test_output_file_as_stdin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`batchrt run - -o a.csv --overwrite < a.csv` does not empty the file it reads."""
    path = tmp_path / "a.csv"
    path.write_text("id\n1\n")
    with path.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with open_source("-", format="csv") as source:
            assert "this is the input" in str(refuse(path, source=source, overwrite=True))
    assert path.read_text() == "id\n1\n"


def test_stdout_into_the_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`batchrt run a.csv -o - >> a.csv` does not read its own output."""
    path = tmp_path / "a.csv"
    path.write_text("id\n1\n")
    with (
        path.open("a") as stdout,
        open_source(path) as source,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", stdout)
        error = refuse("-", source=source)
    assert "this is the input" in str(error)


def test_output_file_errors_name_the_problem(tmp_path: Path) -> None:
    """A missing folder, a folder as a file, and an unknown suffix."""
    assert "there is no folder" in str(refuse(tmp_path / "no" / "a.csv"))
    (tmp_path / "file").write_text("")
    assert "there is no folder" in str(refuse(tmp_path / "file" / "a.csv"))
    (tmp_path / "d.csv").mkdir()
    assert "folder" in str(refuse(tmp_path / "d.csv", overwrite=True))
    assert "`format`" in str(refuse(tmp_path / "a.txt"))
    assert "'xml'" in str(refuse(tmp_path / "a.csv", format="xml"))


def test_output_file_permission_denied_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In words."""

    def deny(*_: object) -> io.FileIO:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(io, "FileIO", deny)
    assert "permission denied" in str(refuse(tmp_path / "a.csv"))


def test_output_file_may_be_a_device() -> None:
    """/dev/null exists on purpose."""
    with open_sink("/dev/null", columns=[], format="csv") as sink:
        sink.write({}, "x")


def test_output_file_raises_when_written_after_close(tmp_path: Path) -> None:
    """Closing and flushing twice are fine."""
    sink = open_sink(tmp_path / "a.csv", columns=[])
    sink.close()
    sink.close()
    sink.flush()
    with pytest.raises(ValueError, match="closed"):
        sink.write({})


def test_output_file_flush_writes_whole_rows(tmp_path: Path) -> None:
    """While the sink is open."""
    path = tmp_path / "a.jsonl"
    with open_sink(path, columns=[]) as sink:
        sink.write({}, 1)
        sink.flush()
        assert path.read_text() == '{"output": 1, "error": null}\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.csv.gz"])
def test_output_file_memory_does_not_grow_with_rows(tmp_path: Path, name: str) -> None:
    """Ten thousand rows of 1,000 characters are not kept."""
    with open_sink(tmp_path / name, columns=["id"]) as sink:
        sink.write({"id": 0}, "x" * 1000)
        tracemalloc.start()
        for number in range(10_000):
            sink.write({"id": number}, "x" * 1000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("how", ["write", "flush", "close"])
def test_output_file_on_a_full_disk_raises_one_clear_error(how: str) -> None:
    """In any call, and nothing is accepted after it."""
    sink = open_sink(FULL, columns=[], format="csv")
    if how != "write":
        sink.write({}, "x")
    calls = {"write": lambda: sink.write({}, "x" * 1_000_000), "flush": sink.flush}
    with pytest.raises(OutputError, match="no space left") as caught:
        calls.get(how, sink.close)()
    assert caught.value.path == "/dev/full"
    assert not isinstance(caught.value, OutputClosedError)
    if how != "close":
        with pytest.raises(OutputError):
            sink.write({})
        with pytest.raises(OutputError):
            sink.flush()
    sink.close()


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a disk that is always full")
def test_output_file_failing_close_does_not_hide_the_blocks_error() -> None:
    """An error raised inside the block comes out as itself even if closing fails too."""
    with pytest.raises(RuntimeError, match="mine"), open_sink(FULL, columns=[], format="csv"):
        raise RuntimeError("mine")
    with pytest.raises(OutputError), open_sink(FULL, columns=[], format="csv") as sink:
        sink.write({})


@contextmanager
def piped_stdout() -> Iterator[int]:
    """Replace stdout by a pipe and return its reading end.

    No fixture: pytest's capture puts its own stream back between set-up and test.
    """
    reading, writing = os.pipe()
    try:
        with (
            open(writing, "w", encoding="utf-8") as stdout,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "stdout", stdout)
            yield reading
    finally:
        os.close(reading)


def test_stdout_is_jsonl_and_stays_open() -> None:
    """`-` is stdout, JSONL by default, after earlier prints."""
    with piped_stdout() as reading:
        sys.stdout.write("before\n")
        with open_sink("-", columns=["id"]) as sink:
            sink.write({"id": 1}, "ü")
        sys.stdout.write("after\n")
        sys.stdout.flush()
        text = os.read(reading, 1000).decode()
    assert text == 'before\n{"id": 1, "output": "ü", "error": null}\nafter\n'
    assert (sink.path, sink.format) == ("stdout", "jsonl")


def test_stdout_may_be_a_stream_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a test runner; it is left open."""
    memory = io.BytesIO()
    stdout = io.TextIOWrapper(memory)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with open_sink("-", columns=["id"], format="csv") as sink:
            sink.write({"id": 1}, "a")
    assert not stdout.closed
    assert memory.getvalue() == b"id,output,error\n1,a,\n"


def test_output_file_to_a_terminal_is_not_buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is shown at once."""
    leader, follower = os.openpty()
    with open(follower, "w", encoding="utf-8") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with open_sink("-", columns=[]) as sink:
            sink.write({}, 1)
            assert os.read(leader, 1000) == b'{"output": 1, "error": null}\r\n'
    os.close(leader)


def test_stdout_closed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a stdout gets a clear line."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        error = refuse("-")
    assert "stdout is closed" in str(error)


def test_stdout_nonblocking_and_full_is_an_error() -> None:
    """Not lost rows or a busy loop."""
    with piped_stdout() as reading:
        os.set_blocking(sys.stdout.fileno(), False)
        with pytest.raises(OutputError, match="not to block"), open_sink("-", columns=[]) as sink:
            sink.write({}, "x" * 1_000_000)
        assert os.read(reading, 10) == b'{"output":'


def test_output_file_reports_a_failing_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may report a lost write only then."""

    class Lossy(io.FileIO):
        def close(self) -> None:
            super().close()
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(io, "FileIO", Lossy)
    sink = open_sink(tmp_path / "a.csv", columns=[])
    with pytest.raises(OutputError, match="input/output error"):
        sink.close()


def test_stdout_closed_by_its_reader_before_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same quiet error, when it is opened."""

    class Gone:
        buffer = io.BytesIO()

        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Gone())
        with pytest.raises(OutputClosedError, match="its reader has gone"):
            open_sink("-", columns=[])


PROGRAM = """
import sys
from batchrt.files import OutputClosedError, open_sink
sys.stdin.readline()
try:
    with open_sink("-", columns=[]) as sink:
        for _ in range(10):
            sink.write({}, "x" * 50_000)
except OutputClosedError as error:
    sys.exit(7 if str(error) == "stdout: its reader has gone" else 8)
"""


def test_stdout_closed_by_its_reader() -> None:
    """`batchrt … | head` ends in an error of its own class, and Python adds nothing at exit."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b"go\n")
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 7
