"""One request's way through a quota."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchrt.errors import BatchError
from batchrt.limits.rate_limits import RateLimitStatus, RequestAccount
from batchrt.runtime.event_loop import LoopHandle, Signal

if TYPE_CHECKING:
    from batchrt.runtime.spending import Reservation

__all__ = ["Permit"]


class Permit(RequestAccount):
    """One request's way through a quota.

    Args:
        size: bytes of its body.
        answers: how many answers it asks for; 0 for vectors.
        most: the most tokens of one answer; `None` if nothing says.
        auto: it is one of those whose number finds itself.
        longest_quiet: seconds that it is willing to wait where the provider asks for that.
        patience: seconds that it is willing to wait for a provider that is down.

    Attributes:
        granted: it counts as sent, and has not ended.
        beside: requests that were under way when it was sent, less those that turned out to be refused.
        verdict: what became of it, for the evidence of limits (`refusal_log.py`).
        loop: the event loop it is sent from.
        run: the outermost run that it belongs to.
        parallel: it was refused since too many were in flight, as the reply says.
        told: what the reply says about limits.
        reservation: what was set aside for it of what its run may spend.
    """

    __slots__ = (
        "again",
        "answers",
        "asked_at",
        "auto",
        "beside",
        "error",
        "granted",
        "longest_quiet",
        "looks",
        "loop",
        "parallel",
        "patience",
        "reservation",
        "run",
        "signal",
        "size",
        "told",
        "verdict",
        "withdrawn",
    )

    def __init__(
        self,
        size: int,
        *,
        answers: int = 1,
        most: float | None = None,
        auto: bool = False,
        longest_quiet: float = math.inf,
        patience: float = 0.0,
    ) -> None:
        super().__init__(None if most is None else most * answers)
        self.size: int = size
        self.answers: int = answers
        self.auto: bool = auto
        self.longest_quiet: float = longest_quiet
        self.patience: float = patience
        self.again: bool = False
        self.looks: bool = False
        self.granted: bool = False
        self.beside: int = 0
        self.verdict: int = 0
        self.withdrawn: bool = False
        self.asked_at: float = 0.0
        self.parallel: bool = False
        self.told: Sequence[RateLimitStatus] = ()
        self.run: object = None
        self.reservation: Reservation | None = None
        self.error: BatchError | None = None
        self.loop: LoopHandle | None = None
        self.signal: Signal | None = None
