"""The permit of one request: its needs, its patience, and its way through the quota."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from batchrt.errors import BatchError
from batchrt.runtime.event_loop import LoopHandle, Signal

if TYPE_CHECKING:
    from batchrt.limits.rate_limits import RateLimitStatus
    from batchrt.runtime.spending import Reservation

__all__ = ["Permit", "RequestAccount", "Waiting"]


class Waiting(NamedTuple):
    """The requests that wait for a quota in this process.

    Attributes:
        requests: their number.
        tokens: the most tokens that they are expected to cost together.
        first: the tokens of the first of them.
    """

    requests: int = 0
    tokens: float = 0.0
    first: float = 0.0


class RequestAccount:
    """Hold the charge for one request, and the totals right after it.

    Attributes:
        input: tokens that the prompt is expected to have.
        output: tokens that the answer is expected to have.
        most: the most tokens that the answer may have; `None` if nothing says.
        sent_at: when it was sent.
        counted: the totals charged by then, this request included, in each way of counting.
    """

    __slots__ = ("counted", "input", "most", "output", "sent_at")

    def __init__(self, most: float | None = None) -> None:
        self.input: float = 0.0
        self.output: float = 0.0
        self.most: float | None = most
        self.sent_at: float = 0.0
        self.counted: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def tokens(self) -> float:
        """The tokens that are expected."""
        return self.input + self.output


class Permit(RequestAccount):
    """Carry one request through a quota: waiting, granted, ended.

    Args:
        size: bytes of its body.
        answers: how many answers it asks for; 0 for vectors.
        most: the most tokens of one answer; `None` if nothing says.
        auto: it runs under `max_concurrency="auto"`.
        longest_quiet: the most seconds that the provider may ask it to wait.
        patience: seconds that it waits for a provider that is down.

    Attributes:
        again: it is a retry, and goes before first attempts.
        probes: it is the half-open probe of a provider that is down.
        granted: it counts as sent, and has not ended.
        held: seconds for which the consumer of a streamed answer held it up.
        withdrawn: it waits no longer; the queue drops it.
        error: why it was rejected while it waited.
        signal: set when it is granted or rejected.
        beside: requests in flight when it was sent, less those that turned out to be refused.
        verdict: its outcome, as evidence for limits (`refusal_log.py`).
        loop: the event loop it is sent from; `None` once it has ended.
        run: the outermost run that it belongs to, while it waits.
        parallel: the reply says that too many requests were in flight.
        told: the limits that the reply tells.
        reservation: the part of the run's spending limit that is set aside for it.
    """

    __slots__ = (
        "again",
        "answers",
        "asked_at",
        "auto",
        "beside",
        "error",
        "granted",
        "held",
        "longest_quiet",
        "loop",
        "parallel",
        "patience",
        "probes",
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
        self.probes: bool = False
        self.granted: bool = False
        self.held: float = 0.0
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

    def reject(self, error: BatchError) -> None:
        """End the wait with `error`."""
        self.withdrawn, self.error = True, error
        if self.signal is not None:
            self.signal.set()
