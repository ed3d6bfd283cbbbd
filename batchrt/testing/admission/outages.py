"""Outages: spans of time in which every request fails."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from batchrt.testing.admission.throttle_responses import ThrottleResponses
from batchrt.testing.endpoints.replies import Ending, MockReply
from batchrt.testing.endpoints.server_families import MockFamily

__all__ = ["Outage", "OutageKind", "outage_reply"]

OutageKind: TypeAlias = Literal[500, 503, 429, "refused", "hanging"]


@dataclass(frozen=True, slots=True)
class Outage:
    """Fail every valid request for a model that arrives from second `start` until before `end`.

    Such a request does not count against a quota, wait in a queue, or meet a fault of the plan.

    Args:
        start: seconds since the provider's first request.
        end: likewise; infinity for an outage without end.
        kind: the status to answer; or "refused": the connection is refused (on a socket it is reset); or
            "hanging": no answer until the end, and then the connection closes.
        retry_after: whether an answer gives the rest of the outage: a 429 in the provider's style, another
            status in `retry-after`, rounded up. None: only a 429 does.
        delay: the seconds until the failure.
    """

    start: float
    end: float
    kind: OutageKind = 503
    retry_after: bool | None = None
    delay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"an outage needs 0 <= start < end, not {self.start!r} and {self.end!r}")
        if self.kind not in get_args(OutageKind):
            raise ValueError(f"kind must be one of {get_args(OutageKind)}, not {self.kind!r}")
        if not 0 <= self.delay < math.inf:
            raise ValueError(f"delay must be seconds >= 0, not {self.delay!r}")
        if self.retry_after and (isinstance(self.kind, str) or self.end == math.inf):
            raise ValueError("retry_after needs a kind that is a status, and an end")

    @property
    def tells_end(self) -> bool:
        """Whether an answer gives the rest of the outage."""
        return (self.kind == 429 and self.end < math.inf) if self.retry_after is None else self.retry_after  # noqa: PLR2004

    def covers(self, second: float) -> bool:
        """Return whether the outage is on at `second`."""
        return self.start <= second < self.end


def outage_reply(
    outage: Outage, second: float, family: MockFamily, throttle_responses: ThrottleResponses
) -> MockReply:
    """Make the reply to a request that arrives at `second` of an outage."""
    left = outage.end - second
    if outage.kind == "refused":
        return MockReply(None, delay=outage.delay, ending=Ending.REFUSE)
    if outage.kind == "hanging":
        return MockReply(None, delay=left, ending=Ending.CLOSE)
    wait = left if outage.tells_end else None
    if outage.kind == 429:  # noqa: PLR2004
        reply = throttle_responses.refusal("Rate limit reached.", wait)
    elif outage.kind == 503:  # noqa: PLR2004
        message = "The server is overloaded."
        reply = family.make_error(503, message, kind="server_error", code="server_is_overloaded").reply
        reply = reply.asking_to_wait(wait)
    else:
        message = "The server had an error."
        reply = family.make_error(500, message, kind="server_error", code="internal_error").reply
        reply = reply.asking_to_wait(wait)
    return reply._replace(delay=outage.delay)
