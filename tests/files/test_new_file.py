"""New files: an old file is as it was until a whole one takes its place."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchrt.errors import InputError
from batchrt.files import (
    OutputError,
    Sink,
    VectorSink,
    new_file,
    open_sink,
    open_source,
    open_vector_sink,
)
from tests.files.files import json_rows, read, values

NAMES = ["a.jsonl", "a.csv", "a.tsv", "a.csv.gz", "v.npy", "v.parquet", "v.jsonl"]
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="Unix's rules of files")


def opened(path: Path, **options: Any) -> Sink | VectorSink:
    if path.name.startswith("v"):
        return open_vector_sink(path, columns={"id": int}, overwrite=True, **options)
    return open_sink(path, columns=["id"], overwrite=True, **options)


def write_row(sink: Sink | VectorSink, number: int = 1) -> None:
    if isinstance(sink, Sink):
        sink.write({"id": number}, "new")
    else:
        sink.write({"id": number}, bytes(8))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def old(folder: Path, name: str) -> Path:
    """Return a file with old content, with its second file if its format has two."""
    path = folder / name
    for each in (path, *([folder / "v.ids.jsonl"] if name == "v.npy" else [])):
        each.write_bytes(b"old")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_new_file_replaces_the_old_one_when_it_is_complete(tmp_path: Path, name: str) -> None:
    """Not before, and nothing else is left in the folder."""
    path = old(tmp_path, name)
    before = names(tmp_path)
    with opened(path) as sink:
        for number in range(1000):
            write_row(sink, number)
        sink.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() != b"old"
    assert names(tmp_path) == before
    assert (sink.kept_old, sink.partial_paths, sink.left_over_paths) == (False, (), ())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["error", "mark_partial"])
def test_new_file_that_is_partial_is_kept_beside_the_old_one(tmp_path: Path, name: str, how: str) -> None:
    """After an exception, or where the caller says so; a second one has a name of its own."""
    path = old(tmp_path, name)
    before = names(tmp_path)
    for attempt in ("", ".2", ".3"):
        sink = opened(path)
        try:
            with sink:
                write_row(sink)
                if how == "error":
                    raise KeyboardInterrupt
                sink.mark_partial()
        except KeyboardInterrupt:
            pass
        assert sink.kept_old
        expected = {f"{each}.partial{attempt}" for each in before}
        assert {Path(each).name for each in sink.partial_paths} == expected
        before_now = names(tmp_path)
        assert expected <= before_now
        assert path.read_bytes() == b"old"
    assert len(names(tmp_path)) == 4 * len(before)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "v.parquet"])
def test_new_file_that_is_partial_can_be_read(tmp_path: Path, name: str) -> None:
    """Up to its last row."""
    path = old(tmp_path, name)
    with opened(path) as sink:
        for number in range(10):
            write_row(sink, number)
        sink.mark_partial()
    [kept] = sink.partial_paths
    if name == "v.parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        assert pq.read_table(kept).column("id").to_pylist() == [*range(10)]
    else:
        rows = read(Path(kept), format=path.suffix[1:])
        assert [int(row["id"]) for row in values(rows)] == [*range(10)]


@pytest.mark.parametrize("name", NAMES)
def test_new_file_without_rows_is_not_kept(tmp_path: Path, name: str) -> None:
    """If it is partial; complete, it replaces the old one as any other does."""
    path = old(tmp_path, name)
    before = names(tmp_path)
    with pytest.raises(RuntimeError), opened(path):
        raise RuntimeError
    assert names(tmp_path) == before
    assert path.read_bytes() == b"old"
    with opened(path):
        pass
    assert names(tmp_path) == before
    assert path.read_bytes() != b"old"


def test_new_file_whose_rows_can_be_had_again_replaces_an_earlier_partial_one(tmp_path: Path) -> None:
    """There is never more than one."""
    path = old(tmp_path, "a.jsonl")
    for number in range(3):
        with opened(path, rebuildable=True) as sink:
            write_row(sink, number)
            sink.mark_partial()
    assert names(tmp_path) == {"a.jsonl", "a.jsonl.partial"}
    assert json_rows(tmp_path / "a.jsonl.partial")[0]["id"] == 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "v.jsonl"])
def test_new_file_of_a_fresh_path_is_written_in_place(tmp_path: Path, name: str) -> None:
    """So `tail -f` shows its rows; a partial one keeps the name, since it has replaced nothing."""
    path = tmp_path / name
    with opened(path) as sink:
        write_row(sink)
        sink.flush()
        assert path.read_text().count("\n") >= 1
        assert names(tmp_path) == {name}
        sink.mark_partial()
    assert names(tmp_path) == {name}
    assert not sink.kept_old
    path.write_text("")
    with opened(path) as sink:
        write_row(sink)
        sink.flush()
        assert path.read_text().count("\n") >= 1


@pytest.mark.parametrize("how", ["complete", "partial", "error before a row"])
def test_new_file_that_is_unreadable_meanwhile_takes_its_name_at_the_end(tmp_path: Path, how: str) -> None:
    """A fresh Parquet file can be read once it is there, also a partial one; its mode is the usual one."""
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "v.parquet"
    try:
        with opened(path) as sink:
            assert names(tmp_path) == {".v.parquet.unfinished"}
            if how == "error before a row":
                raise RuntimeError
            write_row(sink)
            if how == "partial":
                sink.mark_partial()
    except RuntimeError:
        pass
    assert names(tmp_path) == {"v.parquet"}
    assert pq.read_table(path).num_rows == (how != "error before a row")
    assert not sink.kept_old
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_new_file_does_not_replace_one_that_came_meanwhile(tmp_path: Path) -> None:
    """The name was free when it was opened; the error tells where the rows are."""
    path = tmp_path / "v.parquet"
    sink = opened(path)
    write_row(sink)
    path.write_bytes(b"precious")
    with pytest.raises(
        OutputError, match=r"cannot be made: file exists; the new file is .*v\.parquet\.partial"
    ):
        sink.close()
    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == {"v.parquet", "v.parquet.partial"}


@UNIX
def test_new_file_that_was_killed_and_cannot_be_read_is_deleted(tmp_path: Path) -> None:
    """By the next one."""
    path = tmp_path / "v.parquet"
    (tmp_path / ".v.parquet.unfinished").write_bytes(b"PAR1 no footer")
    with opened(path) as sink:
        write_row(sink)
    assert sink.left_over_paths == ()
    assert names(tmp_path) == {"v.parquet"}


@UNIX
def test_new_file_has_the_mode_of_the_old_one(tmp_path: Path) -> None:
    """Whatever the umask is."""
    path = old(tmp_path, "a.csv")
    path.chmod(0o640)
    with opened(path):
        assert stat.S_IMODE((tmp_path / ".a.csv.unfinished").stat().st_mode) == 0o640
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@UNIX
def test_new_file_leaves_links_as_they_are(tmp_path: Path) -> None:
    """The file is replaced that the link leads to, in its own folder; a link to no file gets one."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = old(folder, "a.csv")
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    with opened(link) as sink:
        write_row(sink)
        assert names(folder) == {"a.csv", ".a.csv.unfinished"}
    assert link.is_symlink()
    assert "new" in path.read_text()
    dangling = tmp_path / "dangling.csv"
    dangling.symlink_to(folder / "b.csv")
    with opened(dangling) as sink:
        write_row(sink)
    assert dangling.is_symlink()
    assert "new" in (folder / "b.csv").read_text()


@UNIX
def test_new_file_is_refused_where_the_old_one_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is read-only is not replaced although its folder would allow it."""
    path = old(tmp_path, "a.csv")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="permission denied"):
        opened(path)
    assert names(tmp_path) == {"a.csv"}


def test_new_file_is_refused_where_the_folder_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the folder; the old file is not written over."""
    path = old(tmp_path, "a.csv")

    def deny(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(new_file, "_open_private", deny)
    with pytest.raises(InputError, match=f"no file can be made in '{tmp_path}' to replace it"):
        opened(path)
    assert path.read_bytes() == b"old"


@UNIX
def test_new_file_is_refused_while_another_process_replaces_the_same(tmp_path: Path) -> None:
    """Neither disturbs the other."""
    path = old(tmp_path, "a.jsonl")
    with opened(path) as sink:
        write_row(sink)
        with pytest.raises(InputError, match="another process is replacing this file"):
            opened(path)
        write_row(sink)
    assert len(json_rows(path)) == 2


PROGRAM = """
import os, signal, sys
from batchrt.files import open_sink
sink = open_sink(sys.argv[1], columns=[], overwrite=True)
for number in range(100):
    sink.write({}, number)
sink.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@UNIX
@pytest.mark.parametrize("rebuildable", [False, True])
def test_new_file_of_a_killed_process_is_found_by_the_next_one(tmp_path: Path, rebuildable: bool) -> None:
    """Its rows are kept, unless they can be had again; the old file is unchanged."""
    path = old(tmp_path, "a.jsonl")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"a.jsonl", ".a.jsonl.unfinished"}
    with opened(path, rebuildable=rebuildable) as sink:
        write_row(sink)
    assert len(json_rows(path)) == 1
    if rebuildable:
        assert names(tmp_path) == {"a.jsonl"}
        assert sink.left_over_paths == ()
    else:
        assert sink.left_over_paths == (f"{path}.partial",)
        assert [row["output"] for row in json_rows(tmp_path / "a.jsonl.partial")] == [*range(100)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_new_file_that_cannot_replace_the_old_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    """With all its rows, under a name that the error tells."""
    path = old(tmp_path, name)

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    sink = opened(path)
    write_row(sink)
    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, fail)
        with pytest.raises(OutputError, match=r"cannot be replaced: input/output error; .*\.partial"):
            sink.close()
    assert sink.kept_old
    assert path.read_bytes() == b"old"
    if name == "a.jsonl":
        assert len(json_rows(Path(sink.partial_paths[0]))) == 1


@pytest.mark.parametrize("name", ["a.jsonl", "v.npy", "v.parquet"])
def test_new_file_on_a_full_disk_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nor is a partial one taken for a whole one."""
    path = old(tmp_path, name)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    sink = opened(path)
    write_row(sink)
    for module in ("output_file", "vectors.npy"):
        monkeypatch.setattr(f"batchrt.files.{module}.write_all", fail)
    monkeypatch.setattr("batchrt.files.parquet_file._allocate", fail)
    with pytest.raises(OutputError, match="no space left"):
        sink.close()
    assert path.read_bytes() == b"old"
    assert sink.kept_old


def test_new_file_may_have_the_longest_name(tmp_path: Path) -> None:
    """The name of the unfinished one is cut."""
    path = old(tmp_path, "é" * 124 + ".jsonl")
    with opened(path) as sink:
        write_row(sink)
    assert len(json_rows(path)) == 1
    with opened(path) as sink:
        write_row(sink)
        sink.mark_partial()
    assert len(names(tmp_path)) == 2


def test_new_file_in_the_current_folder_is_named_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the folder."""
    monkeypatch.chdir(tmp_path)
    old(tmp_path, "a.csv")
    with opened(Path("a.csv")) as sink:
        write_row(sink)
        sink.mark_partial()
    assert sink.partial_paths == ("a.csv.partial",)


def test_new_file_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partial files replace each other there no more than elsewhere."""

    def fail(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    path = old(tmp_path, "a.jsonl")
    for number in range(2):
        with opened(path) as sink:
            write_row(sink, number)
            sink.mark_partial()
    assert names(tmp_path) == {"a.jsonl", "a.jsonl.partial", "a.jsonl.partial.2"}


def test_new_file_may_be_a_pipe(tmp_path: Path) -> None:
    """Written in place, with `overwrite` too."""
    reading, writing = os.pipe()
    with open_sink(f"/dev/fd/{writing}", columns=[], format="jsonl", overwrite=True) as sink:
        sink.write({}, 1)
    os.close(writing)
    assert os.read(reading, 100) == b'{"output": 1, "error": null}\n'
    os.close(reading)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="Unix's names of descriptors")
def test_new_file_named_as_a_descriptor_is_written_in_place(tmp_path: Path) -> None:
    """A file that replaced the one that `/dev/stdout` leads to would not be the redirected output."""
    path = old(tmp_path, "a.jsonl")
    with path.open("a") as stdout:
        name = f"/dev/fd/{stdout.fileno()}"
        with open_sink(name, columns=[], format="jsonl", overwrite=True) as sink:
            sink.write({}, 1)
        assert os.fstat(stdout.fileno()).st_ino == path.stat().st_ino
    assert len(json_rows(path)) == 1
    assert names(tmp_path) == {"a.jsonl"}


def test_new_file_is_never_the_input(tmp_path: Path) -> None:
    """Also where it would be replaced in the end."""
    path = tmp_path / "a.csv"
    path.write_text("id\n1\n")
    with open_source(path) as source, pytest.raises(InputError, match="this is the input"):
        opened(path, source=source)
    assert names(tmp_path) == {"a.csv"}
