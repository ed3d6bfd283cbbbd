from __future__ import annotations

import io
import math
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from rich.console import Console

from batchrt.cli.counts import Counts, Kind
from batchrt.cli.progress import Display, LiveLine, LogLines, Progress, choose_display
from batchrt.limits.quota_statistics import QuotaStatistics
from tests import virtual


def on_mock_clock(function: Callable[[], Awaitable[Any]]) -> Any:
    return virtual.run(function, longest=math.inf)


def new_progress(counts: Counts, **options: Any) -> Progress:
    known = {"total": None, "limit": None, "fraction_read": lambda: None, "quota": new_standing}
    return Progress(counts, **{**known, **options})


def new_standing(**known: Any) -> QuotaStatistics:
    nothing = {"in_flight": 0, "waiting": 0, "limits": {}, "used": {}, "quiet_for": 0.0}
    unknown = {"max_concurrency": None, "down_for": None, "retry_tokens": None}
    return QuotaStatistics(**{**nothing, **unknown, **known})


def test_progress_all_facts_are_said() -> None:
    """Done, failed, in flight, per second, time left, tokens."""

    async def main() -> list[str]:
        counts = Counts()
        progress = new_progress(counts, total=1000, quota=lambda: new_standing(in_flight=50))
        await anyio.sleep(10)
        counts.started, counts.done, counts.failed = 300, 240, 10
        counts.input_tokens, counts.output_tokens = 1500, 500
        return progress.words()

    assert on_mock_clock(main) == [
        "240 of 1,000 done",
        "10 failed",
        "50 in flight",
        "25/s",
        "ETA 30 s",
        "2k tokens",
    ]


def test_progress_rows_of_earlier_runs_are_done_but_not_by_this_one() -> None:
    """They count for the share, and neither for the pace nor for the time that the rest takes."""

    async def main() -> tuple[list[str], float | None]:
        counts = Counts()
        progress = new_progress(counts, total=1000, before=lambda: 500)
        await anyio.sleep(10)
        counts.done = 250
        return progress.words(), progress.fraction()

    words, fraction = on_mock_clock(main)
    assert words == ["250 of 1,000 done", "500 of earlier runs", "0 in flight", "25/s", "ETA 10 s"]
    assert fraction == 0.75


def test_progress_estimate_is_called_one() -> None:
    """Where a server sends no usage."""

    async def main() -> list[str]:
        return new_progress(Counts(input_tokens=500, estimated_tokens=1500)).words()

    assert on_mock_clock(main)[-1] == "about 2k tokens"


def test_progress_unknown_facts_are_left_out() -> None:
    """A pipe has no end in sight; nothing failed; no server counts tokens."""

    async def main() -> list[str]:
        return new_progress(Counts(started=3, done=1)).words()

    assert on_mock_clock(main) == ["1 done", "0 in flight", "0/s"]


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"in_flight": 12, "max_concurrency": 32}, ["12 of 32 in flight", "1/s", "ETA 10 s"]),
        ({"in_flight": 8, "waiting": 100}, ["8 in flight", "1/s", "ETA 10 s", "100 waiting"]),
        (
            {
                "limits": {"requests_per_minute": 600.0, "tokens_per_day": 2e6, "requests_per_day": 1e4},
                "used": {"requests_per_minute": 0.904, "tokens_per_day": 0.2},
            },
            ["0 in flight", "1/s", "ETA 10 s", "90% of 600 requests/min"],
        ),
        (
            {"limits": {"tokens_per_day": 2e6}, "used": {"tokens_per_day": 1.0}},
            ["0 in flight", "1/s", "ETA 10 s", "100% of 2M tokens/day"],
        ),
        ({"quiet_for": 12.4}, ["0 in flight", "cooling down 12 s", "1/s"]),
        ({"quiet_for": 0.4}, ["0 in flight", "1/s", "ETA 10 s"]),
        ({"in_flight": 1, "down_for": 95.0}, ["1 in flight", "provider down 1:35", "1/s"]),
    ],
)
def test_progress_how_things_stand_with_the_provider_is_said(known: dict[str, Any], words: list[str]) -> None:
    """The most important fact first; while nothing is sent, there is no ETA."""

    async def main() -> list[str]:
        counts = Counts()
        progress = new_progress(counts, total=20, quota=lambda: new_standing(**known))
        await anyio.sleep(10)
        counts.done = 10
        return progress.words()

    assert on_mock_clock(main) == ["10 of 20 done", *words]


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"in_flight": 1, "waiting": 1}, ["1 list in flight", "0/s", "1 list waiting"]),
        ({"in_flight": 1, "max_concurrency": 8}, ["1 of 8 lists in flight", "0/s"]),
        ({"in_flight": 3, "waiting": 2}, ["3 lists in flight", "0/s", "2 lists waiting"]),
    ],
)
def test_progress_lists_are_called_that(known: dict[str, Any], words: list[str]) -> None:
    """They are not rows."""

    async def main() -> list[str]:
        return new_progress(Counts(), noun="list", quota=lambda: new_standing(**known)).words()

    assert on_mock_clock(main) == ["0 done", *words]


def test_progress_how_things_stand_is_asked_once_a_line() -> None:
    """Two answers might not fit together."""
    asked: list[None] = []

    def quota() -> QuotaStatistics:
        asked.append(None)
        return new_standing()

    async def main() -> None:
        new_progress(Counts(), quota=quota).words()

    on_mock_clock(main)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("options", "fraction"),
    [
        ({}, None),
        ({"fraction_read": lambda: 0.5}, 0.25),
        ({"limit": 80}, 0.5),
        ({"limit": 800, "fraction_read": lambda: 0.5}, 0.25),
        ({"limit": 80, "fraction_read": lambda: 0.5}, 0.5),
        ({"total": 400, "fraction_read": lambda: 1.0}, 0.1),
        ({"total": 0}, 1.0),
    ],
)
def test_progress_share_done_is_known_by_the_best_there_is(
    options: dict[str, Any], fraction: float | None
) -> None:
    """The rows, or the bytes read less what is still in flight, or the limit."""

    async def main() -> float | None:
        return new_progress(Counts(started=80, done=30, failed=10), **options).fraction()

    assert on_mock_clock(main) == fraction


def test_progress_pace_is_that_of_the_last_seconds() -> None:
    """A slow start does not weigh for ever."""

    async def main() -> float:
        counts = Counts()
        progress = new_progress(counts)
        for _ in range(60):
            await anyio.sleep(1)
            progress.per_second()
        for _ in range(12):
            await anyio.sleep(1)
            counts.done += 100
            pace = progress.per_second()
        return pace

    assert on_mock_clock(main) == 100


def test_progress_log_gets_a_line_every_five_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, each a whole one."""

    async def main() -> None:
        counts = Counts(started=2, done=1, kinds={"E": Kind("x")})
        with anyio.move_on_after(12):
            await LogLines().show(new_progress(counts, quota=lambda: new_standing(in_flight=1)))

    on_mock_clock(main)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["batchrt: 1 done, 1 in flight, 0.2/s", "batchrt: 1 done, 1 in flight, 0.1/s"]


def test_progress_terminal_has_a_line_that_goes_again() -> None:
    """With a bar where the share is known, cut to the width, notes above it, and nothing left at the end."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=50, _environ={})
    display = LiveLine(console)

    async def main() -> None:
        counts = Counts(started=200, done=100, failed=50)
        with anyio.move_on_after(1):
            async with anyio.create_task_group() as group:
                group.start_soon(display.show, new_progress(counts, total=300))
                await anyio.sleep(0.5)
                display.note("a [word]")

    on_mock_clock(main)
    shown = screen.getvalue()
    assert " 50% 100 of 300 done · " in shown.replace("\x1b[0m", "")
    assert "…" in shown
    assert "batchrt: a [word]\n" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize(
    ("terminal", "options", "kind"),
    [
        (True, {"quiet": False, "rows_on_terminal": False}, LiveLine),
        (True, {"quiet": False, "rows_on_terminal": True}, LogLines),
        (True, {"quiet": True, "rows_on_terminal": False}, Display),
        (False, {"quiet": False, "rows_on_terminal": False}, LogLines),
        (False, {"quiet": True, "rows_on_terminal": False}, Display),
    ],
)
def test_progress_live_line_wants_a_terminal_to_itself(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, options: dict[str, bool], kind: type
) -> None:
    """Rows on the same terminal would tear it; a log cannot have it; --quiet wins."""

    class Stderr(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Stderr())
    assert type(choose_display(**options)) is kind


def test_progress_daemon_without_stderr_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be shown, and the rows are done all the same."""
    monkeypatch.setattr(sys, "stderr", None)
    assert type(choose_display(quiet=False, rows_on_terminal=False)) is Display
