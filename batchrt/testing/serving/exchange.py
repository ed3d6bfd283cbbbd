"""Exchange: one request at the mock, from its arrival to its record in the log."""

from __future__ import annotations

import anyio

from batchrt.testing.admission.controller import AdmissionDecision
from batchrt.testing.admission.queue import QueueEntry
from batchrt.testing.endpoints.replies import Headers, MockReply
from batchrt.testing.faults.plan import Fault
from batchrt.testing.log import LogRecord, RequestLog

__all__ = ["Exchange"]


class Exchange:
    """A request's reply until it is sent, and its log record, written once.

    `log` is None for the control routes, which are not logged. The sender calls `finish` just before the last
    byte, so that a client that has its answer also finds it in the log. If there is a `queue_entry`, the
    sender waits for its turn first.
    """

    __slots__ = (
        "_attempt",
        "_decision",
        "_digest",
        "_fault",
        "_items",
        "_log",
        "_route",
        "_started",
        "headers",
        "reply",
    )

    def __init__(
        self,
        reply: MockReply,
        *,
        name: str,
        now: float = 0.0,
        route: str = "",
        fault: Fault | None = None,
        attempt: int = 1,
        digest: int = 0,
        items: int = 0,
        log: RequestLog | None = None,
        decision: AdmissionDecision | None = None,
    ) -> None:
        self.reply: MockReply = reply
        self.headers: Headers = (*reply.headers, (b"x-request-id", f"req_{name}".encode()))
        self._route = route
        self._fault = fault
        self._attempt = attempt
        self._digest = digest
        self._items = items
        self._log = log
        self._decision = decision
        self._started = now
        if log is not None:
            log.arrived(now, items)

    @property
    def queue_entry(self) -> QueueEntry | None:
        """The entry whose turn comes before the reply's delay begins; None without a queue."""
        return None if self._decision is None else self._decision.queue_entry

    def finish(self, *, gone: bool = False) -> None:
        """Log that the reply is sent, or that the client is `gone`; only the first call counts."""
        status = None if gone else self.reply.status
        self._close(status, gone=gone)

    def abandon(self) -> None:
        """Log that neither happened: the server stopped."""
        self._close(None, gone=False)

    def _close(self, status: int | None, *, gone: bool) -> None:
        log, self._log = self._log, None
        if log is None:
            return
        now = anyio.current_time()
        if self._decision is not None:
            self._decision.finish(now, status, self.reply.wait, gone=gone)
        log.finished(
            LogRecord(
                self._started,
                self._route,
                status,
                self._fault,
                now - self._started,
                self._attempt,
                self._digest,
                gone,
                self._items,
            )
        )
