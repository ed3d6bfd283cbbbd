"""The evidence for a limit that the provider does not tell: which requests it refused, and beside how many.

Four causes make a provider refuse a request, and each leaves another trace. A rate refuses by how much was
let in before, a number in flight by how many are open, a stranger on the same key (or a gateway's shared
pool) by nothing that is visible here, and an overload by how busy the provider is. `RefusalLog.explain`
replays the newest requests under one hypothesis after the other and counts the outcomes that it does not
predict: the hypothesis with the fewest unexplained outcomes wins, and a limit is only believed where it
explains most of the refusals. Noise is the null hypothesis: it predicts that every request is accepted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

__all__ = ["ACCEPTED", "PENDING", "REFUSED", "UNKNOWN", "Explanation", "RefusalLog"]

PENDING: Final = 0
ACCEPTED: Final = 1
REFUSED: Final = 2
UNKNOWN: Final = 3
"""What became of a request: under way, let in by the provider, refused by it, or neither is known."""

Cause: TypeAlias = Literal["rate", "in flight", "noise", "too little evidence"]

_REMEMBERED: Final = 160
_SMOOTHING: Final = 0.25
_DELAYS: Final = 1.5
_MOMENT: Final = 0.0005
_HALF_LIFE: Final = 40
"""Requests after which an outcome weighs half: a limit that changed is found within some tens of requests."""
_FEWEST: Final = 2.0
"""The weight of refusals below which nothing is inferred: two may be chance."""
_CONVINCING: Final = 0.35
"""The share of the refusals that a limit may leave unexplained."""
_RATE_PRICE: Final = 1.0
_IN_FLIGHT_PRICE: Final = 0.6
"""What a hypothesis pays for its parameters, in unexplained outcomes (as the Bayesian information criterion
has it): two refusals always fit some rate."""
_TOLERANCE: Final = 0.35
_JITTER: Final = 0.01
"""Tokens, and seconds' worth of a rate, by which the replayed bucket may be off: arrival is not sending."""
_JITTER_SHARE: Final = 0.15
_BURSTS: Final = (1.0, 2.0, 4.0, 10.0, 30.0, 100.0, math.inf)
"""Bucket sizes that are tried: what comes into a full bucket is lost, and only its size tells how much."""
_FACTORS: Final = (0.5, 0.7, 0.85, 0.93, 1.0, 1.08, 1.2, 1.5, 2.0, 3.0, 5.0)
_LEADERS: Final = 6
_ENOUGH: Final = 30
_FAR_ENOUGH: Final = 60
_FEW_BETWEEN: Final = 8
"""Requests between two refusals that say little about a rate."""
_MIXED: Final = 3
"""Requests let in after a refused one, and beside as many, from which on the refusal is taken for noise."""
_EQUAL: Final = 0.4
_EQUAL_SHARE: Final = 0.05
"""Unexplained outcomes by which two rates may differ and be equally likely; and more for each refusal."""


class Entry(Protocol):
    """A request, as far as it is evidence."""

    sent_at: float
    beside: int
    verdict: int


class Explanation(NamedTuple):
    """Say why requests were refused.

    Attributes:
        cause: of the refusals, the likeliest.
        rate: requests a second, for the cause `rate`.
        highest: the highest rate that explains them equally well.
        limit: requests in flight, for the cause `in flight`.
        refused: weight of the refusals looked at.
        unexplained: weight of the outcomes that the cause does not predict.
        mixed: of what was sent right after the last refused request, most was let in.
    """

    cause: Cause
    rate: float = 0.0
    highest: float = 0.0
    limit: int = 0
    refused: float = 0.0
    unexplained: float = 0.0
    mixed: bool = False


_NOTHING: Final = Explanation("too little evidence")

_Event: TypeAlias = tuple[float, int, bool, float]
"""When it was sent, beside how many others, whether it was refused, and the weight."""


class RefusalLog:
    """Remember the newest requests and explain their refusals.

    Attributes:
        refused: how many were refused in all.
    """

    __slots__ = ("_delay", "_entries", "_since", "refused")

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_REMEMBERED)
        self._delay = 0.0
        self._since = -math.inf
        self.refused: int = 0

    def sent(self, entry: Entry, beside: int) -> None:
        """Record that `entry` was sent beside so many others."""
        entry.beside = beside
        entry.verdict = PENDING
        self._entries.append(entry)

    def was_refused(self, entry: Entry, now: float) -> None:
        """Record that the provider refused `entry`: it was never beside those sent after it."""
        self.refused += 1
        entry.verdict = REFUSED
        delay = now - entry.sent_at
        self._delay += (delay - self._delay) * _SMOOTHING if self._delay else delay
        for later in reversed(self._entries):
            if later is entry:
                break
            later.beside -= 1

    def forget(self, before: float) -> None:
        """Leave out what was sent before: another limit held then."""
        self._since = max(self._since, before)

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

    def explain(self, now: float, known: float | None = None) -> Explanation:
        """Return the likeliest cause of the refusals among the newest requests.

        Args:
            now: the time.
            known: a rate that is believed already, tried among others.
        """
        events = self._events(now)
        first = next((place for place, event in enumerate(events) if event[2]), None)
        if first is None:
            return _NOTHING
        after = events[first:]
        refused = sum(weight for _, _, was_refused, weight in events if was_refused)
        limit, of_limit = _likeliest_limit(events)
        if refused < _FEWEST:
            return Explanation(
                "too little evidence",
                limit=limit,
                refused=refused,
                unexplained=of_limit,
                mixed=_is_mixed(events, self.settling),
            )
        rate, highest, of_rate = _likeliest_rate(after, known)
        by_limit, by_rate = of_limit + _IN_FLIGHT_PRICE, of_rate + _RATE_PRICE
        if min(by_limit, by_rate) > _CONVINCING * refused:
            return Explanation("noise", refused=refused, unexplained=refused)
        if by_limit <= by_rate:
            return Explanation("in flight", limit=limit, refused=refused, unexplained=of_limit)
        return Explanation("rate", rate=rate, highest=highest, refused=refused, unexplained=of_rate)

    def weight(self, now: float) -> float:
        """Return the weight of the refusals among the newest requests."""
        return sum(weight for _, _, refused, weight in self._events(now) if refused)

    def let_in(self, now: float) -> tuple[float, float]:
        """Return the share of the newest requests that were let in, and how many that were a second."""
        events = self._events(now)
        if len(events) < _ENOUGH or events[-1][0] <= events[0][0]:
            return 1.0, 0.0
        let_in = sum(not refused for _, _, refused, _ in events)
        return let_in / len(events), let_in / (events[-1][0] - events[0][0])

    def rate_between_refusals(self, now: float) -> float | None:
        """Return how much was let in a second between the last refusal and one before; `None` for too little.

        Each end is off by up to a token, so that the refusal before is one that is far enough away.
        """
        events = self._events(now)
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
        return let_in / (events[last][0] - events[first][0]) if let_in else None

    def _events(self, now: float) -> list[_Event]:
        # Of what was sent later, some refusals may be here already and others not.
        latest = now - self.settling
        known = [
            (entry.sent_at, entry.beside, entry.verdict == REFUSED)
            for entry in self._entries
            if self._since <= entry.sent_at <= latest and entry.verdict != UNKNOWN
        ]
        count = len(known)
        return [
            (at, beside, refused, 0.5 ** ((count - 1 - place) / _HALF_LIFE))
            for place, (at, beside, refused) in enumerate(known)
        ]


def _is_mixed(events: Sequence[_Event], settling: float) -> bool:
    """Whether most of what was sent beside as many, right after the first refused request, was let in.

    A limit that refuses one refuses the next as well, until another ends or the bucket is refilled.
    """
    refused_at = [place for place, event in enumerate(events) if event[2]]
    last = events[refused_at[-1]][0]
    first = next(place for place in refused_at if events[place][0] >= last - settling)
    at, beside = events[first][:2]
    after = [event[2] for event in events[first + 1 :] if event[0] <= at + settling and event[1] >= beside]
    let_in = sum(not refused for refused in after)
    return let_in >= _MIXED and let_in >= 2 * (len(after) - let_in)


def _likeliest_limit(events: Sequence[_Event]) -> tuple[int, float]:
    """Return the number in flight that explains most, and the weight of what it does not."""
    candidates = {beside for _, beside, refused, _ in events if refused and beside > 0}
    best, fewest = 0, math.inf
    for limit in sorted(candidates, reverse=True):
        unexplained = sum(weight for _, beside, refused, weight in events if refused != (beside >= limit))
        if unexplained < fewest:
            best, fewest = limit, unexplained
    return best, fewest


def _likeliest_rate(events: Sequence[_Event], known: float | None) -> tuple[float, float, float]:
    """Return the rate that explains most, the highest that does so as well, and what it does not explain."""
    found = [
        (min(_unexplained(events, rate, burst) for burst in _BURSTS), rate)
        for rate in _candidates(events, known)
    ]
    if not found:
        return 0.0, 0.0, math.inf
    fewest = min(found)[0]
    most = fewest + _EQUAL + _EQUAL_SHARE * sum(event[3] for event in events if event[2])
    equal = [rate for unexplained, rate in found if unexplained <= most]
    # The candidates come with the likeliest first.
    return equal[0], max(equal), fewest


def _candidates(events: Sequence[_Event], known: float | None) -> Iterable[float]:
    """Return rates worth a try: between two refusals, about the refill was let in."""
    let_in, leaders = 0, list[tuple[float, int]]()
    before = False
    for at, _, refused, _ in events:
        if refused and (not before or not leaders):
            leaders.append((at, let_in))
        before = refused
        let_in += not refused
    leaders = leaders[-_LEADERS:]
    windows: list[tuple[float, float]] = []
    for place, (start, count) in enumerate(leaders):
        windows += [
            (more - count, (more - count) / (end - start))
            for end, more in leaders[place + 1 :]
            if end > start and more > count
        ]
    span = events[-1][0] - events[0][0]
    if not windows and span > 0:
        # Nothing was let in since: all that is known is that a token takes longer.
        windows = [(let_in, max(let_in, 0.5) / span)]
    # The longest window is the most exact.
    rates = [rate for _, rate in sorted(windows, reverse=True)]
    base = rates[0] if rates else known
    if known is not None:
        rates.append(known)
    if base is not None:
        rates += [base * factor for factor in _FACTORS]
    fastest = _fastest(events)
    rates += [fastest, fastest / 1.25, fastest / 2] if fastest else []
    return dict.fromkeys(rates)


def _fastest(events: Sequence[_Event]) -> float:
    """Return the rate at which the last accepted requests were sent, 0 if they are too few."""
    times = [at for at, _, refused, _ in events if not refused][-9:]
    if len(times) < 9 or times[-1] <= times[0]:  # noqa: PLR2004
        return 0.0
    return (len(times) - 1) / (times[-1] - times[0])


def _unexplained(events: Sequence[_Event], rate: float, burst: float) -> float:
    """Return the weight of the outcomes that a bucket of `burst` tokens does not predict.

    The replay begins at a refusal, when the bucket held less than a token, and is put right by each outcome
    that it did not predict.
    """
    # Within the tolerance nothing is predicted, so that it may be no large share of a small bucket.
    tolerance = _TOLERANCE + min(_JITTER * rate, _JITTER_SHARE * (burst - 1.0))
    level, last, total = 0.5, events[0][0], 0.0
    for at, _, refused, weight in events:
        if at > last:
            level = min(burst, level + (at - last) * rate)
            last = at
        if refused:
            if level > 1.0 + tolerance or level >= burst:  # a full bucket refuses nothing
                total += weight
                level = (level + 1.0) / 2
            elif level > 1.0:
                level = 1.0
        else:
            if level < 1.0 - tolerance:
                total += weight
            level = max(level - 1.0, -tolerance)
    return total
