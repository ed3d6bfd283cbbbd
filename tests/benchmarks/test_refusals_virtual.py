"""Refusals in virtual time: repeatable runs, judged by the mock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.harness.isolation import WorkerError
from benchmarks.studies import refusals_virtual
from benchmarks.studies.refusals_virtual import CAPS, COLUMNS, KINDS, SERVERS, measure, play

RANDOM = next(server for server in SERVERS if server.share == 0.2 and server.wait is None)


@pytest.mark.parametrize("kind", KINDS)
def test_virtual_run_is_the_same_for_the_same_seed(kind: str) -> None:
    """Another seed has other refusals and another order."""
    server = replace(RANDOM, requests=60)
    first = play(server, kind, "8", 1)
    assert play(server, kind, "8", 1) == first
    assert play(server, kind, "8", 2) != first
    assert set(first) == {column.key for column in COLUMNS}


def test_virtual_run_judges_each_kind_of_server() -> None:
    """Each server refuses within its requests, at one cap at least, and the judge sees what was lost."""
    for server in SERVERS:
        figures = play(replace(server, requests=min(server.requests, 80)), "chat", "none", 0)
        assert figures["lost"] == 0
        assert figures["slowness"] > 0
        if not server.share:
            assert figures["refused"] > 0, server.name


def test_virtual_run_counts_lost_items() -> None:
    """A server that never answers loses all."""
    hopeless = replace(RANDOM, requests=60, share=1.0, wait=1_000.0)
    assert play(hopeless, "chat", "1", 0)["lost"] == 60


def test_virtual_tables_have_a_row_for_each_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell whose process failed says so, and the others are measured."""

    def run_worker(module: str, settings: dict[str, object], **options: object) -> list[dict[str, float]]:
        if settings["cap"] == "8":
            raise WorkerError("out of memory")
        return [{column.key: float(seed) for column in COLUMNS} for seed in range(3)]

    monkeypatch.setattr(refusals_virtual, "run_worker", run_worker)
    told: list[str] = []
    (table,) = measure(seeds=3, tell=told.append, only="LiteLLM", kinds=["chat"])
    assert [row.contender for row in table.rows] == [f"cap {cap}" for cap in CAPS]
    assert len(told) == len(CAPS)
    assert table.rows[1].note == "failed: out of memory"
    assert table.rows[0].figures["slowness"].values == (0.0, 1.0, 2.0)
