"""What the runtime's tests share: a count of what runs, virtual time, patience without clocks."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import anyio
import anyio.lowlevel
import pytest

from batchrt import RunnableLambda
from batchrt.runtime.slots import Slots
from tests import virtual

T = TypeVar("T")

GUARD_SECONDS = 30
"""Real time after which a thread or a process counts as hung; none takes a tenth of it."""


class Boom(Exception):
    """What a failing leaf raises."""


@dataclass
class Watch:
    """Count the leaves that are running, in threads and on the loop."""

    active: int = 0
    peak: int = 0
    entered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        with self.lock:
            self.active += 1
            self.entered += 1
            self.peak = max(self.peak, self.active)
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.active -= 1


async def pause(rounds: int = 5) -> None:
    """Let others run."""
    for _ in range(rounds):
        await anyio.lowlevel.checkpoint()


async def until(condition: Callable[[], object]) -> None:
    """Go round until `condition` holds; the hang guard is the limit."""
    while not condition():
        await anyio.lowlevel.checkpoint()


def tasks() -> int:
    """Count the loop's tasks."""
    return len(anyio.get_running_tasks())


async def check_over(watch: Watch, tasks_before: int) -> None:
    """Assert that nothing of a call is running, and that nothing more begins."""
    assert watch.active == 0
    entered = watch.entered
    await pause()
    assert watch.entered == entered
    assert tasks() == tasks_before


def on_trio(main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` on Trio with a clock that jumps to the next timeout when all are waiting."""
    return virtual.run(main, longest=math.inf)


def in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread of its own and fail if it does not come back."""
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(GUARD_SECONDS)
    assert not thread.is_alive(), "the call hangs"
    if errors:
        raise errors[0]
    return results[0]


def script(source: str) -> subprocess.Popen[str]:
    """Start `source` in a Python process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(source: str) -> str:
    """Run `source` in a process of its own: it must end by itself and without a word on stderr."""
    process = script(source)
    try:
        output, errors = process.communicate(timeout=GUARD_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        pytest.fail(f"the process hangs; it said {output!r}, {errors!r}")
    assert errors == ""
    assert process.returncode == 0
    return output.strip()


def sync_leaf_of(watch: Watch) -> RunnableLambda[Any, Any]:
    """Return a sync leaf that `watch` counts and that gives its input."""

    def leaf(value: Any) -> Any:
        with watch:
            return value

    return RunnableLambda(leaf)


@contextmanager
def all_slots_come_back() -> Iterator[None]:
    """Assert that every slot that was taken was given back, once."""
    made: list[Slots] = []
    original = Slots.__init__

    def record(self: Slots, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slots, "__init__", record)
        yield
    for slots in made:
        assert slots.free == (math.inf if slots.limit is None else slots.limit)


def config(**keys: Any) -> Any:
    """Return a `RunConfig`."""
    return keys
