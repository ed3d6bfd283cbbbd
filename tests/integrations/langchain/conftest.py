"""LangChain's tests: on asyncio alone, with a mock server for each module, and no tracing to anywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from batchrt.testing import MockProvider, MockServer

pytest.importorskip("langchain_core", reason="needs LangChain: batchrt[langchain]")
pytest.importorskip("langchain_openai", reason="needs LangChain: batchrt[langchain]")


@pytest.fixture
def anyio_backend() -> Any:
    """Run an async test on asyncio; those of `BOTH_LOOPS` run on uvloop too."""
    return ("asyncio", {"debug": True})


@pytest.fixture(autouse=True)
def _untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING_V2"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def their_http() -> AsyncIterator[Any]:
    """Give openai's library an HTTP client for the test's event loop; its own is kept for the process."""
    from batchrt.integrations.langchain.errors import http_library

    async with http_library().AsyncClient() as client:
        yield client


@pytest.fixture(scope="module")
def server() -> Iterator[MockServer]:
    """Serve one provider to the tests of a module."""
    with MockProvider().serve() as served:
        yield served
