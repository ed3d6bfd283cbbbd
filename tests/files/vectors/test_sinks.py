"""Sinks for vectors: the chosen file, and no other, is written."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import InputError
from batchrt.files import OutputError, VectorSink, open_source, open_vector_sink
from batchrt.files.cells import error_line

FORMATS = ["npy", "parquet", "jsonl"]


def raw(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def new(path: Path | str, **options: Any) -> VectorSink:
    return open_vector_sink(path, **{"columns": {"id": int}, **options})


def refuse(path: Path | str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        new(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("a.npy", {}, "npy"),
        ("a.NPY", {}, "npy"),
        ("a.parquet", {}, "parquet"),
        ("a.jsonl", {}, "jsonl"),
        ("a.ndjson", {}, "jsonl"),
        ("a.jsonl.gz", {}, "jsonl"),
        ("a", {"format": "npy"}, "npy"),
        ("a.csv", {"format": "parquet"}, "parquet"),
    ],
)
def test_vector_sink_format_follows_the_suffix(
    tmp_path: Path, name: str, options: Any, expected: str
) -> None:
    """Unless it is given; `paths` has the names of all files."""
    with new(tmp_path / name, **options) as sink:
        assert sink.format == expected
    assert [Path(path) for path in sink.paths] == sorted(tmp_path.iterdir(), key=lambda path: len(path.name))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.csv", {}, "the suffix '.csv' is none of a file of vectors; name it .npy, .parquet or .jsonl"),
        ("a", {}, "it has no suffix; name it .npy, .parquet or .jsonl, or say which with `format`"),
        ("a.npy.gz", {}, ".npy is not compressed like this; leave .gz out"),
        ("a.npy", {"format": "csv"}, "unknown format 'csv'; use npy, parquet or jsonl"),
        ("no/a.npy", {}, "there is no folder"),
        ("no/a.parquet", {}, "there is no folder"),
    ],
)
def test_vector_sink_refuses_with_one_line(tmp_path: Path, name: str, options: Any, words: str) -> None:
    """And creates no file."""
    assert words in refuse(tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_vector_sink_to_stdout_is_jsonl_only(kind: str) -> None:
    """A matrix's header is written last, and a table's metadata at its end."""
    assert f"stdout takes jsonl only; name a file for {kind}" in refuse("-", format=kind)


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no /dev/null here")
def test_vector_sink_matrix_needs_a_regular_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its header is written again."""
    assert "name a regular file, or use jsonl" in refuse("/dev/null", format="npy")


@pytest.mark.parametrize("name", ["a.npy", "a.ids.jsonl"])
def test_vector_sink_overwrites_neither_file_of_a_matrix(tmp_path: Path, name: str) -> None:
    """Without `overwrite`; and none is left half made."""
    (tmp_path / name).write_text("precious")
    message = refuse(tmp_path / "a.npy")
    assert message.startswith(str(tmp_path / name))
    assert "add `overwrite`" in message
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
    with new(tmp_path / "a.npy", overwrite=True) as sink:
        sink.write({"id": 1}, raw(1, 2))
    assert np.load(tmp_path / "a.npy").tolist() == [[1, 2]]
    assert (tmp_path / "a.ids.jsonl").read_text() == '{"row": 0, "id": 1, "error": null}\n'


def test_vector_sink_keeps_the_matrix_if_its_second_file_fails(tmp_path: Path) -> None:
    """Also with `overwrite`."""
    (tmp_path / "a.npy").write_text("precious")
    (tmp_path / "a.ids.jsonl").mkdir()
    assert "this is a folder" in refuse(tmp_path / "a.npy", overwrite=True)
    assert (tmp_path / "a.npy").read_text() == "precious"


@pytest.mark.parametrize("name", ["a.npy", "a.parquet", "a.jsonl"])
def test_vector_sink_never_writes_to_the_input(tmp_path: Path, name: str) -> None:
    """Nor is the second file the input."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": 1}\n')
    target = tmp_path / name
    os.link(path, tmp_path / "a.ids.jsonl" if name == "a.npy" else target)
    with open_source(path) as source:
        assert "this is the input" in refuse(target, source=source, overwrite=True)
    assert path.read_text() == '{"id": 1}\n'


@pytest.mark.parametrize("kind", FORMATS)
def test_vector_sink_refuses_another_width(tmp_path: Path, kind: str) -> None:
    """And the file stays good."""
    path = tmp_path / f"a.{kind}"
    with new(path) as sink:
        for wrong in (b"", b"abc"):
            with pytest.raises(ValueError, match="4 bytes a number"):
                sink.write({"id": 0}, wrong)
        sink.write({"id": 1}, raw(1, 2))
        with pytest.raises(ValueError, match="the vector has 3 numbers, and those before it have 2"):
            sink.write({"id": 2}, raw(1, 2, 3))
        sink.write({"id": 3}, raw(3, 4))
    assert (sink.rows, sink.width) == (2, 2)
    assert read(path) == [(1, [1.0, 2.0], None), (3, [3.0, 4.0], None)]


def read(path: Path) -> list[tuple[Any, list[float] | None, str | None]]:
    """Return a file's rows: id, vector, error."""
    if path.suffix == ".npy":
        matrix = np.load(path)
        beside = _lines(path.with_suffix(".ids.jsonl").read_bytes())
        assert [line["row"] for line in beside] == [*range(len(matrix))]
        return [
            (line["id"], None if line["error"] else row.tolist(), line["error"])
            for line, row in zip(beside, matrix, strict=True)
        ]
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    else:
        table = _lines(path.read_bytes())
    return [(line["id"], line["embedding"], line["error"]) for line in table]


def _lines(data: bytes) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in data.splitlines()]


ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**63 - 1),
        st.one_of(
            st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
            st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=5),
        ),
    ),
    max_size=12,
)


@pytest.mark.parametrize("kind", FORMATS)
@given(rows=ROWS, flushed=st.sets(st.integers(0, 12)), width=st.sampled_from([None, 3]))
def test_vector_sink_files_are_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    rows: list[tuple[int, list[float] | str]],
    flushed: set[int],
    width: int | None,
) -> None:
    """Every float32 to the last bit, with errors and flushes anywhere."""
    path = tmp_path_factory.mktemp("v") / f"a.{kind}"
    with new(path, width=width) as sink:
        for place, (number, value) in enumerate(rows):
            if isinstance(value, str):
                sink.write({"id": number}, None, ValueError(value))
            else:
                sink.write({"id": number}, raw(*value))
            if place in flushed:
                sink.flush()
    found = read(path)
    assert [number for number, _, _ in found] == [number for number, _ in rows]
    for (_, value), (_, vector, error) in zip(rows, found, strict=True):
        if isinstance(value, str):
            assert vector is None
            assert error == error_line(ValueError(value))
        else:
            assert error is None
            assert vector is not None
            # Readers of JSON take -0 for a whole number, and so for 0.
            assert raw(*vector) == raw(*([x + 0.0 for x in value] if kind == "jsonl" else value))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("width", [None, 2])
def test_vector_sink_without_rows_makes_a_readable_file(tmp_path: Path, kind: str, width: int | None) -> None:
    """Of each format."""
    path = tmp_path / f"a.{kind}"
    with new(path, width=width):
        pass
    assert read(path) == []


def test_vector_sink_jsonl_may_be_compressed(tmp_path: Path) -> None:
    """By `.gz`."""
    with new(tmp_path / "a.jsonl.gz") as sink:
        sink.write({"id": 1}, raw(0.5))
    text = gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes())
    assert text == b'{"id": 1, "embedding": [0.5], "error": null}\n'


def test_vector_sink_jsonl_goes_to_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which stays open."""
    memory = io.BytesIO()
    stdout = io.TextIOWrapper(memory)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with new("-", columns={}) as sink:
            sink.write({}, raw(1, -0.25))
    assert not stdout.closed
    assert memory.getvalue() == b'{"embedding": [1, -0.25], "error": null}\n'
    assert sink.paths == ("stdout",)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_vector_sink_full_disk_is_one_line(kind: str) -> None:
    """In each format; and again in later calls."""
    sink = new("/dev/full", format=kind)
    sink.write({"id": 1}, raw(1, 2))
    with pytest.raises(OutputError, match="/dev/full: cannot write: no space left on device"):
        sink.close()


@pytest.mark.parametrize("kind", FORMATS)
def test_vector_sink_close_is_idempotent(tmp_path: Path, kind: str) -> None:
    """And flushing a closed sink does nothing."""
    sink = new(tmp_path / f"a.{kind}")
    sink.write({"id": 1}, raw(1))
    sink.close()
    sink.close()
    sink.flush()
    assert read(tmp_path / f"a.{kind}") == [(1, [1.0], None)]


@pytest.mark.parametrize("missing", ["numpy", "pyarrow"])
def test_vector_sink_needs_pyarrow_for_parquet_only(tmp_path: Path, missing: str) -> None:
    """Other formats need neither numpy nor pyarrow; Parquet's error says what to install."""
    program = f"""
import sys
sys.modules[{missing!r}] = None
from batchrt.files import open_vector_sink
for name in ("a.npy", "a.jsonl"):
    with open_vector_sink(name, columns={{}}) as sink:
        sink.write({{}}, bytes(8))
try:
    open_vector_sink("a.parquet", columns={{}}).close()
except ImportError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert np.load(tmp_path / "a.npy").tolist() == [[0, 0]]
    said = "a .parquet file needs pyarrow: install batchrt[parquet], or write .npy or .jsonl\n"
    assert ran.stdout == (said if missing == "pyarrow" else "")
    assert (tmp_path / "a.parquet").exists() == (missing == "numpy")
