"""What one endpoint allows one key for one model, and the queue of those who want to use it.

A request is let in when it fits into every limit that is known, when nobody asked to be left alone, and
when those who came before it are through. Who has to wait does so without a slot, in a queue, first come
first served; those who were sent before and failed go first. One alarm for each event loop lets the first
in when its time has come: nobody polls, and nobody who waits has a timer.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batchrt.errors import (
    ConnectionFailedError,
    OutageError,
    ProviderError,
    RateLimitError,
)
from batchrt.messages import Usage
from batchrt.runtime.adaptive import Adaptive
from batchrt.runtime.allowance import Allowance
from batchrt.runtime.buckets import Period, Unit
from batchrt.runtime.budget import RetryBudget
from batchrt.runtime.clock import Clock
from batchrt.runtime.cooldown import LONGEST_QUIET, CoolDown, Ramp
from batchrt.runtime.costs import Costs
from batchrt.runtime.downtime import Downtime
from batchrt.runtime.events import (
    Admitted,
    CooledDown,
    Events,
    LimitChanged,
    Listener,
    ProviderDown,
    ProviderUp,
    Retried,
    Sent,
)
from batchrt.runtime.line import Line
from batchrt.runtime.loops import Signal
from batchrt.runtime.passage import Passage
from batchrt.runtime.retries import Retries
from batchrt.runtime.trouble import blames_address, is_outage, is_overloaded, may_be_billed, reason, shorten

if TYPE_CHECKING:
    from batchrt.runtime.run import Strand

__all__ = ["LIMITS", "Quota", "QuotaStatistics", "check_limit"]

LIMITS: Final[dict[str, tuple[Unit, Period]]] = {
    "requests_per_minute": ("requests", "minute"),
    "tokens_per_minute": ("tokens", "minute"),
    "requests_per_day": ("requests", "day"),
    "tokens_per_day": ("tokens", "day"),
}
"""The limits that can be given, by their names."""

_AT_ONCE: Final = 32
_DOUBLING: Final = 0.025
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
        requests: requests that were sent, since the quota was made; this and what follows are counters,
            for a monitoring system to scrape.
        answers: those that were answered with a success.
        tokens: tokens that answers said they were billed.
        refusals: those that were refused because there was too much for now.
        retries: those that were sent, or will be, in place of one that failed.
    """

    in_flight: int
    waiting: int
    limits: Mapping[str, float]
    used: Mapping[str, float]
    quiet_for: float
    max_concurrency: int | None
    down_for: float | None
    retry_tokens: float | None
    requests: int = 0
    answers: int = 0
    tokens: int = 0
    refusals: int = 0
    retries: int = 0


def check_limit(name: str, value: float | None) -> None:
    """Raise TypeError or ValueError for what cannot be the limit called `name`."""
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

    Attributes:
        events: tells those who listen.
        follow_headers: whether answers are taken in.
        retries: pays for other attempts.

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
        self._line = Line(self._look)
        self._process = os.getpid()
        self._max_in_flight: int | None = None
        self._now = 0.0
        self._allowance = Allowance({}, burst_seconds, self._tell_limit)
        self.set_limits(**given, max_in_flight=max_in_flight)
        self.retries: Retries = Retries(retry_budget, self.events, self._is_idle)
        self._costs = Costs()
        self._downtime = Downtime()
        self._adaptive: Adaptive | None = None
        self._ramp: Ramp | None = None
        self._wall = Clock().wall
        self._in_flight = 0
        self._first_sent: float | None = None
        self._sent = 0
        self._heard = False
        self._reached = False
        self._answers = self._tokens = self._refusals = self._retried = 0
        self._last_failure: ProviderError | None = None
        self._cooling = CoolDown()
        self._due = math.inf

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
        check_limit("max_in_flight", max_in_flight)
        with self._lock:
            found = {LIMITS[name]: value for name, value in given.items() if value is not None}
            if found:
                self._allowance.set_limits(found)
            if max_in_flight is not None:
                self._max_in_flight = max_in_flight
            self._line.rouse()

    def listening(self, listener: Listener) -> AbstractContextManager[None]:
        """Have `listener` told of everything that happens here, within the block.

        It is called at once, on whatever thread it happens, and should be quick. The quota is locked
        meanwhile: do not wait in it for a lock that is held elsewhere while the quota is asked something.
        """
        return self.events.listening(listener)

    def statistics(self) -> QuotaStatistics:
        """Return how things stand; on an event loop as of now, elsewhere as of the last request."""
        with self._lock:
            now = max(self._now, self._line.now() or self._now)
            down = self._downtime.since
            return QuotaStatistics(
                in_flight=self._in_flight,
                waiting=len(self._line),
                limits=self._allowance.limits(),
                used=self._allowance.used(now),
                quiet_for=self._cooling.left(now),
                max_concurrency=None if self._adaptive is None else self._adaptive.limit,
                down_for=None if down is None else now - down,
                retry_tokens=self.retries.left,
                requests=self._sent,
                answers=self._answers,
                tokens=self._tokens,
                refusals=self._refusals,
                retries=self._retried,
            )

    # In

    async def admit(self, passage: Passage, strand: Strand) -> None:
        """Wait until `passage` may be sent, and return with a slot for it; it counts as sent.

        Raises:
            RateLimitError: the provider asked to be left alone for longer than the passage will wait.
            OutageError: it was down for longer than the passage will wait.
        """
        if self._process != os.getpid():
            self._begin_anew()
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
            if self._cooling.until <= now:
                passage.sent_at = now
                break
            # While it waited for a slot, somebody was asked to leave the provider alone.
            self._withdraw(passage, now)
            passage.again = True
        if self.events.listeners:
            self.events.tell(Admitted(now - passage.asked_at, passage.tokens))
            self.events.tell(Sent(self._in_flight, passage.tokens))

    def _begin_anew(self) -> None:
        """Forget what is under way in the process that this one was forked from: it does not end here."""
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._line = Line(self._look)
        self._in_flight = 0
        self._ramp = None
        self.retries.begin_anew()
        self._allowance.forget_outstanding()

    def expect(self, passage: Passage) -> bool:
        """Note in `passage` what it is expected to cost; return whether that is more than a guess."""
        passage.input, passage.output = self._costs.expect(
            passage.size, answers=passage.answers, most=passage.most
        )
        return self._costs.known or passage.most is not None or not passage.answers

    def _enter(self, passage: Passage, now: float) -> bool:
        """Let `passage` in if there is nothing to wait for."""
        with self._lock:
            now = self._tick(now)
            self.expect(passage)
            if passage.auto and self._adaptive is None:
                self._adaptive = Adaptive(self._tell_concurrency)
            ahead = self._line.is_ahead(passage, parked=self._waits_for_provider(passage))
            if not ahead or self._obstacle(passage, now, wanted=False) > now:
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
        too_long = self._cooling.too_long(now, passage.longest_quiet, self._wall)
        if too_long is not None:
            return too_long
        down = self._downtime.since
        late = down is not None and passage.patience > 0 and now - down >= passage.patience
        # If somebody looks right now, that may be the end of it.
        if down is not None and late and self._downtime.is_known(now) and self._downtime.look_at < math.inf:
            return OutageError(
                f"the provider has been down for {now - down:.0f} s ({self._downtime.failures} requests in a "
                f"row without an answer{self._last_words()}), and nothing was sent any more; try again when "
                "it is back",
                seconds=now - down,
            )
        return None

    def _obstacle(self, passage: Passage, now: float, *, wanted: bool) -> float:  # noqa: PLR0911  a list
        """Return when `passage` may be sent as far as is known: `now` at once, infinity when others end."""
        if self._max_in_flight is not None and self._in_flight >= self._max_in_flight:
            return math.inf
        if passage.auto and self._adaptive is not None and self._in_flight >= self._adaptive.limit:
            self._adaptive.wanted = True
            return math.inf
        if self._cooling.until > now:
            return self._cooling.until
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
        if self._adaptive is not None:
            self._adaptive.sent(self._in_flight)

    async def _wait(self, passage: Passage, strand: Strand, now: float) -> None:
        """Wait in the queue until `passage` is granted; without a slot."""
        passage.signal = signal = Signal()
        passage.granted = passage.withdrawn = False
        loop = strand.run.loop
        assert loop is not None
        with self._lock:
            desk = self._line.desk(loop, strand.run.offset)
            first = self._line.join(passage, parked=self._waits_for_provider(passage))
            # Behind others there is nothing to find out, unless nobody on this loop looks.
            if first or desk.waiting == 1:
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
            with self._lock:
                self._line.leave(desk)
        if passage.error is not None:
            error, passage.error = passage.error, None
            raise error

    def _look(self, now: float) -> None:
        with self._lock:
            self._pump(self._tick(now))

    def _withdraw(self, passage: Passage, now: float) -> None:
        """Take out of the queue what does not wait any more, or give back what was granted to it."""
        with self._lock:
            passage.withdrawn = True
            self._line.tidy()
            now = self._tick(now)
            if passage.granted:
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
        while (passage := self._line.head()) is not None:
            due = self._obstacle(passage, now, wanted=True)
            if due > now:
                break
            self._let_in(self._line.pop(), now)
            due = math.inf
        self._due = due
        if self._downtime.since is not None:
            due = min(due, self._let_look(self._downtime.since, now))
        self._line.look_at(due)

    def _let_in(self, passage: Passage, now: float) -> None:
        self._grant(passage, now)
        if passage.signal is not None:
            passage.signal.set()

    def _let_look(self, since: float, now: float) -> float:
        """Have one of those who wait for a provider that is down look; return when there is more to do."""
        patience = self._line.least_patience()
        if patience is not None and now - since >= patience:
            self._line.turn_away_parked(lambda passage: self._hopeless(passage, now))
        looker = self._line.looker()
        if looker is not None and self._obstacle(looker, now, wanted=True) <= now:
            self._let_in(self._line.pop_looker(), now)
        patience = self._line.least_patience()
        if patience is None:
            return math.inf
        return min(max(self._downtime.look_at, self._cooling.until), since + patience)

    # Out

    def answered(self, passage: Passage, usage: Usage | None, now: float) -> None:
        """Note an answer, and what it cost."""
        with self._lock:
            now = self._tick(now)
            self._reached = True
            self._answers += 1
            self._tokens += 0 if usage is None else usage.total_tokens
            tokens = None if usage is None else float(usage.total_tokens)
            self._allowance.settle(passage, tokens)
            produced = passage.output if usage is None else float(usage.output_tokens)
            self._allowance.answered(passage, now, produced)
            if usage is not None:
                self._costs.learn(passage.size, passage.answers, usage)
            if passage.told:
                self._allowance.learn(passage.told, passage, now, cost=tokens)
            if self._adaptive is not None and passage.auto:
                self._adaptive.answered(passage.sent_at, now, produced)
            self.retries.repay()
            self._end(passage, now, answered=True)

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
            self._reached = self._reached or error.status is not None
            unheard = isinstance(error, ConnectionFailedError)
            cost = None if may_be_billed(error) else 0.0
            self._allowance.settle(passage, cost, request=not unheard)
            if passage.told:
                refused = isinstance(error, RateLimitError)
                self._allowance.learn(passage.told, passage, now, refused=refused)
            overloaded = is_overloaded(error)
            if overloaded:
                self._refusals += 1
                self._cool_down(passage, error, now, unit)
            elif self._adaptive is not None and passage.auto and is_outage(error):
                self._adaptive.failed()
            outage = is_outage(error)
            answered = not overloaded and not outage
            # A wrong address is no outage, which waiting would mend.
            down = outage and not self.has_wrong_address(error)
            self._end(passage, now, answered=answered, failure=error if down else None)

    def _cool_down(self, passage: Passage, error: ProviderError, now: float, unit: Unit | None) -> None:
        asked = error.retry_after or 0.0
        wait = min(asked, LONGEST_QUIET)
        too_many = False
        if self._adaptive is not None and passage.auto:
            too_many = self._adaptive.rejected(passage.sent_at, now, self._in_flight - 1, wait)
        if wait <= 0:
            return
        paced = isinstance(error, RateLimitError) and self._allowance.refuse(
            passage, now, wait, unit, told=bool(passage.told), infer=not too_many
        )
        if self._cooling.is_new(passage.sent_at, now):
            self._ramp = None if paced else Ramp(self._in_flight)
        if self._cooling.prolong(asked, error, now):
            self._line.turn_away(lambda waiting: self._hopeless(waiting, now))
            self.events.announce(CooledDown(self._cooling.left(now), reason(error)), now)

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
            if self._ramp is not None and self._ramp.answered():
                self._ramp = None
            seconds = self._downtime.answered(passage.sent_at, now)
            if seconds is not None:
                self._line.unpark()
                self._ramp = Ramp(self._in_flight + len(self._line))
                if self.events.listeners:
                    self.events.tell(ProviderUp(seconds))
        elif failure is not None and self._downtime.failed(passage.sent_at, now):
            self._went_down(failure)
        if passage.looks and self._downtime.since is not None:
            self._downtime.looked(now)
        if self._line:
            self._pump(now)
        self.retries.relieve()

    def _is_idle(self) -> bool:
        with self._lock:
            return not self._in_flight and not self._line

    # Another attempt

    def is_down(self) -> bool:
        """Whether the provider gives no answers."""
        return self._downtime.since is not None

    def has_wrong_address(self, error: ProviderError) -> bool:
        """Whether `error` blames the address, and nobody has ever answered there: no waiting mends that."""
        return not self._reached and blames_address(error)

    def silent_since(self, moment: float) -> bool:
        """Whether it has not answered anybody since then."""
        return self._downtime.answered_at < moment

    def report_down(self, error: ProviderError, now: float) -> None:
        """Have the provider count as down: all attempts of a request failed, and nobody else was answered."""
        with self._lock:
            if self._downtime.begin(self._tick(now)):
                self._went_down(error)

    def _went_down(self, error: ProviderError) -> None:
        self._last_failure = error
        self._line.park()
        down = ProviderDown(self._downtime.failures, reason(error), shorten(str(error)))
        self.events.announce(down, self._now)

    def _last_words(self) -> str:
        return "" if self._last_failure is None else f", the last: {shorten(str(self._last_failure))}"

    def tell_retry(self, error: ProviderError, wait: float, attempt: int) -> None:
        """Count another attempt that there will be, and tell those who listen."""
        with self._lock:
            self._retried += 1
        if self.events.listeners:
            left = self._cooling.left(self._now)
            self.events.tell(Retried(reason(error), max(wait, left), attempt))

    # What listeners are told

    def _tell_limit(self, name: str, before: float | None, after: float, reason: str) -> None:
        self.events.announce(LimitChanged(name, before, after, reason), self._now)

    def _tell_concurrency(self, before: float, after: float, reason: str) -> None:
        self._tell_limit("max_concurrency", before, after, reason)
