"""uvicorn server that can reset connections and stop at once; the only importer of uvicorn."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import uvicorn
from anyio.lowlevel import checkpoint
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from batchrt.testing.serving.asgi import CONNECTION

__all__ = ["BACKLOG", "Server"]

# Linux caps it at net.core.somaxconn; a client beyond it retries after a second.
BACKLOG = 16_384
# A client that reuses a connection while the server closes it sees an error that no fault plan asked for, so
# idle connections are kept for longer than a test takes.
_KEEP_ALIVE_SECONDS = 300
_POLL_SECONDS = 0.02
_STOP_SECONDS = 5.0
_NO_LINGER = struct.pack("ii", 1, 0)


class _Protocol(HttpToolsProtocol):
    """Add the `CONNECTION` extension to the application's scope."""

    # A future of uvicorn's event loop. One at most: a connection's requests are answered one after the other.
    _wait: Any = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {
            CONNECTION: {"hang_up": self._hang_up, "leaves": self._client_left_within}
        }

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._wait is not None:
            _settle(self._wait, left=True)

    async def _client_left_within(self, seconds: float) -> bool:
        if self.transport.is_closing():
            return True
        wait = self._wait = self.loop.create_future()
        timer = self.loop.call_later(seconds, partial(_settle, wait, left=False))
        try:
            left: bool = await wait
            return left
        finally:
            self._wait = None
            timer.cancel()

    def _hang_up(self, reset: bool) -> None:  # noqa: FBT001  the extension's one argument
        if not reset:
            self.transport.close()
            return
        # Linger 0 makes the kernel send RST instead of FIN. It belongs to the socket, not to the descriptor,
        # so a duplicate sets it without touching the event loop's own.
        descriptor = self.transport.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(descriptor)) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()


def _settle(wait: Any, *, left: bool) -> None:
    if not wait.done():
        wait.set_result(left)


class Server(uvicorn.Server):
    """Serve `app` until `should_exit` is set, then drop the requests in flight and stop.

    `on_listening` is called in the server's thread once connections are accepted.
    """

    def __init__(self, app: Callable[..., Any], on_listening: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            )
        )
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as uvicorn does, then call `on_listening`."""
        await super().startup(sockets=sockets)
        self._on_listening()

    async def main_loop(self) -> None:
        """Wait for `should_exit`, polled five times as often as by uvicorn so that tests stop quickly."""
        # Set from another thread or by a signal, neither of which can set an event of this loop.
        while not self.should_exit:  # noqa: ASYNC110
            await anyio.sleep(_POLL_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections at once; uvicorn would wait for requests that may never end."""
        for listener in self.servers:
            listener.close()
        for listening in sockets or ():
            listening.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        with anyio.move_on_after(_STOP_SECONDS):
            # A task leaves the set in its own callback; there is no event to wait for.
            while self.server_state.tasks:
                await checkpoint()
