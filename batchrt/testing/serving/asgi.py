"""ASGI side of the mock: sends an exchange's reply to a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from batchrt.testing.endpoints.replies import Ending
from batchrt.testing.serving.exchange import Exchange

__all__ = [
    "CONNECTION",
    "DroppedConnectionError",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "authorization",
    "play",
    "read_body",
]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

CONNECTION = "batchrt.connection"
"""Scope extension of servers that offer operations beyond ASGI; `serve` is one. `hang_up(reset: bool) ->
None` closes the connection, or resets it. `leaves(seconds: float) -> Awaitable[bool]` waits, and returns
whether the client disconnected meanwhile, at half the price of a cancelled `receive`."""

# Seconds: long enough for Trio, which cancels a call past its deadline before it delivers the event.
_SHORTEST_WAIT = 0.0001


class DroppedConnectionError(ConnectionError):
    """The plan drops the connection, and the server offers no way to do so."""


async def read_body(receive: Receive) -> bytes | None:
    """Read the whole request body; None if the client disconnected before its end."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        return bytes(message.get("body", b""))
    parts: list[bytes] = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
    return None


def authorization(scope: Scope) -> bytes:
    """Return the Authorization header, empty if there is none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bytes(value)
    return b""


def _connection(scope: Scope) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = (scope.get("extensions") or {}).get(CONNECTION)
    return found


async def play(exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
    """Send the reply, and stop at once if the client disconnects."""
    try:
        if await _client_left_while_waiting(exchange, scope, receive):
            exchange.finish(gone=True)
        elif exchange.reply.is_plain:
            exchange.finish()
            await _start(exchange, send)
            await send({"type": "http.response.body", "body": exchange.reply.body})
        else:
            await _play_in_parts(exchange, scope, receive, send)
    finally:
        # No effect unless an exception was raised: then the server is stopping, or failed.
        exchange.abandon()


async def _client_left_while_waiting(exchange: Exchange, scope: Scope, receive: Receive) -> bool:
    """Wait for the request's turn and its delay; return whether the client disconnected meanwhile."""
    if exchange.queue_entry is not None and await exchange.queue_entry.wait_turn(
        partial(_wait_for_disconnect, receive)
    ):
        return True
    return bool(exchange.reply.delay) and await _client_left_within(scope, receive, exchange.reply.delay)


async def _client_left_within(scope: Scope, receive: Receive, seconds: float) -> bool:
    """Wait `seconds`; return at once, without a task, if the client disconnects."""
    connection = _connection(scope)
    if connection is not None:
        return bool(await connection["leaves"](seconds))
    with anyio.move_on_after(seconds):
        await _wait_for_disconnect(receive)
        return True
    return False


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(exchange: Exchange, send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": exchange.reply.status,
            "headers": exchange.headers,
        }
    )


async def _play_in_parts(exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
    reply = exchange.reply
    if reply.status is not None:
        await _start(exchange, send)
        for place, (pause, part) in enumerate(reply.timed_parts()):
            # Also without a pause: servers ignore writes to a client that left, and a very large body would
            # be generated in vain.
            if await _client_left_within(scope, receive, pause or _SHORTEST_WAIT):
                exchange.finish(gone=True)
                return
            if place == reply.parts_before_last:
                exchange.finish()
            await send({"type": "http.response.body", "body": part, "more_body": True})
    exchange.finish()
    if reply.ending is Ending.COMPLETE:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    else:
        await _hang_up(scope, receive, reset=reply.ending is not Ending.CLOSE)


async def _hang_up(scope: Scope, receive: Receive, *, reset: bool) -> None:
    connection = _connection(scope)
    if connection is None:
        raise DroppedConnectionError("this server offers no way to drop the connection")
    # Lets the event loop write its buffer, which a reset would discard.
    await checkpoint()
    connection["hang_up"](reset)
    await _wait_for_disconnect(receive)
