"""Compression: chosen by an output's suffix, recognised by an input's bytes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from batchrt.errors import InputError
from batchrt.files import Row, open_sink, open_source, open_vector_sink
from tests.files.files import only_bad, read, refuse, values, write


def zstd() -> Any:
    return pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


@pytest.mark.parametrize("name", ["a.csv.zst", "a.jsonl.zst", "a.tsv.ZST", "a.jsonl.gz"])
def test_compression_goes_both_ways(tmp_path: Path, name: str) -> None:
    """Rows flushed before a kill can be read; a reader is told that the rest is missing."""
    path = tmp_path / name
    with open_sink(path, columns=["id"]) as sink:
        sink.write({"id": 1}, "x" * 200_000)
        sink.write({"id": 2}, "y")
        sink.flush()
        rows = read(path)
        assert [row.values["output"][:1] for row in rows if isinstance(row, Row)] == ["x", "y"]
        assert "cannot read on" in str(only_bad(rows).error)
    assert path.stat().st_size < 2000
    assert [row["output"][:1] for row in values(read(path))] == ["x", "y"]


def test_compression_zstd_is_recognised_under_any_name(tmp_path: Path) -> None:
    """Also of several frames, as `cat` makes of two files."""
    frames = zstd().compress(b"id\n1\n") + zstd().compress(b"2\n")
    assert values(read(write(tmp_path, "a.csv", frames))) == [{"id": "1"}, {"id": "2"}]


def test_compression_zstd_that_is_broken_ends_in_a_bad_row(tmp_path: Path) -> None:
    """The rows before the break are good."""
    table = b"id\n" + b"".join(b"%d%s\n" % (number, os.urandom(8).hex().encode()) for number in range(40_000))
    options = {zstd().CompressionParameter.checksum_flag: 1}
    packed = zstd().compress(table, options=options)
    middle = len(packed) // 2
    for broken in (packed[:middle], packed[:middle] + b"garbage!" * 20 + packed[middle + 160 :]):
        rows = read(write(tmp_path, "a.csv", broken))
        assert len(rows) > 1000
        assert "cannot read on" in str(only_bad(rows[-1:]).error)


def test_compression_zstd_that_begins_broken_is_refused(tmp_path: Path) -> None:
    """At once."""
    assert "is broken" in str(refuse(write(tmp_path, "a.csv", zstd().compress(b"id\n1\n")[:6])))


def test_compression_names_the_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the extra that has it; nothing is written."""
    path = write(tmp_path, "a.csv", zstd().compress(b"id\n1\n"))
    for name in ("backports.zstd", "backports", "compression", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "install batchrt[zstd]" in str(refuse(path))
    with pytest.raises(InputError, match=r"install batchrt\[zstd\]"):
        open_sink(tmp_path / "b.csv.zst", columns=[])
    assert not (tmp_path / "b.csv.zst").exists()


def test_compression_of_vectors(tmp_path: Path) -> None:
    """JSONL only: the other formats have their own."""
    with open_vector_sink(tmp_path / "v.jsonl.zst", columns={"id": int}) as sink:
        sink.write({"id": 1}, bytes(8))
    with open_source(tmp_path / "v.jsonl.zst") as source:
        assert [row.values["embedding"] for row in source] == [[0, 0]]
    with pytest.raises(InputError, match=r"leave \.zst out"):
        open_vector_sink(tmp_path / "v.npy.zst", columns={})
