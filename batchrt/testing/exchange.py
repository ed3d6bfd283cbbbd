"""One request at the mock, from its arrival to the line in the log."""

from __future__ import annotations

import anyio

from .faults import Fault
from .log import LogRecord, RequestLog
from .replies import Headers, Reply

__all__ = ["Exchange"]


class Exchange:
    """Hold a request's reply until it is sent, and log how it ended, once.

    `log` is None for the control routes, which leave no trace. Whoever plays the reply calls
    `finish` just before the last byte goes out, so that a client that has its answer also finds
    it in the log.
    """

    __slots__ = ("_attempt", "_digest", "_fault", "_items", "_log", "_route", "_started", "headers", "reply")

    def __init__(
        self,
        reply: Reply,
        *,
        name: str,
        route: str = "",
        fault: Fault | None = None,
        attempt: int = 1,
        digest: int = 0,
        items: int = 0,
        log: RequestLog | None = None,
    ) -> None:
        self.reply: Reply = reply
        self.headers: Headers = (*reply.headers, (b"x-request-id", f"req_{name}".encode()))
        self._route = route
        self._fault = fault
        self._attempt = attempt
        self._digest = digest
        self._items = items
        self._log = log
        if log is not None:
            self._started = anyio.current_time()
            log.arrived(self._started, items)

    def finish(self, *, gone: bool = False) -> None:
        """Log that the reply is out, or that the client is `gone`; only the first call counts."""
        status = None if gone else self.reply.status
        self._close(status, gone=gone)

    def abandon(self) -> None:
        """Log that neither happened: the server itself gave up."""
        self._close(None, gone=False)

    def _close(self, status: int | None, *, gone: bool) -> None:
        log, self._log = self._log, None
        if log is None:
            return
        log.finished(
            LogRecord(
                self._started,
                self._route,
                status,
                self._fault,
                anyio.current_time() - self._started,
                self._attempt,
                self._digest,
                gone,
                self._items,
            )
        )
