"""Tunnels: a proxy's `CONNECT`, its request and the judgement of the answer."""

from __future__ import annotations

import re
from typing import Final

from batchrt.providers.http.connection_errors import ConnectFailed
from batchrt.providers.http.response_head import end_of_head
from batchrt.providers.http.route import Route

__all__ = ["LONGEST_HEAD", "check_tunnel", "connect_request"]

LONGEST_HEAD: Final = 65_536
"""Most bytes of the answer's head."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: ([^\r\n]*))?\r?\n")
_UNAUTHORIZED: Final = 407
_LONGEST_REASON: Final = 100


def connect_request(route: Route) -> bytes:
    """Return the request that opens a tunnel to the server of `route` (RFC 9110, 9.3.6)."""
    host = f"[{route.host}]" if ":" in route.host else route.host
    lines = [f"CONNECT {host}:{route.port} HTTP/1.1", f"host: {host}:{route.port}"]
    authorization = None if route.proxy is None else route.proxy.authorization
    if authorization is not None:
        lines.append(f"proxy-authorization: {authorization}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def check_tunnel(route: Route, received: bytes | bytearray) -> None:
    """Raise ConnectFailed unless `received`, the answer to `connect_request`, opens the tunnel.

    A refusal (4xx) is the proxy's own and lasting, so its `fault` is "proxy". A 5xx may have any cause, an
    outage of the server among them.
    """
    end = end_of_head(received)
    head = bytes(received[:end])
    status = _STATUS.match(head)
    if status is None and received:
        raise ConnectFailed(f"its answer to CONNECT is not HTTP: {head[:40]!r}", fault="protocol")
    if status is None or (end is None and len(received) < LONGEST_HEAD):
        raise ConnectFailed("it closed the connection before its answer to CONNECT was complete")
    code, reason = int(status[1]), (status[2] or b"").decode("latin-1")
    if 200 <= code < 300:  # noqa: PLR2004
        if end is None or len(received) > end:
            raise ConnectFailed("it sent bytes into the tunnel before the server did")
        return
    said = f"it answered CONNECT with {code} {reason[:_LONGEST_REASON]}".rstrip()
    if code == _UNAUTHORIZED:
        has = route.proxy is not None and route.proxy.authorization is not None
        setting = "" if route.proxy is None else route.proxy.setting
        known = "does not accept the user and password" if has else "wants a user and a password"
        said += (
            f": it {known} in {setting}"
            if has
            else f": it {known}, as in {setting}=http://user:password@host"
        )
    raise ConnectFailed(said, fault="proxy" if code < 500 else None, explained=True)  # noqa: PLR2004
