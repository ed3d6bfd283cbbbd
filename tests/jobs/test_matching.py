"""Matching of an input with a journal, against a model of it."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import RunnableLambda
from batchrt.jobs import matching
from batchrt.jobs.identity import Identity
from batchrt.jobs.journal import Journal, RowSource
from batchrt.jobs.matching import Matcher
from batchrt.jobs.records import Record, encode_input

INPUTS = st.lists(st.integers(0, 6), max_size=25)
"""Few values, so that many rows are equal."""


def record(output: str) -> Record:
    return Record("done", output, None, 1, 0.0, None, None, None, None, None, None, 0.0)


def run(path: Path, values: list[int], *, killed_after: int | None = None) -> tuple[int, int]:
    """Match `values` and record the new ones; return how many are reused and new.

    The output says which answer it is: the value, and a number that no other answer has.
    """
    with Journal(path) as journal:
        matcher = Matcher(journal, Identity(RunnableLambda(abs), "1"), reuse_any=False, retry_failed=False)
        answered = journal.totals().done + journal.gone()
        for position, value in enumerate(values):
            to_run = [*matcher.match(value, encode_input(value))]
            if position == len(values) - 1:
                to_run += matcher.finish()
            for row in to_run:
                if killed_after is None or row.position < killed_after:
                    answered += 1
                    source = RowSource(*row.keys, matcher.chain, row.given)
                    journal.insert(row.position, source, record(f"[{row.value}, {answered}]"))
        if killed_after is None:
            journal.trim(len(values))
        return matcher.matches.reused, matcher.matches.new


def outputs(path: Path) -> list[tuple[int, int]]:
    with Journal(path) as journal:
        pairs = [json.loads(each.output or "[]") for _, _, each in journal.records()]
    return [(value, number) for value, number in pairs]


@given(inputs=st.lists(INPUTS, min_size=2, max_size=4), kills=st.lists(st.integers(0, 25), max_size=3))
def test_matcher_uses_each_outcome_for_one_equal_row(inputs: list[list[int]], kills: list[int]) -> None:
    """After any edits and kills each row has its own outcome, and none is run that has a free one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "j"
        recorded: Counter[int] = Counter()
        for number, values in enumerate(inputs):
            wanted = Counter(values)
            if number < len(kills):
                run(path, values, killed_after=kills[number])
                with Journal(path) as journal:
                    everything = journal._read("SELECT input FROM rows")
                recorded = Counter(int(text) for (text,) in everything)
            reused, new = run(path, values)
            assert reused == (recorded & wanted).total()
            assert new == (wanted - recorded).total()
            recorded |= wanted
            found = outputs(path)
            assert [value for value, _ in found] == values
            assert len(set(found)) == len(found)


def test_matcher_forgets_moves_that_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long input in another order is matched with bounded memory."""
    path = tmp_path / "j"
    values = list(range(400))
    run(path, values)
    monkeypatch.setattr(matching, "_UNCOMMITTED", 50)
    for shifted in (values[1:] + values[:1], values[::-1], values[200:] + values[:200]):
        assert run(path, shifted) == (400, 0)
        assert [value for value, _ in outputs(path)] == shifted


def test_matcher_needs_no_index_for_rows_that_stayed(tmp_path: Path) -> None:
    """A job that was interrupted goes on at once, however long its journal is."""
    path = tmp_path / "j"
    values = list(range(200))
    with Journal(path) as journal:
        matcher = Matcher(journal, Identity(RunnableLambda(abs), "1"), reuse_any=False, retry_failed=False)
        for value in values:
            (row,) = matcher.match(value, encode_input(value))
            if value % 7:
                source = RowSource(*row.keys, matcher.chain, row.given)
                journal.insert(row.position, source, record(f"[{value}, {value}]"))
    assert run(path, values) == (171, 29)
    with Journal(path) as journal:
        assert journal._read("SELECT name FROM sqlite_schema WHERE name LIKE 'rows_%key'") == []
