"""Adaptive concurrency: `max_concurrency="auto"`.

The controller looks for the least number of requests in flight with the highest goodput. It combines the two
signals of congestion control. Latency, as TCP Vegas has it: a server that queues answers later per unit of
work, and goodput stops growing. Loss, with a multiplicative decrease once for each episode, as TCP Reno has
it: a server that rejects says so. A *round* lasts one round trip, from its beginning to the first answer to a
request that was sent after that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["FIRST_LIMIT", "MOST_AT_ONCE", "AdaptiveConcurrency"]

FIRST_LIMIT: Final = 10
MOST_AT_ONCE: Final = 10_000

_STEADY: Final = 1.2
"""Latency in terms of the usual one, per unit of work, up to which a round refines the usual one."""
_RISING: Final = 1.3
"""From which on no more are sent at once: the third above is margin for noise, and keeps a queue short."""
_QUEUEING: Final = 1.5
"""At which the doubling ends, and fewer are sent at once."""
_MUCH_MORE: Final = 1.5
_MORE: Final = 1.1
"""Half as many more at once that bring not even a tenth more bring nothing."""
_FLOODED: Final = 2.5
"""At which as few as half are sent at once."""
_TRIED: Final = 0.7
_UNMOVED: Final = 0.85
"""Where less than the first share at once leaves latency above the second share of the former one, there is
no queue: latency would have fallen as the requests did."""
_FEWEST_SAMPLES: Final = 16
"""Answers that a mean needs: with LLM latencies, spread by half, it is then an eighth off."""
_ALL_ANSWERED: Final = 2.0
"""The time of the slowest of the first answers, in terms of itself, after which no further one is awaited."""
_ERRORS: Final = 2.0
"""Standard errors by which latency is above the usual one where it is no chance."""
_CUT: Final = 0.9
_LEAST_OF_EPISODE: Final = 0.5
_STEP: Final = 0.1
_CAREFUL_STEP: Final = 0.02
_CLIMB: Final = 3
"""The part of the limit that a probe of a refused level adds at the most, doubling up to it from one request:
from two in flight on, a tenth at a time takes twelve rounds to ten more."""
_HOLD_ROUNDS: Final = 20
_HOLD_WAITS: Final = 40
"""Rounds and named waits for which the limit stays below a refused one: a probe that fails costs a round, or
the wait, and may cost no more than a fortieth of the time."""
_TRIAL_ROUNDS: Final = 2
"""Rounds without a refusal after which the doubling goes on that a first refusal ended: it may be chance."""
_STILL_TOO_MANY: Final = 0.45
"""The share of the requests carried before, below which their number is no reason for a refusal: a capacity
that was halved is still above."""

Changed = Callable[[float, float, str], object]


class AdaptiveConcurrency:
    """Find how many requests to have in flight.

    Args:
        changed: called for each change: before, after, and why.

    Attributes:
        limit: how many requests may be in flight.
        wanted: whether a request has waited for the limit in this round.
        carried: the most that have been in flight since the limit was lowered last; more are tried one by
            one.
    """

    def __init__(self, changed: Changed) -> None:
        self.limit: int = FIRST_LIMIT
        self.wanted: bool = False
        self._changed = changed
        self._doubling = True
        self._base = _Mean()
        self._round: _Round | None = None
        self._pooled = _Mean()
        self._troubled = False
        self._judged: tuple[int, float] | None = None
        self._cut_at = -math.inf
        self._before_cut = 0
        self._ceiling: int | None = None
        self._hold_until = -math.inf
        self._carried = 0
        self._sustained = 0
        self._peak = self._peak_before = 0
        self.carried: int = FIRST_LIMIT
        self._grew_at = -math.inf
        self._round_seconds = 0.0
        self._climb = 0
        self._trial: _Trial | None = None
        self._accused: tuple[int, bool] | None = None
        self._on_trial = 0
        self._tried = False
        self._late = 0
        self._skipped = 0
        self._outputs = _Mean()
        self._first: _FirstAnswers | None = _FirstAnswers()

    def sent(self, in_flight: int, now: float) -> None:
        """Record that a request was sent; `in_flight` are under way with it."""
        self._peak = max(self._peak, in_flight)
        if in_flight > self.carried:
            self.carried, self._grew_at = in_flight, now

    def answered(self, sent_at: float, now: float, tokens: float, held: float = 0.0) -> None:
        """Record an answer of so many tokens to a request that was sent at `sent_at`.

        Its consumer held it up for `held` seconds, which say nothing about the provider.
        """
        self._outputs.add(max(tokens, 1.0))
        work = 0.5 + 0.5 * max(tokens, 1.0) / self._outputs.value
        round_ = self._round
        if round_ is None:
            round_ = self._round = _Round(now, self.limit)
        round_.add(now - sent_at - held, work)
        if self._first is not None and self._first.answered(sent_at, now, now - sent_at - held, work):
            self._base.join(self._first.latency)
            self._first = None
        if self._doubling and self.wanted and not self._troubled:
            self._set(self.limit + 1, "answers come, and more wait to be sent: doubling")
        if sent_at >= round_.began or round_.count >= 4 * max(self.limit, _FEWEST_SAMPLES):
            self._end_round(round_, now)

    def failed(self) -> None:
        """Record a 5xx, or no answer: the limit does not grow in such a round."""
        self._troubled = True

    def rejected(
        self, sent_at: float, now: float, in_flight: int, wait: float, *, sure: bool = False
    ) -> bool:
        """Record a 429, or a 503 that says overloaded; `in_flight` are left, and it asks for `wait` seconds.

        With `sure` their number is the reason, so that the doubling need not try again. Return whether their
        number may be the reason.
        """
        self._troubled = True
        if sent_at < self._cut_at:
            # Of the same episode. The accepted requests bound the cut.
            least = math.ceil(self._before_cut * _LEAST_OF_EPISODE)
            self._cut_to(max(least, min(self.limit, in_flight)))
            return self._before_cut >= self._carried * _STILL_TOO_MANY
        self._on_trial = _TRIAL_ROUNDS if self._doubling and not self._tried and not sure else 0
        if self._accused is None:
            self._accused = self.limit, self._doubling
        self._doubling = False
        self._before_cut = max(1, min(self.limit, in_flight + 1))
        if now > self._hold_until:
            self._carried = self._before_cut
        self._ceiling = self._before_cut
        self._cut_at = now
        self._climb = 0
        self._trial = None
        if self._before_cut > self._sustained:
            self._hold_until = now + max(_HOLD_ROUNDS * self._round_seconds, _HOLD_WAITS * wait)
        else:
            # As many were no problem before: it may be none again soon.
            self._ceiling = None
            self._hold_until = now + wait
        # One request more is what was too many, where it was the first beside as many.
        grew = sent_at >= self._grew_at and self._before_cut >= self.carried
        self._cut_to(self._before_cut - 1 if grew else math.floor(self._before_cut * _CUT))
        self._sustained = min(self._sustained, self.limit)
        return self._before_cut >= self._carried * _STILL_TOO_MANY

    def acquit(self) -> None:
        """Undo the cuts since the last call: the refusals had another reason than how many were in flight."""
        self._troubled = False
        if self._accused is not None:
            limit, self._doubling = self._accused
            self._accused, self._ceiling, self._climb, self._on_trial = None, None, 0, 0
            self._set(max(limit, self.limit), "refusals come at any number in flight")

    def _cut_to(self, limit: int) -> None:
        self.carried = min(self.carried, max(1, limit))
        if limit < self.limit:
            self._set(limit, "the provider rejects requests: too many at once")

    def _end_round(self, round_: _Round, now: float) -> None:
        self._round_seconds = max(now - round_.began, 0.0)
        self._pooled.join(round_.latency)
        wanted, troubled = self.wanted, self._troubled
        self._round, self.wanted, self._troubled = _Round(now, self.limit), False, False
        if self._skipped:
            self._skipped -= 1
            self._pooled = _Mean()
            return
        if troubled:
            self._pooled = _Mean()
            self._peak_before = self._peak = 0
            return
        if self._on_trial:
            self._on_trial -= 1
            if not self._on_trial:
                self._tried = self._doubling = True
                self._accused = self._ceiling = None
        self._sustained = max(self._sustained, self._peak_before)
        self._peak_before, self._peak = self._peak, 0
        if self._pooled.count >= _FEWEST_SAMPLES:
            latency, self._pooled = self._pooled, _Mean()
            self._judge(latency, round_.goodput(now), round_.limit, wanted=wanted)
        elif wanted and not self._doubling and self._base.count < _FEWEST_SAMPLES:
            self._grow(now)

    def _judge(self, latency: _Mean, goodput: float, sent_under: int, *, wanted: bool) -> None:
        base = self._base
        if self._first is not None:
            return
        if base.count < _FEWEST_SAMPLES:
            base.join(latency)
            return
        ratio = latency.value / base.value if base.value > 0 else 1.0
        if latency.value - base.value < _ERRORS * math.hypot(latency.error, base.error):
            ratio = min(ratio, 1.0)  # it may be chance
        if ratio <= _STEADY:
            base.join(latency, most=400)
        if ratio < _QUEUEING:
            self._trial, self._late = None, 0
        before, self._judged = self._judged, (self.limit, goodput)
        # The measured requests were sent under the limit that the round began with.
        fit = max(1, math.ceil(sent_under / max(ratio, 1.0) * _RISING))
        vain = before is not None and self._is_vain(before, goodput)
        if self._doubling and (vain or ratio >= _QUEUEING):
            self._doubling = False
            reason = "more at once brought no more" if vain else f"latency is {ratio:.1f} times the usual"
            self._set(min(self.limit, fit), f"{reason}: no more doubling")
        elif ratio >= _QUEUEING and fit < self.limit:
            self._late += 1
            if self._late > 1:  # once may be chance
                self._shorten(latency, ratio, fit)
        elif wanted and ratio < _RISING and not self._doubling:
            assert self._round is not None
            self._grow(self._round.began)

    def _is_vain(self, before: tuple[int, float], goodput: float) -> bool:
        """Whether goodput stopped growing while the limit did."""
        limit, less = before
        return self.limit >= _MUCH_MORE * limit and goodput < _MORE * less

    def _shorten(self, latency: _Mean, ratio: float, fit: int) -> None:
        """Have a shorter queue, unless it turns out not to be the queue that latency rose for."""
        if self._trial is None:
            self._trial = _Trial(self.limit, ratio)
        limit, before = self._trial.limit, self._trial.ratio
        if self.limit <= limit * _TRIED:
            self._trial = None
            if ratio > before * _UNMOVED:
                self._base = _Mean()
                self._base.join(latency)
                self._set(limit, "fewer at once were answered no sooner: latency rose for another reason")
                return
        self._skipped = 1  # the next round still answers requests from before
        most = self.limit / 2 if ratio >= _FLOODED else self.limit * _CUT
        self._set(max(fit, int(most)), f"latency rose to {ratio:.1f} times the usual")

    def _grow(self, now: float) -> None:
        limit, ceiling = self.limit, self._ceiling
        if ceiling is None:
            self._set(limit + max(1, int(limit * _STEP)), "all are used, and latency is steady")
        elif limit < ceiling - 1:
            step = max(1, int(ceiling * _CAREFUL_STEP))
            self._set(min(limit + step, ceiling - 1), "all are used, and fewer than were refused")
        elif now >= self._hold_until:
            # The refused number may be possible by now: try steps that grow as they succeed.
            self._climb = min(2 * self._climb or 1, max(1, limit // _CLIMB))
            self._ceiling = limit + self._climb + 1
            self._set(limit + self._climb, "all are used, and nothing was refused for long")

    def _set(self, limit: int, reason: str) -> None:
        limit = max(1, min(limit, MOST_AT_ONCE))
        if limit != self.limit:
            before, self.limit = self.limit, limit
            self._changed(before, limit, reason)


class _Mean:
    """A ratio of sums: latency to work."""

    __slots__ = ("_squares", "_total", "_weight", "count")

    def __init__(self) -> None:
        self._total = 0.0
        self._weight = 0.0
        self._squares = 0.0
        self.count = 0

    def add(self, amount: float, weight: float = 1.0) -> None:
        self._total += amount
        self._weight += weight
        self._squares += amount * amount / weight
        self.count += 1

    def join(self, other: _Mean, most: int | None = None) -> None:
        """Add the values of `other`; old ones fade once there are more than `most`."""
        self._total += other._total
        self._weight += other._weight
        self._squares += other._squares
        self.count += other.count
        if most is not None and self.count > most:
            keep = most / self.count
            self._total *= keep
            self._weight *= keep
            self._squares *= keep
            self.count = most

    @property
    def value(self) -> float:
        return self._total / self._weight if self._weight else 0.0

    @property
    def error(self) -> float:
        """The standard error of the value."""
        if not self._weight:
            return 0.0
        variance = self._squares / self._weight - self.value**2
        return math.sqrt(max(variance, 0.0) / self.count)


class _FirstAnswers:
    """The answers to the requests that were sent before the first one was answered.

    The fastest answers come first: a mean without the slowest of them makes all later ones seem late. It is
    known when as many are answered as are sent at first, or nothing came for as long as the slowest took.
    """

    __slots__ = ("_answered_at", "_began", "_slowest", "latency")

    def __init__(self) -> None:
        self.latency = _Mean()
        self._began = self._answered_at = math.inf
        self._slowest = 0.0

    def answered(self, sent_at: float, now: float, seconds: float, work: float) -> bool:
        """Record an answer; return whether the mean is known."""
        if not self.latency.count:
            self._began, self._answered_at = sent_at, now
        if sent_at <= self._answered_at:
            self._slowest = now - self._began
            self.latency.add(seconds, work)
        return self.latency.count >= FIRST_LIMIT or now - self._began >= _ALL_ANSWERED * self._slowest


class _Round:
    """The answers of one round trip."""

    __slots__ = ("began", "latency", "limit", "work")

    def __init__(self, began: float, limit: int) -> None:
        self.began = began
        self.limit = limit
        self.latency = _Mean()
        self.work = 0.0

    def add(self, seconds: float, work: float) -> None:
        self.latency.add(seconds, work)
        self.work += work

    @property
    def count(self) -> int:
        return self.latency.count

    def goodput(self, now: float) -> float:
        passed = now - self.began
        return self.work / passed if passed > 0 else math.inf


class _Trial(NamedTuple):
    """The limit and the latency before fewer requests were sent at once because of latency."""

    limit: int
    ratio: float
