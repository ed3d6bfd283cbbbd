"""The log of refusals: the evidence for limits that the provider does not tell.

Four causes make a provider answer 429, and each leaves another trace. A rate limit refuses by how much was
accepted before, a concurrency limit by how many requests are open, a stranger on the same key (or a gateway's
shared pool) by nothing that is visible here, and an overload by how busy the provider is.
`RefusalLog.explain` selects among models: it replays the newest requests under a token bucket of each
plausible rate and size and under each number in flight, and counts the outcomes that the model does not
predict, newer ones with more weight. The model with the fewest unexplained outcomes wins, after a price for
its parameters, as the Bayesian information criterion has it.

Invariant: a limit is believed only where it beats both null hypotheses, "every request is accepted" (refusals
    are noise) and "every request is refused". The first keeps random refusals from setting a pace, the second
    keeps a pace from falling for ever where acceptance is chance.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeAlias

from batchrt.limits.explanation import Explanation
from batchrt.limits.rate_evidence import Event, likeliest_rate

__all__ = ["ACCEPTED", "PENDING", "REFUSED", "UNKNOWN", "RefusalLog"]

PENDING: Final = 0
ACCEPTED: Final = 1
REFUSED: Final = 2
UNKNOWN: Final = 3
"""The outcome of a request: under way, accepted by the provider, refused by it, or unknown."""

_REMEMBERED: Final = 160
_SMOOTHING: Final = 0.25
_DELAYS: Final = 1.5
_DEVIATIONS: Final = 4.0
_FIRST_DEVIATION: Final = 1 / 8
"""Mean deviations of a refusal's delay within which requests may arrive in another order than they were sent
in, as RFC 6298 bounds a round trip; and the first one, as a share of the first delay."""
_MOMENT: Final = 0.0005
_HALF_LIFE: Final = 40
"""Requests after which an outcome weighs half: a limit that changed is found within some tens of requests."""
_FEWEST: Final = 2.0
"""The weight of refusals below which nothing is inferred: two may be chance."""
_FEWEST_LET_IN: Final = 1.5
"""The weight of requests let in after the first refusal, below which a rate is a guess."""
_CONVINCING: Final = 0.35
"""The share of the refusals that a limit may leave unexplained."""
_RATE_PRICE: Final = 1.0
_IN_FLIGHT_PRICE: Final = 0.6
"""The price of a model's parameters, in unexplained outcomes: two refusals always fit some rate."""
_WAITS_PRICE: Final = 1.0
"""The further price of a number in flight where the waits differ that refusals of one moment ask for."""
_SWITCH_PRICE: Final = 1.0
"""The further price of a rate where a number in flight is believed: one refusal beside fewer may be
chance."""
_CLEAR: Final = 0.15
_CLEAR_REFUSALS: Final = 6.0
"""The share of the refusals, and of the accepted requests, that a rate may leave unexplained to be beyond
doubt, and the weight of refusals that this takes."""
_PROBED: Final = 0.8
"""The weight of refusals beside as many as a limit allows that confirm it: a probe that failed lately."""
_ENOUGH: Final = 30
_NEWEST: Final = 60
"""The fewest and the most requests whose share of accepted ones is told: earlier ones tell less of now."""
_FAR_ENOUGH: Final = 60
_FEW_BETWEEN: Final = 8
"""Requests between two refusals that say little about a rate."""
_CHANGED: Final = 4.0
"""The log of the likelihood ratio from which on two shares of refused requests are believed, not one."""
_FEWEST_BEFORE: Final = 20
_RARELY: Final = 0.05
_FEWEST_AFTER: Final = 3
"""Requests before a change, the share of them that may be refused, and refusals after it. Where more are
refused all along, some place splits any row of chances into two shares."""
_MIXED: Final = 3
"""Requests accepted after a refused one, beside as many, from which on the refusal is taken for noise."""
_LEAST_ACTIVE: Final = 1e-3


class Entry(Protocol):
    """The evidence that a request is: when it was sent, beside how many, and its outcome."""

    sent_at: float
    beside: int
    verdict: int


_NOTHING: Final = Explanation("too little evidence")

_Outcome: TypeAlias = tuple[float, int, bool]
"""When a request was sent, beside how many others, and whether it was refused."""


class RefusalLog:
    """Remember the newest requests and explain their refusals.

    Attributes:
        refused: how many were refused in all.
    """

    __slots__ = ("_delay", "_deviation", "_entries", "_first_reply", "_quiet", "refused")

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_REMEMBERED)
        self._delay = 0.0
        self._deviation = 0.0
        self._first_reply = math.inf
        self.refused: int = 0
        self._quiet: deque[tuple[float, float]] = deque(maxlen=64)

    def sent(self, entry: Entry, beside: int) -> None:
        """Record that `entry` was sent beside so many others."""
        entry.beside = beside
        entry.verdict = PENDING
        self._entries.append(entry)

    def replied(self, now: float) -> None:
        """Record that a reply came."""
        self._first_reply = min(self._first_reply, now)

    def was_refused(self, entry: Entry, now: float, wait: float = 0.0) -> None:
        """Record that the provider refused `entry`: it was never beside those sent after it."""
        self.refused += 1
        if wait > 0:
            start, end = now, now + wait
            if self._quiet and self._quiet[-1][1] > start:
                start, before = self._quiet.pop()
                end = max(end, before)
            self._quiet.append((start, end))
        entry.verdict = REFUSED
        self.replied(now)
        self._learn_delay(now - entry.sent_at)
        for later in reversed(self._entries):
            if later is entry:
                break
            later.beside -= 1

    def _learn_delay(self, delay: float) -> None:
        if not self._delay:
            self._delay, self._deviation = delay, delay * _FIRST_DEVIATION
            return
        self._deviation += (abs(delay - self._delay) - self._deviation) * _SMOOTHING
        self._delay += (delay - self._delay) * _SMOOTHING

    def carried(self) -> int:
        """Return the most that were let in beside one another lately."""
        return max((entry.beside + 1 for entry in self._entries if entry.verdict == ACCEPTED), default=0)

    @property
    def settling(self) -> float:
        """Seconds after which a request that is not refused was let in: refusals come fast."""
        return _DELAYS * self._delay + _MOMENT

    def let_in_within(self, seconds: float, now: float) -> float:
        """Return how many requests were let in within the last `seconds`, as far as is remembered."""
        let_in = sum(entry.sent_at >= now - seconds and entry.verdict != REFUSED for entry in self._entries)
        oldest = self._entries[0].sent_at if self._entries else now
        if len(self._entries) == _REMEMBERED and now - seconds < oldest < now:
            return let_in * seconds / (now - oldest)
        return let_in

    def has_let_in(self, now: float) -> bool:
        """Whether a request is under way for so long that the provider has let it in."""
        let_in = now - self.settling
        return any(entry.verdict == PENDING and entry.sent_at < let_in for entry in self._entries)

    def _active(self, start: float, end: float) -> float:
        """Return the seconds between two times outside of the waits that refusals asked for."""
        quiet = sum(max(0.0, min(end, until) - max(start, since)) for since, until in self._quiet)
        return max(end - start - quiet, _LEAST_ACTIVE * (end - start))

    def explain(
        self,
        now: float,
        known_rates: Sequence[float | None] = (),
        known_limit: int | None = None,
        *,
        waits_differ: bool = False,
    ) -> Explanation:
        """Return the likeliest cause of the refusals among the newest requests.

        Args:
            now: the time.
            known_rates: rates that are believed already, tried among others.
            known_limit: a number in flight that is believed already; giving it up for a rate takes more
                evidence than finding the rate.
            waits_differ: refusals of one moment ask for different waits, as a bucket's do.
        """
        events = self._events(now)
        first = next((place for place, event in enumerate(events) if event[2]), None)
        if first is None:
            return _NOTHING
        after = events[first:]
        refused = sum(weight for _, _, was_refused, weight in events if was_refused)
        limit, of_limit = _likeliest_limit(events)
        if refused < _FEWEST:
            mixed = _is_mixed(events, self.settling)
            return _NOTHING._replace(limit=limit, refused=refused, unexplained=of_limit, mixed=mixed)
        rate, highest, of_rate = likeliest_rate(
            after, [rate for rate in known_rates if rate is not None], self._active
        )
        by_limit, by_rate = of_limit + _IN_FLIGHT_PRICE, of_rate + _RATE_PRICE
        by_limit += _WAITS_PRICE * waits_differ
        rather_limit = by_limit <= by_rate + (0.0 if known_limit is None else _SWITCH_PRICE)
        # "All are let in" leaves the refused unexplained, "all are refused" the rest: a limit has to do
        # better than both.
        let_in = sum(weight for _, _, was_refused, weight in after if not was_refused)
        is_vain = min(of_limit, of_rate) > _CONVINCING * let_in
        if is_vain or min(by_limit, by_rate) > _CONVINCING * refused:
            if known_limit is not None and rather_limit and _still_binds(events, known_limit):
                return Explanation("in flight", limit=known_limit, refused=refused, unexplained=of_limit)
            return Explanation("noise", refused=refused, unexplained=refused)
        if rather_limit:
            return Explanation("in flight", limit=limit, refused=refused, unexplained=of_limit)
        clear = refused >= _CLEAR_REFUSALS and of_rate <= _CLEAR * min(refused, let_in)
        found = Explanation("rate", rate=rate, highest=highest, refused=refused, unexplained=of_rate)
        return found._replace(
            clear=clear, guess=let_in < _FEWEST_LET_IN, blind=all(event[2] for event in events)
        )

    def weight(self, now: float) -> float:
        """Return the weight of the refusals among the newest requests."""
        return sum(weight for _, _, refused, weight in self._events(now) if refused)

    def refused_share(self, now: float) -> float:
        """Return the share of the newest requests, by weight, that was refused; 0 without any."""
        events = self._events(now)
        refused = sum(weight for _, _, was_refused, weight in events if was_refused)
        return refused / sum(weight for _, _, _, weight in events) if refused else 0.0

    def accepts_most(self, now: float) -> bool:
        """Whether the accepted requests among the newest outweigh the refused ones."""
        return sum(-weight if refused else weight for _, _, refused, weight in self._events(now)) > 0

    def let_in(self, now: float) -> tuple[float, float]:
        """Return the share of the newest requests that were let in, and how many that were a second.

        1 and 0 where that is too few requests to tell.
        """
        events = self._events(now)[-_NEWEST:]
        if len(events) < _ENOUGH or events[-1][0] <= events[0][0]:
            return 1.0, 0.0
        let_in = sum(not refused for _, _, refused, _ in events)
        return let_in / len(events), let_in / self._active(events[0][0], events[-1][0])

    def fastest(self, now: float) -> float:
        """Return the highest rate at which requests were let in lately, over spans that last until now."""
        fastest, let_in, next_count = 0.0, 0, _FEW_BETWEEN
        for entry in reversed(self._entries):
            let_in += entry.verdict in {PENDING, ACCEPTED}
            if let_in >= next_count or entry is self._entries[0]:
                next_count = 2 * let_in
                span = self._active(entry.sent_at, now)
                fastest = max(fastest, max(let_in, 1) / span if span > 0 else math.inf)
        return fastest

    def change(self, since: float, now: float) -> float | None:
        """Return when the first request was sent from which on far more were refused than `since` then."""
        events = [event for event in self._events(now) if event[0] >= since]
        change = _change(events)
        return events[change][0] if change else None

    def forget(self, before: float) -> None:
        """Forget requests that were sent before then, under other limits."""
        while self._entries and self._entries[0].sent_at < before:
            self._entries.popleft()

    def outcomes_since(self, time: float, now: float) -> tuple[int, int]:
        """Return how many requests sent since then were let in, and how many refused."""
        events = [event for event in self._events(now) if event[0] >= time]
        refused = sum(was_refused for _, _, was_refused, _ in events)
        return len(events) - refused, refused

    def rate_between_refusals(self, now: float, since: float = -math.inf) -> float | None:
        """Return how much was let in a second between the last refusal and one before; `None` for too little.

        Each end is off by up to a token, so that the refusal before is one that is far enough away, and not
        sent before `since`.
        """
        events = [event for event in self._events(now) if event[0] >= since]
        places = [place for place, event in enumerate(events) if event[2]]
        if not places:
            return None
        last = places[-1]
        far = [place for place in places[:-1] if last - place > _FAR_ENOUGH]
        near = [place for place in places[:-1] if last - place > _FEW_BETWEEN]
        first = far[-1] if far else near[0] if near else None
        if first is None or events[last][0] <= events[first][0]:
            return None
        let_in = sum(not refused for _, _, refused, _ in events[first:last])
        if not let_in:
            return None
        start, end = events[first][0], events[last][0]
        return let_in / math.sqrt((end - start) * self._active(start, end))

    def _events(self, now: float) -> list[Event]:
        # Of the requests after that, some refusals may be here already and others not.
        latest = now - self.settling
        known = [
            (entry.sent_at, entry.beside, entry.verdict == REFUSED)
            for entry in self._entries
            if entry.sent_at <= latest and entry.verdict != UNKNOWN
        ]
        known = _as_arrived(known, _DEVIATIONS * self._deviation, self._first_reply)
        count = len(known)
        return [
            (at, beside, refused, 0.5 ** ((count - 1 - place) / _HALF_LIFE))
            for place, (at, beside, refused) in enumerate(known)
        ]


def _as_arrived(sent: Sequence[_Outcome], moment: float, first_reply: float) -> list[_Outcome]:
    """Return requests in a likely order of arrival: those sent within a `moment` may have changed places.

    So may those that were sent before the first reply: each of them had a connection of its own to wait for.
    A limit refuses the last to arrive, so that the accepted ones came first. A refusal among many that were
    accepted is left in its place, as noise.
    """
    arrived: list[_Outcome] = []
    start = 0
    for end in range(1, len(sent) + 1):
        if end < len(sent) and (sent[end][0] <= sent[start][0] + moment or sent[end][0] < first_reply):
            continue
        arrived += _last_refused(sent[start:end])
        start = end
    return arrived


def _last_refused(moment: Sequence[_Outcome]) -> Iterable[_Outcome]:
    """Return the requests of one moment, at one time, the refused ones last unless they are noise."""
    at, refused = moment[0][0], [place for place, outcome in enumerate(moment) if outcome[2]]
    late = [place for place in range(refused[0], len(moment)) if not moment[place][2]] if refused else []
    if not late or _is_noise(len(late), len(refused)):
        return [(at, beside, was_refused) for _, beside, was_refused in moment]
    accepted = [(at, beside, False) for _, beside, was_refused in moment if not was_refused]
    return accepted + [
        (at, moment[place][1] + sum(other > place for other in late), True) for place in refused
    ]


def _change(events: Sequence[Event]) -> int:
    """Return the place of the refusal from which on far more are refused than before; 0 for none.

    The place is the likeliest one, by the ratio of the likelihoods of two shares and of a single one.
    """
    refused = sum(event[2] for event in events)
    one_share, best, most = _log_likelihood(refused, len(events)), 0, _CHANGED
    before = 0
    for place, event in enumerate(events):
        if not event[2]:
            continue
        after, count = refused - before, len(events) - place
        if after < _FEWEST_AFTER:
            break
        if place >= _FEWEST_BEFORE and before <= _RARELY * place:
            gain = _log_likelihood(before, place) + _log_likelihood(after, count) - one_share
            if gain > most:
                best, most = place, gain
        before += 1
    return best


def _log_likelihood(refused: int, count: int) -> float:
    """Return the log likelihood of so many refused requests if all are refused with the same probability."""
    return sum(part * math.log(part / count) for part in (refused, count - refused) if part)


def _is_mixed(events: Sequence[Event], settling: float) -> bool:
    """Whether most requests beside as many, right after the first refused one, were accepted.

    A limit that refuses one refuses the next as well, until another ends or the bucket is refilled.
    """
    refused_at = [place for place, event in enumerate(events) if event[2]]
    last = events[refused_at[-1]][0]
    first = next(place for place in refused_at if events[place][0] >= last - settling)
    at, beside = events[first][:2]
    after = [event[2] for event in events[first + 1 :] if event[0] <= at + settling and event[1] >= beside]
    let_in = sum(not refused for refused in after)
    return _is_noise(let_in, len(after) - let_in)


def _is_noise(let_in: int, refused: int) -> bool:
    """Whether so many requests accepted after the first refused one show that it was noise."""
    return let_in >= _MIXED and let_in >= 2 * refused


def _still_binds(events: Sequence[Event], limit: int) -> bool:
    """Whether a number in flight that is believed still predicts the outcomes beside as many.

    Refusals beside fewer are then noise, which is no reason to give the limit up.
    """
    refused, let_in = [0.0, 0.0], [0.0, 0.0]
    for _, beside, was_refused, weight in events:
        (refused if was_refused else let_in)[beside >= limit] += weight
    return refused[1] >= _PROBED and let_in[1] <= _CONVINCING * refused[1] and refused[0] <= let_in[0]


def _likeliest_limit(events: Sequence[Event]) -> tuple[int, float]:
    """Return the number in flight that explains most, and the weight of the outcomes that it does not."""
    candidates = {beside for _, beside, refused, _ in events if refused and beside > 0}
    best, fewest = 0, math.inf
    for limit in sorted(candidates, reverse=True):
        unexplained = sum(weight for _, beside, refused, weight in events if refused != (beside >= limit))
        if unexplained < fewest:
            best, fewest = limit, unexplained
    return best, fewest
