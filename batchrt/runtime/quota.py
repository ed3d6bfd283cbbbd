"""What one endpoint allows one key for one model, and the queue of those who want to use it.

A request is let in when it fits into every limit that is known, when nobody asked to be left alone, and
when those who came before it are through. Who has to wait does so without a slot, in a queue, first come
first served; those who were sent before and failed go first. One alarm for each event loop lets the first
in when its time has come: nobody polls, and nobody who waits has a timer.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from batchrt.errors import (
    ConnectionFailedError,
    MalformedResponseError,
    OutageError,
    ProviderError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from batchrt.messages import Usage
from batchrt.runtime.adaptive import Adaptive
from batchrt.runtime.allowance import Allowance, Charge, Standing
from batchrt.runtime.buckets import Period, Unit
from batchrt.runtime.budget import RetryBudget, RetryTokens
from batchrt.runtime.clock import Clock, clock_time
from batchrt.runtime.costs import Costs
from batchrt.runtime.downtime import Downtime
from batchrt.runtime.events import (
    Admitted,
    BudgetEmpty,
    CooledDown,
    Events,
    LimitChanged,
    Listener,
    ProviderDown,
    ProviderUp,
    Retried,
    Sent,
)
from batchrt.runtime.loops import Alarm, LoopHandle, Signal

if TYPE_CHECKING:
    from batchrt.runtime.run import Strand
    from batchrt.runtime.spending import Reservation

__all__ = [
    "LIMITS",
    "Passage",
    "Quota",
    "QuotaStatistics",
    "check_limit",
    "is_outage",
    "is_overloaded",
    "is_paced",
    "may_be_billed",
]

LIMITS: Final[dict[str, tuple[Unit, Period]]] = {
    "requests_per_minute": ("requests", "minute"),
    "tokens_per_minute": ("tokens", "minute"),
    "requests_per_day": ("requests", "day"),
    "tokens_per_day": ("tokens", "day"),
}
"""The limits that can be given, by their names."""

_LONGEST_QUIET: Final = 3600.0
"""Seconds for which a provider is left alone at the most, whatever it asks for: then one request looks.
Azure has been seen to say a day when it meant seconds."""
_TOO_EARLY: Final = 0.0005
"""Seconds: event loops are no more exact than a millisecond."""
_AT_ONCE: Final = 32
_DOUBLING: Final = 0.04
"""How many requests are sent to a provider that has not answered yet, and the seconds in which that
doubles: who has a limit says so within a round trip, and need not be flooded to."""


@dataclass(frozen=True, slots=True)
class QuotaStatistics:
    """Tell how a quota stands.

    Attributes:
        in_flight: requests under way.
        waiting: requests that wait to be sent.
        limits: by name, of those that are known: how many are allowed in the limit's period.
        used: by name, the share of the limit that is used up right now, 0 to 1.
        quiet_for: seconds for which nobody sends, since the provider asked to be left alone.
        max_concurrency: what `"auto"` has found; `None` where nobody asked for that.
        down_for: seconds for which there was no answer; `None` if there are answers.
        retry_tokens: what is left of the retry budget; `None` without one.
    """

    in_flight: int
    waiting: int
    limits: Mapping[str, float]
    used: Mapping[str, float]
    quiet_for: float
    max_concurrency: int | None
    down_for: float | None
    retry_tokens: float | None


def check_limit(name: str, value: float | None) -> None:
    """Raise TypeError or ValueError for what cannot be a limit."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number or None, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be more than 0, or None for no limit, not {value}")


def _check_in_flight(value: int | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_in_flight must be a positive integer or None, not {value!r}")
    if value < 1:
        raise ValueError(f"max_in_flight must be at least 1, or None for no limit, not {value}")


class Passage(Charge):
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
        told: what the reply says about limits.
        reservation: what was set aside for it of what its run may spend.
    """

    __slots__ = (
        "again",
        "answers",
        "asked_at",
        "auto",
        "desk",
        "error",
        "granted",
        "longest_quiet",
        "looks",
        "patience",
        "reservation",
        "signal",
        "size",
        "told",
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
        self.size = size
        self.answers = answers
        self.auto = auto
        self.longest_quiet = longest_quiet
        self.patience = patience
        self.again = False
        self.looks = False
        self.granted = False
        self.withdrawn = False
        self.asked_at = 0.0
        self.told: Sequence[Standing] = ()
        self.reservation: Reservation | None = None
        self.error: ProviderError | None = None
        self.signal: Signal | None = None
        self.desk: _Desk | None = None


class _Desk:
    """Those of one event loop who wait."""

    __slots__ = ("alarm", "loop", "offset", "waiting")

    def __init__(self, loop: LoopHandle, offset: float) -> None:
        self.loop = loop
        self.offset = offset
        self.alarm = Alarm(_nothing)
        self.waiting = 0


def _nothing() -> None:
    """Be rung for nothing."""


class _Ramp:
    """After a time in which nobody sent: one more at first, and for each answer another one.

    Attributes:
        allowed: how many may be in flight; 0 until the time is over.
        enough: how many are no reason to hold back.
    """

    __slots__ = ("allowed", "enough")

    def __init__(self, enough: int) -> None:
        self.allowed = 0
        self.enough = max(2, enough)

    def lets_in(self, in_flight: int) -> bool:
        """Whether one more may be sent."""
        if not self.allowed:
            self.allowed = in_flight + 1
        return in_flight < self.allowed

    def answered(self) -> bool:
        """Note an answer; return whether it is over."""
        if self.allowed:
            self.allowed += 1
        return self.allowed >= self.enough


class Quota:
    """Say how much may be sent to a provider, and see to it.

    Every model asks the quota of its endpoint, key and model name, which all clients, runs and threads of
    the process share that name the same. An own one may be given to a model (`ChatOpenAI(…, quota=…)`), or
    to several, which then share it. Safe to use from any event loop and thread.

    What the provider says in its answers (`x-ratelimit-…`) corrects what is known here, and is enough by
    itself: limits are given where it does not say, or where less is to be used than it allows.

    Args:
        requests_per_minute: requests that may be sent in a minute.
        tokens_per_minute: tokens, of prompts and answers together. What an answer will cost is expected
            from what others did, and settled when it is there.
        requests_per_day: likewise for a day.
        tokens_per_day: likewise for a day.
        max_in_flight: requests that may be under way at once.
        burst_seconds: how many seconds of a minute's limits may be used at once: 60 as OpenAI has it, 1 for
            a server that counts by seconds; a bucket of one request is the least. `None` finds it out:
            a second's worth at first, and then twice the rate until the provider says what it has.
        retry_budget: how many retries there may be; `None` for no bound.
        follow_headers: take in what answers say.

    Raises:
        ValueError, TypeError: for a limit that makes no sense.
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
    ) -> None:
        given = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "requests_per_day": requests_per_day,
            "tokens_per_day": tokens_per_day,
        }
        check_limit("burst_seconds", burst_seconds)
        self.events: Events = Events()
        self.follow_headers = follow_headers
        self._lock = threading.RLock()
        self._max_in_flight: int | None = None
        self._allowance = Allowance({}, burst_seconds, self._tell_limit)
        self.set_limits(**given, max_in_flight=max_in_flight)
        self._tokens = RetryTokens(retry_budget) if retry_budget is not None else None
        self._costs = Costs()
        self._downtime = Downtime()
        self._adaptive: Adaptive | None = None
        self._ramp: _Ramp | None = None
        self._now = 0.0
        self._wall = Clock().wall
        self._in_flight = 0
        self._first_sent: float | None = None
        self._sent = 0
        self._heard = False
        self._quiet_until = self._quiet_since = -math.inf
        self._quiet_for: ProviderError | None = None
        self._queue: deque[Passage] = deque()
        self._again: deque[Passage] = deque()
        self._parked: deque[Passage] = deque()
        self._poor: deque[Signal] = deque()
        self._due = math.inf
        self._desks: dict[object, _Desk] = {}

    def __repr__(self) -> str:
        said = self._allowance.limits()
        if self._max_in_flight is not None:
            said["max_in_flight"] = self._max_in_flight
        return f"Quota({', '.join(f'{name}={value:g}' for name, value in said.items())})"

    def set_limits(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        requests_per_day: float | None = None,
        tokens_per_day: float | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        """Have other limits from now on; what is `None` stays as it is.

        Raises:
            ValueError, TypeError: for a limit that makes no sense.
        """
        given = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "requests_per_day": requests_per_day,
            "tokens_per_day": tokens_per_day,
        }
        for name, value in given.items():
            check_limit(name, value)
        _check_in_flight(max_in_flight)
        with self._lock:
            found = {LIMITS[name]: value for name, value in given.items() if value is not None}
            if found:
                self._allowance.set_limits(found)
            if max_in_flight is not None:
                self._max_in_flight = max_in_flight
            self._rouse()

    def _rouse(self) -> None:
        """Have those who wait looked at soon, on a loop of theirs."""
        for desk in getattr(self, "_desks", {}).values():
            desk.loop.call(partial(self._ring, desk))

    def listening(self, listener: Listener) -> AbstractContextManager[None]:
        """Have `listener` told of everything that happens here, within the block.

        It is called at once, on whatever thread it happens, and should be quick.
        """
        return self.events.listening(listener)

    def statistics(self) -> QuotaStatistics:
        """Return how things stand; on an event loop as of now, elsewhere as of the last request."""
        with self._lock:
            now = self._now
            for desk in self._desks.values():
                if desk.loop.here():
                    now = max(now, desk.loop.time() + desk.offset)
            down = self._downtime.since
            return QuotaStatistics(
                in_flight=self._in_flight,
                waiting=sum(not one.withdrawn for one in (*self._again, *self._queue, *self._parked)),
                limits=self._allowance.limits(),
                used=self._allowance.used(now),
                quiet_for=max(0.0, self._quiet_until - now),
                max_concurrency=None if self._adaptive is None else self._adaptive.limit,
                down_for=None if down is None else now - down,
                retry_tokens=None if self._tokens is None else self._tokens.left,
            )

    # In

    async def admit(self, passage: Passage, strand: Strand) -> None:
        """Wait until `passage` may be sent, and return with a slot for it; it counts as sent.

        Raises:
            RateLimitError: the provider asked to be left alone for longer than the passage will wait.
            OutageError: it was down for longer than the passage will wait.
        """
        await strand.take()
        now = strand.run.now()
        self._wall = strand.run.clock.wall
        if self._enter(passage, now):
            return
        passage.asked_at = now
        while True:
            await self._wait(passage, strand, now)
            if not strand.has_slot:
                try:
                    await strand.take()
                except BaseException:
                    self._withdraw(passage, strand.run.now())
                    raise
            now = strand.run.now()
            if self._quiet_until <= now:
                passage.sent_at = now
                break
            # While it waited for a slot, somebody was asked to leave the provider alone.
            self._withdraw(passage, now)
            passage.again = True
        if self.events.listeners:
            self.events.tell(Admitted(now - passage.asked_at, passage.tokens))
            self.events.tell(Sent(self._in_flight, passage.tokens))

    def expect(self, passage: Passage) -> None:
        """Note in `passage` what it is expected to cost, as things stand."""
        passage.input, passage.output = self._costs.expect(
            passage.size, answers=passage.answers, most=passage.most
        )

    def _enter(self, passage: Passage, now: float) -> bool:
        """Let `passage` in if there is nothing to wait for."""
        with self._lock:
            now = self._tick(now)
            self.expect(passage)
            if passage.auto and self._adaptive is None:
                self._adaptive = Adaptive(self._tell_concurrency)
            if self._waits_for_provider(passage):
                first = not self._parked
            else:
                first = not self._again and (passage.again or not self._queue)
            if not first or self._obstacle(passage, now, wanted=False) > now:
                error = self._hopeless(passage, now)
                if error is not None:
                    raise error
                return False
            self._grant(passage, now)
        if self.events.listeners:
            self.events.tell(Sent(self._in_flight, passage.tokens))
        return True

    def _tick(self, now: float) -> float:
        # Loops whose time is virtual may be behind what is known already.
        self._now = now = max(now, self._now)
        return now

    def _waits_for_provider(self, passage: Passage) -> bool:
        """Whether `passage` is one of those who wait for a provider that is down, instead of trying."""
        return self._downtime.since is not None and passage.patience > 0

    def _hopeless(self, passage: Passage, now: float) -> ProviderError | None:
        """Return why `passage` will not wait, if it will not."""
        if self._quiet_until - now > passage.longest_quiet:
            return self._too_long(passage, now)
        down = self._downtime.since
        if down is not None and passage.patience and now - down >= passage.patience:
            return OutageError(
                f"the provider has been down for {now - down:.0f} s ({self._downtime.failures} requests in a "
                "row without an answer), and nothing was sent any more; try again when it is back",
                seconds=now - down,
            )
        return None

    def _too_long(self, passage: Passage, now: float) -> RateLimitError:
        left = self._quiet_until - now
        cause = self._quiet_for
        error = RateLimitError(
            f"the provider asked to be left alone for {left:.3g} s more, which is more than is waited for "
            f"({passage.longest_quiet:g} s): until {clock_time(self._wall() + left)}; nothing was sent",
            status=None if cause is None else cause.status,
            code=None if cause is None else cause.code,
            attempts=0,
            retry_after=left,
        )
        error.__cause__ = cause
        return error

    def _obstacle(self, passage: Passage, now: float, *, wanted: bool) -> float:  # noqa: PLR0911  a list
        """Return when `passage` may be sent as far as is known: `now` at once, infinity when others end."""
        if self._max_in_flight is not None and self._in_flight >= self._max_in_flight:
            return math.inf
        if passage.auto and self._adaptive is not None and self._in_flight >= self._adaptive.limit:
            self._adaptive.wanted = True
            return math.inf
        if self._quiet_until > now:
            return self._quiet_until
        if self._waits_for_provider(passage):
            return self._downtime.look_at
        if self._ramp is not None and not self._ramp.lets_in(self._in_flight):
            return math.inf
        late = min(now - self._due, 1.0) if self._due < now else 0.0
        wait = self._allowance.wait_for(passage, now, wanted=wanted, late=late)
        if wait > 0:
            return now + wait
        if not self._heard and not self._allowance.paces:
            return self._when_unheard(now)
        return now

    def _when_unheard(self, now: float) -> float:
        """Return when the next request may go to a provider that has not answered anything yet."""
        if self._first_sent is None or self._sent < _AT_ONCE:
            return now
        return self._first_sent + _DOUBLING * math.log2((self._sent + 1) / _AT_ONCE)

    def _grant(self, passage: Passage, now: float) -> None:
        if self._first_sent is None:
            self._first_sent = now
        self._sent += 1
        self._in_flight += 1
        passage.granted = True
        passage.looks = self._waits_for_provider(passage)
        if passage.looks:
            self._downtime.look()
        self._allowance.charge(passage, now)

    async def _wait(self, passage: Passage, strand: Strand, now: float) -> None:
        """Wait in the queue until `passage` is granted; without a slot."""
        passage.signal = signal = Signal()
        passage.granted = passage.withdrawn = False
        with self._lock:
            passage.desk = desk = self._desk(strand)
            desk.waiting += 1
            if self._waits_for_provider(passage):
                queue = self._parked
            else:
                queue = self._again if passage.again else self._queue
            queue.append(passage)
            # Behind others there is nothing to find out, unless nobody on this loop looks.
            if desk.waiting == 1 or len(queue) == 1:
                self._pump(self._tick(now))
        strand.hold()
        try:
            if not passage.granted and passage.error is None:
                await signal.wait()
        except BaseException:
            self._withdraw(passage, strand.run.now())
            raise
        finally:
            strand.release()
            desk.waiting -= 1
            if not desk.waiting:
                self._clear(desk)
        if passage.error is not None:
            error, passage.error = passage.error, None
            raise error

    def _desk(self, strand: Strand) -> _Desk:
        loop = strand.run.loop
        assert loop is not None
        desk = self._desks.get(loop.token)
        if desk is None:
            desk = self._desks[loop.token] = _Desk(loop, strand.run.offset)
            desk.alarm = Alarm(partial(self._ring, desk))
        return desk

    def _clear(self, desk: _Desk) -> None:
        """Take away the desk of a loop on which nobody waits."""
        with self._lock:
            if not desk.waiting:
                desk.alarm.clear()
                self._desks.pop(desk.loop.token, None)

    def _ring(self, desk: _Desk) -> None:
        with self._lock:
            if desk.waiting:
                self._pump(self._tick(desk.loop.time() + desk.offset))

    def _withdraw(self, passage: Passage, now: float) -> None:
        """Take out of the queue what does not wait any more, or give back what was granted to it."""
        with self._lock:
            passage.withdrawn = True
            if passage.granted:
                self._take_back(passage, self._tick(now))

    def _take_back(self, passage: Passage, now: float) -> None:
        passage.granted = False
        self._in_flight -= 1
        self._sent -= 1
        self._allowance.undo(passage)
        if passage.looks:
            self._downtime.looked(now)
        self._pump(now)

    def _pump(self, now: float) -> None:
        """Let in whoever may, and set the alarm for the next."""
        due = math.inf
        while (queue := self._first_of(self._again, self._queue)) is not None:
            due = self._obstacle(queue[0], now, wanted=True)
            if due > now:
                break
            self._let_in(queue.popleft(), now)
            due = math.inf
        self._due = due
        if self._parked:
            due = min(due, self._look(now))
        self._set_alarms(due)

    def _let_in(self, passage: Passage, now: float) -> None:
        self._grant(passage, now)
        if passage.signal is not None:
            passage.signal.set()

    def _first_of(self, *queues: deque[Passage]) -> deque[Passage] | None:
        """Return the first of `queues` that somebody waits in, who is then its first."""
        for queue in queues:
            while queue and queue[0].withdrawn:
                queue.popleft()
            if queue:
                return queue
        return None

    def _look(self, now: float) -> float:
        """Have one of those who wait for a provider that is down look; return when there is more to do."""
        self._turn_away(self._parked, now)
        queue = self._first_of(self._parked)
        if queue is None:
            return math.inf
        if self._obstacle(queue[0], now, wanted=True) <= now:
            self._let_in(queue.popleft(), now)
        since = self._downtime.since
        assert since is not None
        patience = min((one.patience for one in queue if not one.withdrawn), default=math.inf)
        return min(max(self._downtime.look_at, self._quiet_until), since + patience)

    def _turn_away(self, queue: deque[Passage], now: float) -> None:
        """Let those go who will not wait any longer."""
        for passage in queue:
            error = None if passage.withdrawn else self._hopeless(passage, now)
            if error is not None:
                passage.withdrawn, passage.error = True, error
                if passage.signal is not None:
                    passage.signal.set()

    def _park(self) -> None:
        """Have those who have the patience wait until the provider is back."""
        for queue in (self._again, self._queue):
            waiting = list(queue)
            queue.clear()
            for passage in waiting:
                (self._parked if passage.patience > 0 else queue).append(passage)

    def _unpark(self) -> None:
        """Have them in the queue again: the provider is back."""
        while self._parked:
            passage = self._parked.pop()
            (self._again if passage.again else self._queue).appendleft(passage)

    def _set_alarms(self, due: float) -> None:
        for desk in self._desks.values():
            when = due - desk.offset
            # One that goes off too early finds out when it is time; to set it anew each time would cost more.
            if when < desk.alarm.when - _TOO_EARLY:
                if desk.loop.here():
                    desk.alarm.set(when)
                else:
                    desk.loop.call(partial(self._ring, desk))

    # Out

    def answered(self, passage: Passage, usage: Usage | None, now: float) -> None:
        """Note an answer, and what it cost."""
        with self._lock:
            now = self._tick(now)
            tokens = None if usage is None else float(usage.total_tokens)
            self._allowance.settle(passage, tokens)
            produced = passage.output if usage is None else float(usage.output_tokens)
            self._allowance.answered(passage, now, produced)
            if usage is not None:
                self._costs.learn(passage.size, passage.answers, usage)
            if passage.told:
                self._allowance.learn(passage.told, passage, now, refused=False)
            if self._adaptive is not None and passage.auto:
                self._adaptive.answered(passage.sent_at, now, produced)
            if self._ramp is not None and self._ramp.answered():
                self._ramp = None
            self._repay()
            self._end(passage, now, answered=True)

    def _repay(self) -> None:
        if self._tokens is None:
            return
        if self._poor:
            # Whoever waits for a retry is not in a hurry: one for each answer is no flood.
            self._poor.popleft().set()
        else:
            self._tokens.repay()

    def _relieve(self) -> None:
        """Let one go who waits for a retry, if there is nobody whose answer could let it."""
        if self._poor and not self._in_flight and not self._is_waited_for():
            self._poor.popleft().set()

    def _is_waited_for(self) -> bool:
        return any(self._first_of(queue) is not None for queue in (self._again, self._queue, self._parked))

    def failed(self, passage: Passage, error: ProviderError, now: float, *, unit: Unit | None = None) -> None:
        """Note that `passage` failed with `error`.

        Args:
            passage: what was sent.
            error: why it failed.
            now: the time.
            unit: what there is too much of, if it is a 429 that says so.
        """
        with self._lock:
            now = self._tick(now)
            unheard = isinstance(error, ConnectionFailedError)
            cost = None if may_be_billed(error) else 0.0
            self._allowance.settle(passage, cost, request=not unheard)
            if passage.told:
                refused = isinstance(error, RateLimitError)
                self._allowance.learn(passage.told, passage, now, refused=refused)
            overloaded = is_overloaded(error)
            if overloaded:
                self._cool_down(passage, error, now, unit)
            elif self._adaptive is not None and passage.auto and is_outage(error):
                self._adaptive.failed()
            answered = not overloaded and not is_outage(error)
            self._end(passage, now, answered=answered, failure=error if is_outage(error) else None)

    def _cool_down(self, passage: Passage, error: ProviderError, now: float, unit: Unit | None) -> None:
        wait = min(error.retry_after or 0.0, _LONGEST_QUIET)
        too_many = False
        if self._adaptive is not None and passage.auto:
            too_many = self._adaptive.rejected(passage.sent_at, now, self._in_flight - 1, wait)
        if wait <= 0:
            return
        paced = isinstance(error, RateLimitError) and self._allowance.refuse(
            passage, now, wait, unit, told=bool(passage.told), infer=not too_many
        )
        if passage.sent_at >= self._quiet_since:  # the first of its wave
            self._quiet_since = now
            self._ramp = None if paced else _Ramp(self._in_flight)
        if now + wait > self._quiet_until:
            self._quiet_until = now + wait
            self._quiet_for = error
            for queue in (self._again, self._queue, self._parked):
                self._turn_away(queue, now)
            if self.events.listeners:
                self.events.tell(CooledDown(wait, _reason(error)))

    def abandoned(self, passage: Passage, now: float) -> None:
        """Note that nobody waits for the answer any more: the request may be billed all the same."""
        with self._lock:
            now = self._tick(now)
            self._allowance.settle(passage, None)
            self._end(passage, now, answered=False)

    def _end(
        self,
        passage: Passage,
        now: float,
        *,
        answered: bool,
        failure: ProviderError | None = None,
    ) -> None:
        self._in_flight -= 1
        passage.granted = False
        self._heard = self._heard or answered or failure is None
        if answered:
            seconds = self._downtime.answered(passage.sent_at, now)
            if seconds is not None:
                self._unpark()
                self._ramp = _Ramp(self._in_flight + len(self._again) + len(self._queue))
                if self.events.listeners:
                    self.events.tell(ProviderUp(seconds))
        elif failure is not None and self._downtime.failed(passage.sent_at, now):
            self._went_down(failure)
        if passage.looks and self._downtime.since is not None:
            self._downtime.looked(now)
        if self._queue or self._again or self._parked:
            self._pump(now)
        if self._poor:
            self._relieve()

    # Another attempt

    def is_down(self) -> bool:
        """Whether the provider gives no answers."""
        return self._downtime.since is not None

    def silent_since(self, moment: float) -> bool:
        """Whether it has not answered anybody since then."""
        return self._downtime.answered_at < moment

    def report_down(self, error: ProviderError, now: float) -> None:
        """Have the provider count as down: all attempts of a request failed, and nobody else was answered."""
        with self._lock:
            if self._downtime.begin(self._tick(now)):
                self._went_down(error)

    def _went_down(self, error: ProviderError) -> None:
        self._park()
        if self.events.listeners:
            self.events.tell(ProviderDown(self._downtime.failures, _reason(error)))

    def afford(self, error: ProviderError) -> bool:
        """Pay for a retry after `error`, if there is enough for it.

        One that the provider has set a time for costs nothing: nobody sends until then, and it is one
        after the other afterwards.
        """
        if self._tokens is None or is_paced(error):
            return True
        cost = self._tokens.cost(timed_out=isinstance(error, RequestTimeoutError))
        with self._lock:
            # Those who wait for it come first.
            if not self._poor and self._tokens.spend(cost):
                return True
            left = self._tokens.left
        if self.events.listeners:
            self.events.tell(BudgetEmpty(left, cost))
        return False

    def budget_words(self) -> str:
        """Say what is left of the retry budget, and why."""
        assert self._tokens is not None
        budget = self._tokens.budget
        return (
            f"the retry budget is empty ({self._tokens.left:g} of {budget.capacity:g} left; a retry costs "
            f"{budget.cost:g}, an answer repays {budget.repayment:g})"
        )

    async def save_up(self, patience: float, strand: Strand) -> bool:
        """Wait for a retry that cannot be afforded, without a slot; `False` if that takes too long."""
        signal = Signal()
        with self._lock:
            self._poor.append(signal)
            self._relieve()
        strand.give()
        try:
            with anyio.move_on_after(patience):
                await signal.wait()
                return True
        except BaseException:
            if signal not in self._poor:
                self._pass_on()
            raise
        finally:
            with self._lock:
                if signal in self._poor:
                    self._poor.remove(signal)
        return False

    def _pass_on(self) -> None:
        """Let another one go instead of one that was let go and has no use for it."""
        with self._lock:
            if self._poor:
                self._poor.popleft().set()

    def tell_retry(self, error: ProviderError, wait: float, attempt: int) -> None:
        """Tell those who listen that there will be another attempt."""
        if self.events.listeners:
            left = max(0.0, self._quiet_until - self._now)
            self.events.tell(Retried(_reason(error), max(wait, left), attempt))

    # What listeners are told

    def _tell_limit(self, name: str, before: float | None, after: float, reason: str) -> None:
        if self.events.listeners:
            self.events.tell(LimitChanged(name, before, after, reason))

    def _tell_concurrency(self, before: float, after: float, reason: str) -> None:
        self._tell_limit("max_concurrency", before, after, reason)


_OVERLOADED: Final = frozenset(("server_is_overloaded", "slow_down", "overloaded"))


def is_overloaded(error: ProviderError) -> bool:
    """Whether `error` says that there is too much for now: a 429, or a 503 that says so or names a time."""
    if isinstance(error, RateLimitError):
        return True
    return (
        isinstance(error, ServerError)
        and error.status == 503  # noqa: PLR2004
        and (error.retry_after is not None or error.code in _OVERLOADED or error.type in _OVERLOADED)
    )


def is_outage(error: ProviderError) -> bool:
    """Whether every other request may fail like this as well: no connection, no answer in time, a 5xx."""
    if isinstance(error, ConnectionFailedError | RequestTimeoutError):
        return True
    return isinstance(error, ServerError) and error.status is not None and error.status >= 500  # noqa: PLR2004


def may_be_billed(error: ProviderError) -> bool:
    """Whether what ended like this may be billed: given up, it may go on; or the answer is broken."""
    return isinstance(error, RequestTimeoutError | MalformedResponseError)


def is_paced(error: ProviderError) -> bool:
    """Whether `error` says that there is too much for now, and until when."""
    return is_overloaded(error) and bool(error.retry_after)


def _reason(error: ProviderError) -> str:
    name = type(error).__name__
    return name if error.status is None else f"{name} (status {error.status})"
