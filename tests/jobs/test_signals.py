"""Jobs and signals: Ctrl-C ends one at once, and a handler may stop it gracefully."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.jobs.kills import CAP, Process, Traffic, arguments, provider, rows_file, undisturbed

ROWS = 390


@pytest.mark.parametrize(
    ("number", "code", "ended"),
    [(signal.SIGINT, -signal.SIGINT, ""), (signal.SIGTERM, 0, "incomplete")],
    ids=["ctrl-c", "terminated"],
)
def test_job_ended_by_a_signal_goes_on(tmp_path: Path, number: signal.Signals, code: int, ended: str) -> None:
    """What had been answered stays, and the output is an undisturbed run's in the end."""
    source = rows_file(tmp_path / "rows.jsonl", ROWS)
    expected = undisturbed(tmp_path, source)
    traffic = Traffic()
    sink = tmp_path / "out.jsonl"
    with provider(traffic, faults=0.0, latency=0.1) as url:
        process = Process(arguments(url, source, sink, tmp_path / "job.journal"))
        process.start()
        process.wait_for(50)
        process.kill(number)
        assert (process.process.returncode, process.ended) == (code, ended)
        assert not sink.exists()
        traffic.kills += 1
        again = Process(process.arguments)
        again.start()
        assert again.wait()
    assert again.ended == "complete"
    assert not process.shown & again.shown
    assert max(traffic.sent_again()) <= (CAP if number == signal.SIGINT else 0)
    assert sink.read_bytes() == expected
