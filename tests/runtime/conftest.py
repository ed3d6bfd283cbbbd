"""A deadlock fails its test instead of hanging the run."""

from __future__ import annotations

import faulthandler
import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import anyio
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

DEADLOCK_SECONDS = 30
"""Real time after which an async test counts as deadlocked; none takes a tenth of it."""
HANG_SECONDS = 100
"""When not even a cancellation gets through: all stacks are shown and the process ends."""


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _bounded(item.obj)


def _bounded(test: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        with anyio.fail_after(DEADLOCK_SECONDS):
            await test(*args, **kwargs)

    return bounded


@pytest.fixture(autouse=True)
def hang_guard(pytestconfig: pytest.Config) -> Iterator[None]:
    file = pytestconfig.stash[fault_handler_stderr_fd_key]
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=file)
    yield
    faulthandler.cancel_dump_traceback_later()
