"""Jobs whose provider has limits, asks for pauses, or is down for a while; in virtual time."""

from __future__ import annotations

import json
import math
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from batchrt.cli.job import Job
from batchrt.cli.provider_events import ProviderEvents
from batchrt.limits.events import CooledDown, ProviderDown, QuotaEvent
from batchrt.limits.quota import Quota
from batchrt.testing import MockProvider, Outage, RateLimits
from tests.cli.conftest import Command

pytestmark = pytest.mark.usefixtures("virtual_time")

COUNT = 200
COMMANDS = {
    "run": ["run", "--prompt", "{n}"],
    "embed": ["embed", "--column", "n", "--id", "n", "--max-batch-size", "1"],
}


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Hold rows that say which they are."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": "{number}"}}\n' for number in range(COUNT)))
    return path


@pytest.fixture(params=COMMANDS)
def job(request: pytest.FixtureRequest, numbers: Path) -> list[Any]:
    """Be either command, of requests for one row each."""
    name, *options = COMMANDS[request.param]
    return [name, numbers, "--model", "mock", *options]


def put_in_place(monkeypatch: pytest.MonkeyPatch, **options: Any) -> MockProvider:
    """Have the built-in model be one of a provider with these options."""
    provider = MockProvider(dimensions=2, **options)
    monkeypatch.setattr("batchrt.testing.MockProvider", lambda: provider)
    return provider


def answered(out: str) -> list[int]:
    """Give the rows that have an answer."""
    rows = [json.loads(line) for line in out.splitlines()]
    return [int(row.get("n", row.get("id"))) for row in rows if row["error"] is None]


def errors(out: str) -> list[str]:
    return [error for line in out.splitlines() if (error := json.loads(line)["error"]) is not None]


def told_to_be_whole(err: str, done: int, failed: int) -> bool:
    """Whether cancelled rows, and those that were never sent, are told beside the ones that ended."""
    cancelled = re.search(rf": {done} done, {failed} failed, (\d+) more cancelled\n", err)
    not_started = re.search(r"\nnot started: (\d+) rows\n", err)
    assert cancelled or not_started
    return done + failed + sum(int(found[1]) for found in (cancelled, not_started) if found) == COUNT


def interrupt_when(monkeypatch: pytest.MonkeyPatch, kind: type[QuotaEvent]) -> None:
    """Raise SIGINT at the first event of this kind."""
    take_note = ProviderEvents.__call__
    happened: list[QuotaEvent] = []

    def take_note_and_interrupt(events: ProviderEvents, event: QuotaEvent) -> None:
        take_note(events, event)
        if isinstance(event, kind) and not happened:
            happened.append(event)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ProviderEvents, "__call__", take_note_and_interrupt)


@pytest.mark.parametrize(("limited", "most"), [(["--rpm", 60], 0), ([], 64)])
def test_job_rate_limit_is_kept(
    command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch, limited: list[Any], most: int
) -> None:
    """From the beginning where it is given, else from when the provider has told it."""
    limits = RateLimits(requests_per_minute=60)
    provider = put_in_place(monkeypatch, rate_limits=limits, latency=1.0)
    result = command(*job, *limited)
    assert result.code == 0
    assert answered(result.out) == [*range(COUNT)]
    assert provider.verdict().rejected <= most
    assert "% of 60 requests/min, " in result.err


def test_job_limits_reach_the_quota(
    command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their long names too."""
    quotas: list[Quota] = []
    put_in_place(monkeypatch)
    conclude = Job.conclude

    def look(job: Job) -> None:
        quotas.append(job._model.quota)
        conclude(job)

    monkeypatch.setattr(Job, "conclude", look)
    limits = ["--requests-per-minute", 6000, "--tpm", 5e6]
    assert command(*job, *limits, "-n", 3).code == 0
    assert quotas[0].statistics().limits == {"requests_per_minute": 6000, "tokens_per_minute": 5e6}


def test_job_auto_is_the_default_and_finds_how_many(
    command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More at once than it begins with; the last limit is told."""
    provider = put_in_place(monkeypatch, latency=1.0)
    result = command(*job)
    assert result.code == 0
    assert answered(result.out) == [*range(COUNT)]
    assert provider.log.snapshot().peak_in_flight > 8
    assert "\nauto settled at " in result.err


def test_job_number_holds(command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also above the first limit of auto; the summary has no line for it."""
    provider = put_in_place(monkeypatch, latency=1.0)
    result = command(*job, "-c", 20)
    assert result.code == 0
    assert provider.log.snapshot().peak_in_flight == 20
    assert "auto" not in result.err


@pytest.mark.parametrize("kind", [503, "refused"])
def test_job_outage_is_waited_for(
    command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """No row fails, and its beginning, its end and its length are told."""
    put_in_place(monkeypatch, latency=1.0, outages=[Outage(3, 120, kind)])
    result = command(*job, "--max-retries", 0)
    assert result.code == 0
    assert answered(result.out) == [*range(COUNT)]
    told = [line for line in result.err.splitlines() if line.startswith("batchrt: the provider")]
    assert told[0].startswith("batchrt: the provider is down: ")
    assert told[1].startswith("batchrt: the provider is back after ")
    assert len(told) == 2
    assert ", provider down 1:" in result.err
    assert "; outages: 1, " in result.err


def test_job_outage_that_is_longer_than_patience_ends_the_job(
    command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are kept, a handful of rows has the error, the others are left out; exit code 1."""
    put_in_place(monkeypatch, latency=1.0, outages=[Outage(3, math.inf)])
    result = command(*job, "--patience", 60)
    assert result.code == 4
    done, failed = answered(result.out), errors(result.out)
    assert done
    assert len(failed) == 5
    assert all(error.startswith("OutageError: the provider has been down for ") for error in failed)
    assert f"{len(done)} done, 5 failed" in result.err
    assert told_to_be_whole(result.err, len(done), 5)
    last = result.err.splitlines()[-1]
    assert last.startswith(
        "batchrt: stopped because the provider was down for longer than --patience: OutageError"
    )


@pytest.mark.parametrize("rows", [2, COUNT])
def test_job_outage_from_the_beginning_is_told_by_the_exit_code(
    command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """2, for nothing was answered, however few rows there are; --quiet leaves the reason."""
    put_in_place(monkeypatch, outages=[Outage(0, math.inf, "refused")])
    result = command(*job, "--patience", 30, "-n", rows, "-q")
    assert result.code == 2
    assert len(errors(result.out)) == min(rows, 5)
    [line] = result.err.splitlines()
    assert line.startswith("batchrt: stopped because the provider was down for longer than --patience: ")


def test_job_pause_is_waited_for(command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all, and it is told with its length."""
    provider = put_in_place(monkeypatch, latency=1.0, outages=[Outage(3, 60, 429)])
    result = command(*job)
    assert result.code == 0
    assert answered(result.out) == [*range(COUNT)]
    assert "batchrt: nothing is sent for " in result.err
    assert ", cooling down " in result.err
    assert "; cool-downs: " in result.err
    assert provider.verdict().sent_in_waits == 0


@pytest.mark.parametrize(("asked", "options"), [(600, ["--max-wait", 60]), (86_400, [])])
def test_job_pause_that_is_longer_than_allowed_ends_the_job(
    command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch, asked: int, options: list[Any]
) -> None:
    """At once, with the time to come back; requests in flight are not lost."""
    put_in_place(monkeypatch, latency=1.0, outages=[Outage(3, asked, 429)])
    result = command(*job, *options)
    assert result.code == 4
    done = answered(result.out)
    assert done
    assert len(errors(result.out)) == 1
    assert f"{len(done)} done, 1 failed, " in result.err
    last = result.err.splitlines()[-1]
    assert last.startswith("batchrt: stopped because the provider asks to wait until 20")
    assert "UTC, which is more than --max-wait: RateLimitError: " in last


@pytest.mark.parametrize(("event", "kind"), [(CooledDown, 429), (ProviderDown, 503)])
def test_job_ctrl_c_does_not_wait_for_a_provider(
    command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch, event: type[QuotaEvent], kind: Any
) -> None:
    """Requests in flight finish; rows that wait for a pause or an outage are left out, and not failed."""
    put_in_place(monkeypatch, latency=1.0, outages=[Outage(3, 3000, kind)])
    interrupt_when(monkeypatch, event)
    result = command(*job)
    assert result.code == 130
    done = answered(result.out)
    assert done == [*range(len(done))]
    assert errors(result.out) == []
    assert "batchrt: stopping, with " in result.err
    assert re.search(r"; \d+ waiting rows will not be sent; Ctrl-C again cancels at once\n", result.err)
    assert f"{len(done)} done, 0 failed" in result.err
    assert told_to_be_whole(result.err, len(done), 0)


def test_job_ctrl_c_does_not_wait_for_a_rate_limit(
    command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were begun would take their turns for long; one at a time is in flight."""
    provider = put_in_place(monkeypatch, latency=0.5)
    asked: list[None] = []
    original = provider.open

    def opened(*args: Any, **options: Any) -> Any:
        asked.append(None)
        if len(asked) == 5:
            signal.raise_signal(signal.SIGINT)
        return original(*args, **options)

    monkeypatch.setattr(provider, "open", opened)
    result = command(*job, "--rpm", 60)
    assert result.code == 130
    assert answered(result.out) == [*range(5)]
    assert errors(result.out) == []
