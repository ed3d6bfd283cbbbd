"""Remote files: read piece by piece, written by one upload at the end."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchrt.errors import InputError
from batchrt.files import BadRow, OutputError, Sink, open_sink, open_source, open_vector_sink
from batchrt.files.remote import is_remote, shown_name
from tests.files.files import values

fsspec: Any = pytest.importorskip("fsspec")


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return fsspec's file system in memory, empty; local files are in `tmp_path`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def write_rows(sink: Sink, *outputs: str) -> None:
    for output in outputs:
        sink.write({"id": 1}, output)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.tsv.zst", "a.parquet"])
def test_remote_files_go_both_ways(memory: Any, tmp_path: Path, name: str) -> None:
    """In every format; nothing is there before the end, and nothing is left on the local disk."""
    with open_sink(f"memory://data/{name}", columns=["id"]) as sink:
        assert sink.path == f"memory://data/{name}"
        write_rows(sink, "x", "é\n")
        sink.flush()
        assert not memory.exists(f"/data/{name}")
    assert [*tmp_path.iterdir()] == []
    with open_source(f"memory://data/{name}") as source:
        assert source.fraction_read is None
        assert [row["output"] for row in values(list(source))] == ["x", "é\n"]


def test_remote_vectors_are_two_files(memory: Any) -> None:
    """As on a disk."""
    with open_vector_sink("memory://v.npy", columns={"id": int}) as sink:
        sink.write({"id": 1}, bytes(8))
    assert sorted(memory.store) == ["/v.ids.jsonl", "/v.npy"]


def test_remote_output_is_not_overwritten(memory: Any) -> None:
    """Without `overwrite`; nor is the input, ever."""
    memory.pipe("/a.csv", b"id\n1\n")
    with pytest.raises(InputError, match="add `overwrite`") as caught:
        open_sink("memory://a.csv", columns=["id"])
    assert caught.value.parameter == "overwrite"
    with open_source("memory://a.csv") as source, pytest.raises(InputError, match="this is the input"):
        open_sink("memory://a.csv", columns=["id"], overwrite=True, source=source)


def test_remote_output_replaces_the_old_one_when_it_is_complete(memory: Any, tmp_path: Path) -> None:
    """A partial one is beside it; without an old one it has its own name, and without rows none."""
    memory.pipe("/a.csv", b"old")
    for number in ("", ".2"):
        with open_sink("memory://a.csv", columns=["id"], overwrite=True) as sink:
            write_rows(sink, "partial")
            sink.mark_partial()
        assert sink.kept_old
        assert sink.partial_paths == (f"memory:///a.csv.partial{number}",)
        assert memory.cat("/a.csv") == b"old"
        assert b"partial" in memory.cat(f"/a.csv.partial{number}")
    with pytest.raises(RuntimeError), open_sink("memory://a.csv", columns=[], overwrite=True):
        raise RuntimeError
    assert memory.cat("/a.csv") == b"old"
    with open_sink("memory://a.csv", columns=["id"], overwrite=True) as sink:
        write_rows(sink, "new")
    assert not sink.kept_old
    assert b"new" in memory.cat("/a.csv")
    with open_sink("memory://b.csv", columns=["id"]) as sink:
        write_rows(sink, "first")
        sink.mark_partial()
    assert (sink.kept_old, sink.partial_paths) == (False, ())
    assert b"first" in memory.cat("/b.csv")
    assert len(memory.store) == 4
    assert [*tmp_path.iterdir()] == []


def test_remote_output_that_cannot_be_uploaded_is_kept(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the local disk, under a name that the error tells; errors of any class are translated."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("SlowDown:\n please")

    monkeypatch.setattr(type(memory), "put_file", fail)
    sink = open_sink("memory://a.csv", columns=["id"])
    write_rows(sink, "paid for")
    with pytest.raises(OutputError, match=r"cannot be uploaded: slowdown: please; the file is .*a\.csv"):
        sink.close()
    [kept] = sink.partial_paths
    assert Path(kept).parent == tmp_path
    assert "paid for" in Path(kept).read_text()


def test_remote_input_that_breaks_ends_in_a_bad_row(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows before are good."""
    memory.pipe("/a.csv", b"id\n" + b"1\n" * 100_000)
    with open_source("memory://a.csv") as source:
        first = next(source)

        def fail(*_: object) -> bytes:
            raise RuntimeError("connection lost")

        monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", fail)
        *good, bad = source
        assert source.is_broken
    assert first.values == {"id": "1"}
    assert len(good) > 1000
    assert isinstance(bad, BadRow)
    assert "memory://a.csv, row" in str(bad.error)
    assert "cannot read on (connection lost)" in str(bad.error)


def test_remote_patterns_are_expanded(memory: Any) -> None:
    """Several files are one source, also beside local ones."""
    for name in ("b", "a"):
        memory.pipe(f"/data/{name}.jsonl", f'{{"id": "{name}"}}\n'.encode())
    with open_source("memory://data/*.jsonl") as source:
        assert [row["id"] for row in values(list(source))] == ["a", "b"]
        assert source.paths == ("memory:///data/a.jsonl", "memory:///data/b.jsonl")
    with pytest.raises(InputError, match="no file matches"):
        open_source("memory://data/*.csv")


def test_remote_errors_are_one_line(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, an unknown file system, one whose library is missing, and no fsspec."""
    with pytest.raises(InputError, match="no such file"):
        open_source("memory://gone.csv")
    for path, problem in {"nonsense://a.csv": "nonsense", "s3://bucket/a.csv": "s3fs"}.items():
        monkeypatch.setitem(sys.modules, "s3fs", None)
        for opened in (open_source, lambda name: open_sink(name, columns=[])):
            with pytest.raises(InputError, match=problem) as caught:
                opened(path)
            assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(InputError, match=r"install batchrt\[fsspec\]"):
        open_source("memory://a.csv")


def test_remote_addresses_of_this_machine_are_files(tmp_path: Path) -> None:
    """They need no library, and are written in place."""
    with open_sink(f"file://{tmp_path}/a.csv", columns=["id"]) as sink:
        write_rows(sink, "x")
        sink.flush()
        assert "x" in (tmp_path / "a.csv").read_text()
    with open_source(f"file://{tmp_path}/*.csv") as source:
        assert len(list(source)) == 1
        assert source.fraction_read == 1


@pytest.mark.parametrize(
    ("name", "remote", "shown"),
    [
        ("s3://bucket/a?b.csv", True, "s3://bucket/a?b.csv"),
        ("ftp://me:secret@host/a.csv", True, "ftp://host/a.csv"),
        ("https://host/a.csv?X-Amz-Signature=secret#x", True, "https://host/a.csv"),
        ("file:///a.csv", False, "file:///a.csv"),
        ("C://a.csv", False, "C://a.csv"),
        ("data/a.csv", False, "data/a.csv"),
        ("-", False, "-"),
    ],
)
def test_remote_addresses_show_no_secret(name: str, remote: bool, shown: str) -> None:
    """In messages."""
    assert (is_remote(name), shown_name(name)) == (remote, shown)
