"""Jobs killed with SIGKILL: nothing that was shown is lost, little is sent again, the output is the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from batchrt.jobs.commit_thread import GROUP_ROWS
from batchrt.testing import Fault, FaultPlan, MockProvider
from tests.jobs.kills import (
    CAP,
    Process,
    Traffic,
    arguments,
    provider,
    random_moments,
    rows_file,
    run_killed,
    undisturbed,
)


@pytest.mark.parametrize("seed", range(2))
def test_job_killed_at_random_moments_loses_nothing(tmp_path: Path, seed: int) -> None:
    """The output is an undisturbed run's, and no row is sent again that had been shown."""
    source = rows_file(tmp_path / "rows.jsonl", 900)
    expected = undisturbed(tmp_path, source)
    traffic = Traffic()
    moments = random_moments(random.Random(seed), 900)
    with provider(traffic) as url:
        output, lost = run_killed(url, traffic, tmp_path, source, moments, 2)
    assert output == expected
    assert not lost
    assert max(traffic.sent_again()) <= CAP + GROUP_ROWS


def test_job_killed_beside_a_stalled_row_sends_few_again(tmp_path: Path) -> None:
    """A row that stalls holds up neither the journal nor the other rows."""
    rows = 390
    source = rows_file(tmp_path / "rows.jsonl", rows)
    traffic = Traffic()
    plan = FaultPlan(script=[Fault.STALL(seconds=600.0)])
    mock = MockProvider(answer=traffic.answer, faults=plan, latency=0.01)
    with mock.serve() as server:
        sink = tmp_path / "out.jsonl"
        process = Process(arguments(server.base_url, source, sink, tmp_path / "job.journal"))
        process.start()
        process.wait_for(rows - 1)
        assert len(process.shown) == rows - 1
        process.kill()
        traffic.kills += 1
        again = Process(process.arguments)
        again.start()
        assert again.wait()
    assert again.ended == "complete"
    assert max(traffic.sent_again()) <= 1  # the stalled one, which was in flight
    assert len(again.shown) == 1
