"""npy sink: a matrix that can be read however the writer ended."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from batchrt.files import OutputError, open_vector_sink


def vector(number: float) -> bytes:
    return struct.pack("<3f", number, number, number)


def test_npy_failed_rows_are_nan(tmp_path: Path) -> None:
    """Those before the first vector too."""
    path = tmp_path / "a.npy"
    with open_vector_sink(path, columns={"id": str}) as sink:
        sink.write({"id": "a"}, None, "no")
        sink.write({"id": "b"}, None, "no")
        sink.write({"id": "c"}, vector(1))
        sink.write({"id": "d"}, None, "no")
        sink.write({"id": "e"}, vector(2))
    matrix = np.load(path)
    assert matrix.dtype == np.float32
    assert np.isnan(matrix).all(axis=1).tolist() == [True, True, False, True, False]
    assert matrix[[2, 4], 0].tolist() == [1, 2]
    lines = [json.loads(line) for line in (tmp_path / "a.ids.jsonl").read_text().splitlines()]
    assert [(line["row"], line["id"], line["error"]) for line in lines] == [
        (0, "a", "no"),
        (1, "b", "no"),
        (2, "c", None),
        (3, "d", "no"),
        (4, "e", None),
    ]


@pytest.mark.parametrize(("width", "shape"), [(None, (2, 0)), (3, (2, 3))])
def test_npy_without_vectors_has_the_given_width(
    tmp_path: Path, width: int | None, shape: tuple[int, int]
) -> None:
    """Or no columns."""
    with open_vector_sink(tmp_path / "a.npy", columns={}, width=width) as sink:
        sink.write({}, None, "no")
        sink.write({}, None, "no")
    assert np.load(tmp_path / "a.npy").shape == shape


def test_npy_can_be_mapped_into_memory(tmp_path: Path) -> None:
    """The numbers are where numpy expects them."""
    with open_vector_sink(tmp_path / "a.npy", columns={}) as sink:
        for number in range(1000):
            sink.write({}, vector(number))
    matrix = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert matrix[:, 1].tolist() == [*range(1000)]
    assert matrix.offset % 64 == 0


def test_npy_can_be_read_up_to_the_last_flush(tmp_path: Path) -> None:
    """As after a kill; nothing is promised beyond it."""
    path, beside = tmp_path / "a.npy", tmp_path / "a.ids.jsonl"
    with open_vector_sink(path, columns={}) as sink:
        for number in range(100):
            sink.write({}, vector(number))
            if number % 10 == 9:
                sink.flush()
                assert np.load(path)[:, 0].tolist() == [*range(number + 1)]
                assert len(beside.read_text().splitlines()) == number + 1
        sink.write({}, vector(0))
        assert len(np.load(path)) == 100


PROGRAM = """
import resource, sys
from batchrt.files import OutputError, open_vector_sink
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with open_vector_sink("a.npy", columns={}) as sink:
        for number in range(100_000):
            sink.write({}, bytes(1000))
            if number % 7 == 0:
                sink.flush()
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
def test_npy_full_disk_leaves_a_readable_matrix(tmp_path: Path) -> None:
    """With the rows that fit."""
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert ran.stdout == "a.npy: cannot write: file too large; make room or name another file\n"
    assert ran.stderr == ""
    matrix = np.load(tmp_path / "a.npy")
    assert matrix.shape == (99, 250)
    assert len((tmp_path / "a.ids.jsonl").read_text().splitlines()) >= 99


def test_npy_is_not_written_to_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a vector in the middle would shift all that follow."""
    import batchrt.files.vectors.npy

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    sink = open_vector_sink(tmp_path / "a.npy", columns={})
    sink.write({}, vector(1))
    sink.flush()
    with monkeypatch.context() as patch:
        patch.setattr(batchrt.files.vectors.npy, "write_all", fail)
        sink.write({}, vector(2))
        with pytest.raises(OutputError, match="no space left on device"):
            sink.flush()
    with pytest.raises(OutputError):
        sink.flush()
    sink.close()
    assert np.load(tmp_path / "a.npy").tolist() == [[1, 1, 1]]


def test_npy_memory_is_bounded(tmp_path: Path) -> None:
    """For any number of rows, and of failed ones before the first vector."""
    with open_vector_sink(tmp_path / "a.npy", columns={"id": int}) as sink:
        vector = bytes(4096)
        sink.write({"id": 0}, None, "no")
        tracemalloc.start()
        for number in range(5000):
            sink.write({"id": number}, None, "no")
        for number in range(5000):
            sink.write({"id": number}, vector)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20
    assert np.load(tmp_path / "a.npy").shape == (10_001, 1024)
