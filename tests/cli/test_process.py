"""Signals: the first stops, another that is meant cancels."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest

from batchrt.cli import process as process_module
from batchrt.cli.process import watch_interrupts

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's"),
]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


async def watched(numbers: list[signal.Signals]) -> list[object]:
    """Return what was called for these signals, one right after the other."""
    called: list[object] = []
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await watch_interrupts(stop=called.append, cancel=lambda: called.append("cancel"))
            group.cancel_scope.cancel()

        group.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        for number in numbers:
            signal.raise_signal(number)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(0.05):
            await anyio.sleep_forever()
        group.cancel_scope.cancel()
    return called


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGTERM, signal.SIGTERM],  # GNU timeout: the command, and its process group
        [signal.SIGINT, signal.SIGINT, signal.SIGINT],
        [signal.SIGINT, signal.SIGTERM],
        [signal.SIGHUP, signal.SIGTERM],
        [signal.SIGHUP],
    ],
)
async def test_signals_that_come_together_are_one(
    monkeypatch: pytest.MonkeyPatch, numbers: list[signal.Signals]
) -> None:
    """A person takes longer."""
    monkeypatch.setattr(process_module, "_ONE_SIGNAL", 600)
    assert await watched(numbers) == [numbers[0]]


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signals_later_are_another(monkeypatch: pytest.MonkeyPatch, second: signal.Signals) -> None:
    """The second cancels."""
    monkeypatch.setattr(process_module, "_ONE_SIGNAL", -1)
    assert await watched([signal.SIGINT, second]) == [signal.SIGINT, "cancel"]


@pytest.mark.parametrize("ignored", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_signals_that_are_ignored_stay_so(ignored: signal.Signals) -> None:
    """As nohup, and a shell's `&`, want it."""
    signal.signal(ignored, signal.SIG_IGN)
    assert await watched([ignored]) == []
    assert signal.getsignal(ignored) is signal.SIG_IGN
