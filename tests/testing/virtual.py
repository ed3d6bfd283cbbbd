"""A provider on a virtual clock: hours pass at once, the same in every run."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import anyio
import httpx

from batchrt.testing import MockProvider
from tests import virtual

__all__ = ["Client", "Got", "simulate"]

T = TypeVar("T")


class Got(NamedTuple):
    """An answer and its time."""

    status: int
    headers: httpx.Headers
    document: Any
    time: float
    raw: bytes

    @property
    def message(self) -> str:
        return str(self.document["error"]["message"])


class Client:
    """Send requests to `provider` in process."""

    def __init__(self, provider: MockProvider, key: str = "k", *, timeout: float | None = None) -> None:
        self._transport = provider.transport()
        self._headers = {"authorization": f"Bearer {key}"}
        self._extensions = {} if timeout is None else {"timeout": {"read": timeout}}

    async def ask(self, text: str = "hi", *, model: str = "m", **options: Any) -> Got:
        """Request a chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **options}
        return await self.post("/v1/chat/completions", body)

    async def post(self, path: str, body: Any) -> Got:
        request = httpx.Request(
            "POST",
            f"http://mock{path}",
            json=body,
            headers=self._headers,
            extensions=self._extensions,
        )
        return await self._send(request)

    async def get(self, path: str) -> Got:
        return await self._send(httpx.Request("GET", f"http://mock{path}"))

    async def _send(self, request: httpx.Request) -> Got:
        response = await self._transport.handle_async_request(request)
        raw = await response.aread()
        is_json = response.headers.get("content-type") == "application/json"
        document = json.loads(raw) if is_json else None
        return Got(response.status_code, response.headers, document, anyio.current_time(), raw)


def simulate(main: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run `main` on a clock that jumps to the next deadline."""
    return virtual.run(main, *arguments)
