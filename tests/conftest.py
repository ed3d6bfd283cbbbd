"""What all tests share: the three event loops they run on."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.virtual import repeatable_order, without_reality

# A machine that is busy must not fail a property: no deadlines. `--hypothesis-profile=long` digs deeper.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("long", settings.get_profile("default"), max_examples=3000)
settings.load_profile("default")

# A shell's background job has SIGINT ignored, and one of nohup's SIGHUP: the tests of signals would hang.
for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)

BACKENDS = [
    pytest.param(("asyncio", {"debug": True}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(autouse=True, scope="module")
def _frozen_heap() -> None:
    """Leave what earlier modules made, by now millions of objects, out of each garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _repeatable_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have Trio run the tasks of each test in an order of its own, and in the same one every time."""
    with repeatable_order(request.node.nodeid):
        yield


@pytest.fixture
def nothing_real(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep the real world out of a test whose event loop runs on a simulated clock."""
    with without_reality(request.node.nodeid):
        yield


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run an async test on asyncio in debug mode, on uvloop and on Trio."""
    return request.param
