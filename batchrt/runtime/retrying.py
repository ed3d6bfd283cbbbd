"""Another attempt for the item that failed, and for nobody else.

The parts (when to stop, how long to wait, what to retry) are tenacity's. The loop is here, because a
first attempt that succeeds must not pay for it, and because a strand that sleeps must not hold a slot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import tenacity
from tenacity import RetryCallState
from tenacity.wait import wait_base

from batchrt.runtime.run import Strand

__all__ = ["RetryPolicy", "retry_after_failure", "wait_exponential_jitter"]

T = TypeVar("T")

Attempt: TypeAlias = Callable[[], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Say what is tried again, when it is enough, and how long to wait in between.

    Each part is called with a `tenacity.RetryCallState`, so tenacity's own and their combinations
    (`stop_after_attempt(3) | stop_after_delay(60)`) fit.

    Attributes:
        retry: whether this failure is worth another attempt.
        stop: whether it was enough.
        wait: seconds until the next attempt.
    """

    retry: Callable[[RetryCallState], bool]
    stop: Callable[[RetryCallState], bool]
    wait: Callable[[RetryCallState], float]


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
    attempt: Attempt[T], error: BaseException, policy: RetryPolicy, strand: Strand
) -> T:
    """Go on after a first attempt that raised `error`; return the first output or raise the last error.

    The strand's slot is given up before each wait; `attempt` takes it again. `item.retries` counts.
    """
    state = _first_failure(error, strand)
    while True:
        if not policy.retry(state) or policy.stop(state):
            raise error
        wait = policy.wait(state)
        strand.give()
        await strand.run.clock.sleep(wait)
        strand.item.retries += 1
        state.idle_for += wait
        state.prepare_for_next_attempt()
        try:
            return await attempt()
        except Exception as next_error:  # noqa: BLE001  judged by the policy
            error = next_error
            _note_failure(state, error, strand)


def _first_failure(error: BaseException, strand: Strand) -> RetryCallState:
    retry_object: Any = None  # the parts look at the state alone
    state = RetryCallState(retry_object, None, (), {})
    state.start_time = strand.run.clock.now()
    _note_failure(state, error, strand)
    return state


def _note_failure(state: RetryCallState, error: BaseException, strand: Strand) -> None:
    state.set_exception((type(error), error, error.__traceback__))
    state.outcome_timestamp = strand.run.clock.now()
