"""A call that another thread's news may cause, made in the event loop that waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from anyio.lowlevel import current_token

__all__ = ["Wakeup"]


class Wakeup:
    """Remember the event loop in which this is made, and have it call `call`."""

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
        # AnyIO's own way into another loop blocks until that loop has run the call, and here
        # it is the server that would be blocked. Both loops have a call that does not.
        try:
            post = getattr(self._loop, "call_soon_threadsafe", None) or self._loop.run_sync_soon
            post(self._call)
        except RuntimeError:
            # The loop has ended since, and whoever waited with it.
            return
