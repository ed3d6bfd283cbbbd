"""Retries: another attempt for the one item that failed.

The parts (when to stop, how long to wait, which errors to retry) are tenacity's. The loop is here, because a
first attempt that succeeds must not pay for it, and because a strand that sleeps must not hold a slot.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import tenacity
from tenacity import RetryCallState
from tenacity.wait import wait_base

from batchrt.runtime.strand import Strand
from batchrt.runtime.sync_callbacks import check_sync, checked_sync

__all__ = [
    "MAX_RETRY_AFTER",
    "RetryPolicy",
    "first_failure",
    "note_failure",
    "retry_after_failure",
    "wait_exponential_jitter",
]

T = TypeVar("T")

Attempt: TypeAlias = Callable[[], Awaitable[T]]


Part: TypeAlias = "Callable[[RetryCallState], Any]"
"""One of tenacity's parts, or a function like one."""

MAX_RETRY_AFTER: Final = 120.0
"""Seconds of waiting that are honoured unless a policy says otherwise; the openai SDK's own bound."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Say which errors are retried, when to stop, and how long to wait in between.

    The first three are tenacity's own parts and their combinations, as
    `RetryPolicy(stop=stop_after_attempt(5) | stop_after_delay(60), wait=wait_random_exponential(max=20))`;
    each is called with a `tenacity.RetryCallState`. A part that is left out is the model's own: an error that
    may pass is tried again, `max_retries` times, after the wait that the openai SDK has.

    Whatever the parts say, a provider that names a time to wait is not asked before.

    Args:
        retry: whether this failure is worth another attempt.
        stop: whether it was enough.
        wait: seconds until the next attempt; longer where the provider asks for more.
        max_retry_after: the most seconds that a provider may ask to wait; where it asks for more, the
            error says until when.
        patience: seconds to wait for a provider that is down, instead of failing: no answers come, or the
            retry budget is empty. Meanwhile one request at a time looks whether it is back, and attempts
            do not count.

    Raises:
        TypeError, ValueError: for a part that cannot be called or is async (as those of `tenacity.asyncio`
            are, or `retry_if_exception` of an async predicate), or seconds that make no sense.
    """

    retry: Part | None = None
    stop: Part | None = None
    wait: Part | None = None
    max_retry_after: float = MAX_RETRY_AFTER
    patience: float = 0.0

    def __post_init__(self) -> None:
        for name in ("retry", "stop", "wait"):
            part = getattr(self, name)
            if part is not None and not callable(part):
                raise TypeError(
                    f"{name} must be one of tenacity's parts, or a function like one, not {part!r}"
                )
            check_sync(name, part)
        for name in ("max_retry_after", "patience"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number of seconds, not {value!r}")
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 seconds or more, and finite, not {value}")


class wait_exponential_jitter(wait_base):  # noqa: N801  tenacity's naming
    """Wait `initial · exp_base ^ (attempt - 1)` seconds, at most `max`, plus up to `jitter`.

    Tenacity's part of this name, with its defaults, drawing on a clock's randomness.
    """

    def __init__(
        self,
        random: Callable[[], float],
        *,
        initial: float = 1,
        max: float = tenacity._utils.MAX_WAIT,  # noqa: A002  the parameter's own default
        exp_base: float = 2,
        jitter: float = 1,
    ) -> None:
        self._random = random
        self._initial = initial
        self._max = max
        self._exp_base = exp_base
        self._jitter = jitter

    def __call__(self, retry_state: RetryCallState) -> float:  # noqa: D102  tenacity's interface
        jitter = self._random() * self._jitter
        try:
            exponential = self._exp_base ** (retry_state.attempt_number - 1)
            result = self._initial * exponential + jitter
        except OverflowError:
            result = self._max
        return max(0.0, min(result, self._max))


async def retry_after_failure(
    attempt: Attempt[T], error: BaseException, *, retry: Part, stop: Part, wait: Part, strand: Strand
) -> T:
    """Go on after a first attempt that raised `error`; return the first output or raise the last error.

    The strand's slot is given up before each wait; `attempt` takes it again. `item.retries` counts.
    """
    state = first_failure(error, strand)
    while True:
        if not checked_sync("retry", retry(state)) or checked_sync("stop", stop(state)):
            raise error
        seconds = wait(state)
        strand.give()
        await strand.run.clock.sleep(seconds)
        strand.count_retry()
        state.idle_for += seconds
        state.prepare_for_next_attempt()
        try:
            return await attempt()
        except Exception as next_error:  # noqa: BLE001  judged by the policy
            error = next_error
            note_failure(state, error, strand)


def first_failure(error: BaseException, strand: Strand) -> RetryCallState:
    """Return the state that tenacity's parts look at, after a first attempt that raised `error`."""
    retry_object: Any = None  # the parts look at the state alone
    state = RetryCallState(retry_object, None, (), {})
    state.start_time = strand.run.clock.now()
    note_failure(state, error, strand)
    return state


def note_failure(state: RetryCallState, error: BaseException, strand: Strand) -> None:
    """Note in `state` that its attempt raised `error`."""
    state.set_exception((type(error), error, None))  # it is asked for the second alone
    state.outcome_timestamp = strand.run.clock.now()
