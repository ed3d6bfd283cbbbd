"""Sampled sources: rows drawn at random, the same ones for the same seed."""

from __future__ import annotations

import io
import sys
from collections import Counter
from pathlib import Path

import pytest

from batchrt.files import BadRow, open_source
from batchrt.files.sampled_source import SampledSource
from tests.files.files import write


def drawn(path: Path, size: int, seed: int = 0, limit: int | None = None) -> list[int]:
    with SampledSource(open_source(path), size, seed=seed, limit=limit) as source:
        return [row.number for row in source]


def test_sampled_source_draws_rows_in_their_order(tmp_path: Path) -> None:
    """The same for the same seed, and others for another; all of a small file."""
    path = write(tmp_path, "a.csv", "id\n" + "".join(f"{number}\n" for number in range(1000)))
    first = drawn(path, 20)
    assert first == sorted(set(first))
    assert len(first) == 20
    assert drawn(path, 20) == first
    assert drawn(path, 20, seed=1) != first
    assert drawn(path, 2000) == [*range(1, 1001)]
    assert max(drawn(path, 20, limit=50)) <= 50
    assert drawn(path, 20, limit=3) == [1, 2, 3]


def test_sampled_source_draws_each_row_as_often(tmp_path: Path) -> None:
    """2 of 10 rows, a thousand times: each about 200 times."""
    path = write(tmp_path, "a.jsonl", '{"a": 1}\n' * 10)
    counts = Counter(number for seed in range(1000) for number in drawn(path, 2, seed))
    assert len(counts) == 10
    assert all(140 < count < 260 for count in counts.values())


def test_sampled_source_is_like_its_source(tmp_path: Path) -> None:
    """In columns, errors and places; its number of rows is known of a small file."""
    path = write(tmp_path, "a.jsonl", '{"a": 1}\nnonsense\n{"a": 3, "b": 4}\n')
    with SampledSource(open_source(path), 10) as source:
        assert (source.columns, source.survey(), source.format) == (("a",), ("a", "b"), "jsonl")
        assert source.count(2) == 3
        assert source.fraction_read is None
        assert source.look_ahead(["b"]) == {"b"}
        assert source.is_same_file(path.stat())
        first, bad, last = source
        assert isinstance(bad, BadRow)
        assert str(source.row_error(last, "no")) == f"{path}, row 3 (line 3): no"
    assert first.values == {"a": 1}
    with SampledSource(open_source(path), 2) as source:
        assert source.count(9) == 2


def test_sampled_source_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which it is not known beforehand how many rows come."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"id\n" + b"x\n" * 500)))
    with SampledSource(open_source("-", format="csv"), 5) as source:
        assert source.count(9) is None
        assert len(list(source)) == 5
