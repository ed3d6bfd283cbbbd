"""The retrial: one request that is sent right after a refusal, to tell a limit from noise.

A limit that refused a request a moment ago refuses the next one as well: its bucket is still empty, and as
many are still in flight. Refusals that have nothing to do with this client are as likely as before. So the
outcome of one request, which is known within a refusal's time, is stronger evidence than any number of
outcomes from before the refusal, and it costs one refusal where there is a limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrt.limits.refusal_log import PENDING

if TYPE_CHECKING:
    from batchrt.limits.permit import Permit

__all__ = ["Retrial"]


class Retrial:
    """Keep which request is sent again during a pause.

    Attributes:
        is_wanted: a request is to be sent.
        permit: the one that is sent; `None` without.
        has_failed: it was refused as well.
    """

    __slots__ = ("has_failed", "is_wanted", "permit")

    def __init__(self) -> None:
        self.is_wanted: bool = False
        self.permit: Permit | None = None
        self.has_failed: bool = False

    def want(self) -> None:
        """Have one request sent."""
        self.is_wanted, self.permit, self.has_failed = True, None, False

    def granted(self, permit: Permit) -> None:
        """Record that a request may be sent."""
        if self.is_wanted:
            self.is_wanted, self.permit = False, permit
            permit.verdict = PENDING

    def withdrawn(self, permit: Permit) -> None:
        """Record that a request was not sent after all."""
        if self.permit is permit:
            self.want()

    def refused(self, permit: Permit) -> bool:
        """Record a refusal; return whether it is that of the request that was sent again."""
        if self.permit is not permit:
            return False
        self.permit, self.has_failed = None, True
        return True

    def known_at(self, now: float, settling: float) -> float:
        """Return when the request would have been refused, `now` if it is known."""
        assert self.permit is not None
        return self.permit.sent_at + settling if self.permit.verdict == PENDING else now

    def end(self) -> Permit:
        """Forget the request, and return it."""
        assert self.permit is not None
        sent, self.permit = self.permit, None
        return sent
