"""A rate that nobody tells: found from when requests are refused.

Whoever is refused for the rate found the provider's bucket empty. Between two such moments exactly that was
let in which the bucket was refilled with; so two refusals give the rate, and later ones refine it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, NamedTuple

from batchrt.runtime.buckets import Bucket

__all__ = ["Inferred", "Refusal"]

_FIRST_SHARE: Final = 1 / 16
"""Of the pace at which the first refusal came, how much is tried a second after the wait: before it there
may have been a full bucket to use up."""
_DOUBLING: Final = 2.0
"""Seconds in which that doubles, until a second refusal has told the rate."""
_PROBING: Final = 60.0
"""Seconds in which a rate that was told is doubled. It grows with the cube of the time: by half a percent in
ten seconds, for a limit that stays; by all of it for one that was raised."""
_FEWEST: Final = 20
"""Requests let in between two refusals for the rate to be a few percent exact."""
_FAR: Final = 1.08
"""What the rate at which requests were refused may be of the one at which they were let in."""
_REMEMBERED: Final = 16
_SHORTEST: Final = 0.05
_NEARLY: Final = 1e-9
_NEWTON: Final = 4
_MOST_DOUBLINGS: Final = 40.0
_BURST_SECONDS: Final = 0.1
_SHORTEST_PAUSE: Final = 0.75
"""Seconds after a refusal until the next request, also if less was asked for: what comes in meanwhile is
what growing may use up before the next refusal."""


class Refusal(NamedTuple):
    """A moment at which the provider's bucket was empty.

    Attributes:
        time: when.
        let_in: how many requests had been let in by then.
        refused: how many had been refused.
    """

    time: float
    let_in: int
    refused: int


class Inferred:
    """Find a rate of requests, and keep to it.

    Args:
        started: when the first request was sent.

    Attributes:
        bucket: keeps to the rate; `None` until `keep` was called.
    """

    def __init__(self, started: float) -> None:
        self.bucket: Bucket | None = None
        self._refusals: deque[Refusal] = deque(maxlen=_REMEMBERED)
        self._started = started
        self._base = 0.0
        self._jump = 1.0
        self._told = False
        self._grown = 0.0
        self._until = 0.0
        self._ticked = 0.0

    def recent(self, since: float) -> list[Refusal]:
        """Return the refusals since then."""
        return [refusal for refusal in self._refusals if refusal.time >= since]

    def refused(self, refusal: Refusal, wait: float) -> None:
        """Note the first refusal of an episode, which asks to wait."""
        self._base = self._estimate(refusal, wait)
        self._refusals.append(refusal)
        self._until = refusal.time + max(wait, _SHORTEST_PAUSE)
        self._grown, self._ticked = 0.0, refusal.time

    def keep(self, now: float) -> Bucket:
        """Return the bucket that keeps to the rate, which begins with one request when the wait is over."""
        if self.bucket is None:
            self.bucket = Bucket("requests", "minute", rate=self._base, capacity=1.0, now=now)
        self.bucket.at, self.bucket.level = now, 1.0
        self._set_rate(self.bucket)
        return self.bucket

    def _estimate(self, last: Refusal, wait: float) -> float:
        far_enough = [one for one in self._refusals if last.time - one.time >= _SHORTEST]
        enough = [one for one in far_enough if last.let_in - one.let_in >= _FEWEST]
        first = enough[-1] if enough else far_enough[0] if far_enough else None
        if first is not None and last.let_in > first.let_in:
            let_in = (last.let_in - first.let_in) / (last.time - first.time)
            # Not less than was let in; and not more than what it was refused at. A bucket that was full in
            # between lost some of its refill.
            refused_at = self._base * self._growth(self._grown) if self._grown else let_in
            self._told = True
            far = bool(enough) and refused_at > _FAR * let_in
            return math.sqrt(let_in * refused_at) if far else let_in
        # In the first second, one request for each wait: it is what a single one has to wait for at the most.
        first_rate = 1 / max(wait, _SHORTEST)
        passed = max(last.time - self._started, wait, _SHORTEST)
        self._jump = max(1.0, last.let_in / passed * _FIRST_SHARE / first_rate)
        return first_rate

    def advance(self, now: float, *, wanted: bool) -> None:
        """Let the time pass; the rate grows while requests wait for it."""
        bucket = self.bucket
        if bucket is None:
            return
        passed = now - max(self._ticked, self._until)
        self._ticked = bucket.at = now
        if passed <= 0:
            return
        gained = passed * self._growth(self._grown)
        if wanted:
            gained = self._volume(self._grown + passed) - self._volume(self._grown)
            self._grown += passed
        self._set_rate(bucket)
        bucket.level = min(bucket.level + gained * self._base, max(bucket.level, bucket.capacity))

    def wait_for(self, now: float) -> float:
        """Return the seconds until a request fits, if it waits; 0 if it does."""
        if self.bucket is None:
            return 0.0
        if now < self._until:
            return self._until - now
        lacks = (1.0 - self.bucket.level) / self._base
        if lacks <= _NEARLY:
            return 0.0
        wanted = self._volume(self._grown) + lacks
        if not self._told:
            if wanted <= 1:
                return lacks
            doublings = math.log2(1 + (wanted - 1) * math.log(2) / (_DOUBLING * self._jump))
            return 1 + _DOUBLING * doublings - self._grown
        seconds = lacks / self._growth(self._grown)  # too long: the rate grows meanwhile
        for _ in range(_NEWTON):
            beyond = self._volume(self._grown + seconds) - wanted
            seconds -= beyond / self._growth(self._grown + seconds)
        return seconds

    def _set_rate(self, bucket: Bucket) -> None:
        bucket.rate = self._base * self._growth(self._grown)
        bucket.capacity = max(1.0, bucket.rate * _BURST_SECONDS)

    def _growth(self, seconds: float) -> float:
        """Return what the rate has grown to, in terms of what it was."""
        if self._told:
            return 1 + (seconds / _PROBING) ** 3
        if seconds < 1:
            return 1.0
        return self._jump * math.pow(2.0, min((seconds - 1) / _DOUBLING, _MOST_DOUBLINGS))

    def _volume(self, seconds: float) -> float:
        """Return how much came in meanwhile, in terms of what it was in a second."""
        if self._told:
            return seconds + seconds * (seconds / _PROBING) ** 3 / 4
        if seconds < 1:
            return seconds
        return 1 + (self._growth(seconds) - self._jump) * _DOUBLING / math.log(2)
