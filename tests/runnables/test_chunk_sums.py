"""Sums of chunks."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import RunnablePassthrough, add_chunks
from batchrt.runnables.chunk_sums import AddableDict, ChunkSum, joined_pairs, plain, snapshot_of

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)


class Added:
    def __init__(self, *parts: int) -> None:
        self.parts = parts

    def __add__(self, other: Added) -> Added:
        return Added(*self.parts, *other.parts)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("a", "b", "ab"),
        (b"a", b"b", b"ab"),
        ([1], [2], [1, 2]),
        ((1,), (2,), (1, 2)),
        ({"a": "x"}, {"a": "y", "b": 1}, {"a": "xy", "b": 1}),
        ({"a": {"b": {"c": [1]}}}, {"a": {"b": {"c": [2], "d": 3}}}, {"a": {"b": {"c": [1, 2], "d": 3}}}),
        (1, 2, 2),
        (1.5, 2.5, 2.5),
        (True, False, False),
        (Decimal(1), Decimal(2), Decimal(2)),
        (timedelta(1), timedelta(2), timedelta(2)),
        (date(2024, 1, 1), date(2025, 1, 1), date(2025, 1, 1)),
        ({1}, {2}, {2}),
        ("a", 1, 1),
        ([1], (2,), (2,)),
        ("a", {"b": 1}, {"b": 1}),
        (None, "a", "a"),
        ("a", None, "a"),
        ({"a": "x"}, {"a": None}, {"a": "x"}),
        (None, None, None),
    ],
    ids=repr,
)
def test_chunks_of_each_type_add_up(left: Any, right: Any, expected: Any) -> None:
    """Text and lists join, dicts merge at any depth, of numbers and all else the last holds."""
    before = repr((left, right))
    found = add_chunks(left, right)
    assert found == expected
    assert type(found) is type(expected)
    assert repr((left, right)) == before


def test_chunks_with_an_own_plus_are_added_by_it() -> None:
    """As messages are; where the other one does not fit, the last holds."""
    assert add_chunks(Added(1), Added(2)).parts == (1, 2)
    assert add_chunks({"m": Added(1)}, {"m": Added(2)})["m"].parts == (1, 2)
    assert add_chunks("a", Added(2)).parts == (2,)

    class Refusing:
        def __add__(self, other: object) -> Any:
            return NotImplemented

    last = Refusing()
    assert add_chunks(Refusing(), last) is last


def test_chunks_that_are_snapshots_replace_those_before() -> None:
    """At any depth of dicts; the sum is plain again."""
    total = ChunkSum()
    for chunk in ({"a": 1}, {"a": 1, "b": "x"}):
        total.add({"j": snapshot_of(chunk), "t": "."})
    assert total.value == {"j": {"a": 1, "b": "x"}, "t": ".."}
    for value in ([1], {"a": 1}, "text"):
        snapshot = snapshot_of(value)
        assert snapshot == value
        assert json.dumps(snapshot) == json.dumps(value)
        assert add_chunks([9], snapshot) == value
        assert type(plain(snapshot)) is type(value)
    assert snapshot_of(3) == 3


@given(st.lists(values, max_size=6))
def test_chunks_add_up_from_the_left(chunks: list[Any]) -> None:
    """One by one is the same as all together; no chunks are `None`, and one is itself."""
    total = ChunkSum()
    one_by_one = None
    for chunk in chunks:
        total.add(chunk)
        one_by_one = add_chunks(one_by_one, chunk)
    assert total.value == one_by_one
    assert total.count == len(chunks)
    if len(chunks) == 1:
        assert total.value == chunks[0]


@given(st.lists(values, max_size=12))
def test_chunks_that_are_joined_in_pairs_have_the_same_sum(chunks: list[Any]) -> None:
    """And none is lost: what cannot be joined stays apart."""
    joined = list(joined_pairs(chunks))
    total, of_joined = ChunkSum(), ChunkSum()
    for chunk in chunks:
        total.add(chunk)
    for chunk in joined:
        of_joined.add(chunk)
    assert of_joined.value == total.value
    numbers = [chunk for chunk in chunks if isinstance(chunk, int | float | None)]
    assert [chunk for chunk in joined if isinstance(chunk, int | float | None)] == numbers


def test_chunks_of_text_add_up_in_linear_time() -> None:
    """A long answer is joined once; this would take minutes otherwise."""
    total = ChunkSum()
    for _ in range(300_000):
        total.add("ab")
    assert total.value == "ab" * 300_000
    total.add("c")
    assert total.value == "ab" * 300_000 + "c"


def test_chunks_of_parallels_have_a_plus() -> None:
    """On both sides, with any mapping, and with nothing else."""
    chunk = AddableDict({"a": "x"})
    assert chunk + {"a": "y"} == {"a": "xy"}
    assert {"a": "w"} + chunk == {"a": "wx"}
    assert sum([chunk, chunk], AddableDict()) == {"a": "xx"}
    with pytest.raises(TypeError):
        chunk + 1
    with pytest.raises(TypeError):
        1 + chunk


def test_chunks_of_dicts_in_dicts_reach_a_step_whole() -> None:
    """Where LCEL raises, or takes the last."""
    line: Any = RunnablePassthrough() | (lambda row: row)
    assert list(line.transform(iter([{"a": {"b": "x"}}, {"a": {"b": "y", "n": 1}}, {"a": {"n": 2}}]))) == [
        {"a": {"b": "xy", "n": 2}}
    ]
