"""pytest fixtures: `mock_provider` and `mock_server`, available wherever batchrt is installed.

To replace the default provider, override the first in a test module or a conftest; the second serves the
first:

    @pytest.fixture
    def mock_provider() -> MockProvider:
        return MockProvider(latency=0.05, faults=FaultPlan.everything(0.1))

An async test that uses one of them runs on asyncio if no other plugin runs it (AnyIO's with its marker,
pytest-asyncio, pytest-trio): pytest by itself fails such tests.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import pytest

if TYPE_CHECKING:
    from batchrt.testing.provider import MockProvider
    from batchrt.testing.serving.server import MockServer

__all__ = ["mock_provider", "mock_server", "pytest_pyfunc_call"]

_FIXTURES: Final = frozenset(("mock_provider", "mock_server"))

# Every pytest run in an environment with batchrt imports this module, so slow imports are left to the
# fixtures.


@pytest.fixture
def mock_provider() -> MockProvider:
    """Return a provider that answers at once and never fails; override it for another one."""
    from batchrt.testing.provider import MockProvider

    return MockProvider()


@pytest.fixture
def mock_server(mock_provider: MockProvider) -> Iterator[MockServer]:
    """Serve `mock_provider` on a free port for the length of the test."""
    with mock_provider.serve() as server:
        yield server


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test that uses the fixtures; called after AnyIO's plugin and before pytest's own hook."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or _FIXTURES.isdisjoint(pyfuncitem.fixturenames):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    anyio.run(partial(pyfuncitem.obj, **arguments))
    return True
