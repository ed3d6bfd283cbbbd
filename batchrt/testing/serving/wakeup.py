"""Wakeup: a call in an event loop that may be requested from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from anyio.lowlevel import current_token

__all__ = ["Wakeup"]


class Wakeup:
    """Call `call` in the event loop in which this was created."""

    __slots__ = ("_call", "_loop", "_thread")

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._thread = threading.get_ident()
        self._loop: Any = current_token().native_token

    def __call__(self) -> None:
        """Make the call: at once in the loop's own thread, soon from any other."""
        if threading.get_ident() == self._thread:
            self._call()
            return
        # AnyIO's call into another loop blocks until that loop has run it, which here would block the server.
        # Both backends have a call that does not block.
        try:
            post = getattr(self._loop, "call_soon_threadsafe", None) or self._loop.run_sync_soon
            post(self._call)
        except RuntimeError:
            # The loop has ended, and its waiters with it.
            return
