"""The quota: how much one endpoint allows one key for one model."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from batchrt.errors import ProviderError
from batchrt.limits.admission_control import AdmissionControl
from batchrt.limits.error_kinds import Failure, FailureKind, reason
from batchrt.limits.events import Listener, Retried
from batchrt.limits.permit import Permit
from batchrt.limits.quota_statistics import QuotaStatistics
from batchrt.limits.quota_watch import note_failing
from batchrt.limits.retry_budget import RetryBudget
from batchrt.limits.token_bucket import Period, Unit
from batchrt.messages import Usage

if TYPE_CHECKING:
    from batchrt.limits.shared.carrier import Carrier

__all__ = ["LIMITS", "UNCHANGED", "Quota", "Unchanged", "check_limit"]

Unchanged: TypeAlias = Literal["unchanged"]
UNCHANGED: Final[Unchanged] = "unchanged"
"""Stands for a limit that is left as it is; `None` lifts a limit."""

LIMITS: Final[dict[str, tuple[Unit, Period]]] = {
    "requests_per_minute": ("requests", "minute"),
    "tokens_per_minute": ("tokens", "minute"),
    "requests_per_day": ("requests", "day"),
    "tokens_per_day": ("tokens", "day"),
}
"""The rate limits that can be given, by their names."""

_log: Final = logging.getLogger("batchrt")

_FIRST_ANSWERS: Final = 16
"""Answers after which headers about requests in flight are not looked for, if none came."""


def check_limit(name: str, value: float | None) -> None:
    """Raise TypeError or ValueError for a value that cannot be the limit called `name`."""
    if value is None:
        return
    whole = name == "max_in_flight"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise TypeError(
            f"{name} must be a {'positive integer' if whole else 'number'} or None, not {value!r}"
        )
    if not 0 < value < math.inf:
        least = "at least 1" if whole else "more than 0"
        raise ValueError(f"{name} must be {least}, or None for no limit, not {value}")


class Quota(AdmissionControl):
    """Admit requests to a provider within its limits.

    Every model uses the quota of its endpoint, key and model name, which is shared by all clients, runs and
    threads of the process. A model may be given a quota of its own (`ChatOpenAI(…, quota=…)`), and several
    models may share one. Safe to use from any event loop and thread.

    The provider's rate limit headers (`x-ratelimit-…`) correct the limits that are known here, and suffice
    by themselves: give limits where a provider sends no headers, or to use less than it allows. Limits
    belong to the quota, and so to all models that share it: the latest value counts, from a model's
    constructor or from `set_limits`, and `None` lifts a limit.

    The prior art is the token bucket, AIMD and CUBIC for limits that are found, the circuit breaker with
    half-open probes, and AWS's retry token bucket.

    Args:
        requests_per_minute: requests that may be sent in a minute.
        tokens_per_minute: tokens of prompts and answers together. An answer's tokens are estimated from
            earlier answers, and settled when it arrives.
        requests_per_day: likewise for a day.
        tokens_per_day: likewise for a day.
        max_in_flight: requests that may be in flight at once.
        burst_seconds: how many seconds of a minute's limits may be used at once: 60 as OpenAI has it, 1 for
            a server that counts by seconds; a bucket holds at least one request. `None` finds it out: a
            second's worth at first, and then twice the rate until the provider tells the bucket's size.
        retry_budget: bounds the number of retries; `None` for no bound.
        follow_headers: use the rate limit headers of answers.
        shared: share the limits with other processes: `sqlite:///path.db` for those of one host (four slashes
            before an absolute path), `redis://host:6379/0` across hosts (with the extra `redis`), or a
            carrier. Shares of the limits are leased for seconds, and nothing is sent without a lease. Limits
            that one process sets or is told, and its cool-downs, are those of all. `None` for one process.
        shared_name: tells quotas apart that use the same file or server; such as a model's name.

    Attributes:
        events: announces events to listeners.
        follow_headers: whether rate limit headers are used.
        retries: the retry budget, and the requests that wait for it.

    Raises:
        ValueError, TypeError: for an invalid limit.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        requests_per_day: float | None = None,
        tokens_per_day: float | None = None,
        max_in_flight: int | None = None,
        burst_seconds: float | None = None,
        retry_budget: RetryBudget | None = RetryBudget(),  # noqa: B008  it is immutable
        follow_headers: bool = True,
        shared: str | Carrier | None = None,
        shared_name: str = "default",
    ) -> None:
        check_limit("burst_seconds", burst_seconds)
        super().__init__(burst_seconds, retry_budget, shared, shared_name)
        self.follow_headers: bool = follow_headers
        self.set_limits(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            requests_per_day=requests_per_day,
            tokens_per_day=tokens_per_day,
            max_in_flight=max_in_flight,
        )
        self._answers = self._tokens = self._refusals = self._retried = 0

    def __repr__(self) -> str:
        limits = self._limiter.limits().items()
        return f"Quota({', '.join(f'{name}={value:g}' for name, value in limits)})"

    def set_limits(
        self,
        *,
        requests_per_minute: float | Unchanged | None = UNCHANGED,
        tokens_per_minute: float | Unchanged | None = UNCHANGED,
        requests_per_day: float | Unchanged | None = UNCHANGED,
        tokens_per_day: float | Unchanged | None = UNCHANGED,
        max_in_flight: int | Unchanged | None = UNCHANGED,
    ) -> None:
        """Replace limits from now on, for all models that share this quota; others stay as they are.

        `None` lifts a limit. Limits that the provider tells apply all the same. A change is announced to
        listeners (`LimitChanged`), and logged where there was another limit before.

        Raises:
            ValueError, TypeError: for an invalid limit; then nothing is changed.
        """
        given = {
            name: value
            for name, value in (
                ("requests_per_minute", requests_per_minute),
                ("tokens_per_minute", tokens_per_minute),
                ("requests_per_day", requests_per_day),
                ("tokens_per_day", tokens_per_day),
                ("max_in_flight", max_in_flight),
            )
            if value != UNCHANGED
        }
        for name, value in given.items():
            check_limit(name, value)
        with self._lock:
            self._clear = False
            before = self._limiter.given()
            if max_in_flight != UNCHANGED:
                self._limiter.concurrency.set_given(max_in_flight)
            self._limiter.rates.set_limits({LIMITS[name]: given[name] for name in given if name in LIMITS})
            if self._keeper is not None:
                self._keeper.tell_given(given)
            self._queue.wake_soon()
        for name, value in given.items():
            if name in before and value != before[name]:
                said = f"{before[name]:g}", "none" if value is None else f"{value:g}"
                _log.info("%s of a quota that others may share was %s, and is %s now", name, *said)

    def listening(self, listener: Listener) -> AbstractContextManager[None]:
        """Call `listener` for each event within the block.

        It is called soon, on the thread on which the event happens, and should be quick; no lock is held.
        """
        return self.events.listening(listener)

    def statistics(self) -> QuotaStatistics:
        """Return the state; on an event loop as of now, elsewhere as of the last request."""
        with self._lock:
            limiter = self._limiter
            now = max(limiter.now, self._queue.now() or limiter.now)
            down, auto = limiter.breaker.since, limiter.concurrency.auto
            return QuotaStatistics(
                in_flight=limiter.in_flight,
                waiting=len(self._queue),
                limits=limiter.limits(),
                used=limiter.rates.used(now),
                quiet_for=limiter.pacing.cooldown.left(now),
                max_concurrency=None if auto is None else auto.limit,
                down_for=None if down is None else now - down,
                retry_tokens=self.retries.left,
                requests=self._requests,
                answers=self._answers,
                tokens=self._tokens,
                refusals=self._refusals,
                retries=self._retried,
                sources=limiter.statuses(now),
                shared=None if self._keeper is None else self._keeper.status(now),
            )

    # The end of a request

    def answered(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """Record an answer, and its usage."""
        if self._clear and not (permit.told or permit.probes or self.events.listeners):
            with self._lock.silent:
                if self._clear:
                    self._answered_freely(permit, usage, now)
                    return
        with self._lock:
            if permit.told:
                self._clear = False
            now = self._limiter.tick(now)
            self._answers += 1
            self._tokens += 0 if usage is None else usage.total_tokens
            self._limiter.answered(permit, usage, now)
            self.retries.repay()
            self._end(permit, now, answered=True)

    def _answered_freely(self, permit: Permit, usage: Usage | None, now: float) -> None:
        """Record an answer while nothing holds requests back; under the lock."""
        limiter = self._limiter
        now = limiter.tick(now)
        self._answers += 1
        if usage is not None:
            self._tokens += usage.total_tokens
        limiter.answered_freely(permit, usage, now)
        limiter.breaker.answered(permit.sent_at, now)
        self._under_way.discard(permit)
        permit.granted, permit.loop = False, None
        self.retries.repay()
        if self._queue:
            self._pump(now)
        self.retries.relieve()

    @property
    def may_be_parallel(self) -> bool:
        """Whether to look in answers for a limit of requests in flight: the first ones have it, if any."""
        few = self._answers < _FIRST_ANSWERS or self._refusals > 0
        return few or self._limiter.concurrency.told is not None

    def told_in_flight(self, limit: int) -> None:
        """Keep to a limit of requests in flight that an answer tells."""
        with self._lock:
            self._clear = False
            self._limiter.concurrency.set_told(limit)
            if self._keeper is not None:
                self._keeper.tell_in_flight(limit)

    def failed(self, permit: Permit, failure: Failure, now: float, *, unit: Unit | None = None) -> None:
        """Record that the request of `permit` failed.

        Args:
            permit: the request.
            failure: the error and its kind.
            now: the time.
            unit: the limit that was exceeded, if the reply says.
        """
        kind, limiter = failure.kind, self._limiter
        note_failing(self.events)
        with self._lock:
            self._clear = False
            now = limiter.tick(now)
            self._refusals += kind.overloaded
            if limiter.failed(permit, failure, now, unit):
                self._queue.reject(lambda waiting: limiter.hopeless(waiting, now))
            answered = not kind.overloaded and not kind.outage
            # A wrong address is no outage: waiting does not help.
            down = kind.outage and not self.has_wrong_address(kind)
            self._end(permit, now, answered=answered, failure=failure.error if down else None)

    # Retries

    def expect(self, permit: Permit) -> bool:
        """Estimate the tokens of `permit`; return whether the estimate is more than a guess."""
        return self._limiter.expect(permit)

    def serves(self, since: float, now: float) -> bool:
        """Whether the provider answered, or has let in, other requests since then."""
        return self._limiter.serves(since, now)

    def has_served(self, now: float) -> bool:
        """Whether the provider answered anything within the last minute."""
        return self._limiter.has_served(now)

    def is_down(self) -> bool:
        """Whether the provider is down."""
        return self._limiter.breaker.since is not None

    def has_wrong_address(self, kind: FailureKind) -> bool:
        """Whether `kind` blames the address, and no request was ever answered there: waiting is no use."""
        return kind.wrong_address and not self._limiter.reached

    def silent_since(self, moment: float) -> bool:
        """Whether the provider has answered no request that was sent since then."""
        return self._limiter.breaker.answered_at < moment

    def report_down(self, error: ProviderError, now: float) -> None:
        """Declare the provider down: all attempts of a request failed, and no other was answered."""
        with self._lock:
            if self._limiter.breaker.open(self._limiter.tick(now)):
                self._went_down(error)

    def tell_retry(self, error: ProviderError, wait: float, attempt: int) -> None:
        """Count a retry that will be made, and announce it."""
        with self._lock:
            self._retried += 1
        if self.events.listeners:
            left = self._limiter.pacing.cooldown.left(self._limiter.now)
            self.events.tell(Retried(reason(error), max(wait, left), attempt))
