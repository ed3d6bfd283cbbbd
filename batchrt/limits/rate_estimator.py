"""The rate estimator: a rate that was found is kept to, and probed from below.

The rate comes from `RefusalLog.explain`. It grows with the cube of the time since the last refusal, as
CUBIC (RFC 9438) has it: hardly at first, so that a limit that stays costs about one refusal in a hundred
requests, and ever faster, so that a limit that was raised, or never was one, is left behind in seconds.
"""

from __future__ import annotations

import math
from typing import Final

from batchrt.limits.refusal_wave import is_exact
from batchrt.limits.token_bucket import TokenBucket

__all__ = ["RateEstimator"]

_REQUESTS_A_REFUSAL: Final = 150.0
"""How many requests are to be let in between two refusals that growing brings about."""
_WAITS_A_REFUSAL: Final = 25.0
"""How much longer than the wait that a refusal asks for the time between two is to be."""
_GROWTH: Final = 2.7
"""The seconds in which the rate doubles, in terms of those between two refusals: after 1/2.7 of them it has
grown by a twentieth."""
_SHORTEST: Final = 2.0
_LONG: Final = 20.0
_LONGEST: Final = 60.0
"""Seconds in which a rate is doubled: at the least, and at the most, which is more for a low rate, but not
while it is searched for: random refusals are taken for a low rate until more is let in."""
_FEW_REQUESTS: Final = 80.0
"""Requests in which a low rate is doubled: a refusal in twenty or thirty."""
_CUSHION: Final = 2.0
_CUSHION_SECONDS: Final = 0.2
"""Requests' worth of refill that are waited for after a refusal: one is to be sent, and the other is left in
the provider's bucket, since arrival is not sending; but for no longer than so many seconds, in which a small
bucket is full."""
_BURST_SECONDS: Final = 0.1
_UNCERTAIN: Final = 1.3
"""The factor between the rates that explain the refusals, from which on their geometric mean is tried."""
_GROWN: Final = 1.1
"""The growth from which on a refusal tells how far growing may go."""
_SEVERAL: Final = 3.0
"""Requests let in during one wait, from which on the wait is no wait for one request."""
_UNCERTAIN_WAITS: Final = 5.0
_UNCERTAIN_REQUESTS: Final = 8.0
"""Waits in which a rate is doubled at the least, and requests in which the highest one is reached, where
several rates explain the refusals. In seconds alone, a low rate would be refused with every third request."""
_MOST_AT_ONCE: Final = 3.0
_FLOOR: Final = 0.25
_PEAK_HALF_LIFE: Final = 30.0
_PEAK_SECONDS: Final = 1.0
"""The share of the highest rate of late, which halves in so many seconds, that no refusal goes below. It has
to have been kept to for as long as the last says."""
_NEARLY: Final = 1e-9
_NEWTON: Final = 6
_LEAST: Final = 1 / 60
_MOST: Final = 1e6
"""Requests a second: the bounds of a rate. Refusals of which each seems to tell a lower rate, as those of a
stranger who uses up the key do, end in one request a minute, which notices in time that they are over."""


class RateEstimator:
    """Keep to a rate of requests that was found, and grow.

    Attributes:
        bucket: keeps to the rate; `None` while none is believed.
        since: when the rate was found first.
    """

    __slots__ = (
        "_base",
        "_found_at",
        "_grown",
        "_peak",
        "_scale",
        "_ticked",
        "_until",
        "bucket",
        "since",
    )

    def __init__(self) -> None:
        self.bucket: TokenBucket | None = None
        self.since: float = 0.0
        self._base = 0.0
        self._scale = _LONGEST
        self._grown = 0.0
        self._peak = 0.0
        self._found_at = 0.0
        self._until = 0.0
        self._ticked = 0.0

    @property
    def rate(self) -> float | None:
        """Requests a second right now, or `None`."""
        return None if self.bucket is None else self.bucket.rate

    @property
    def base(self) -> float | None:
        """The rate that the last refusal told."""
        return None if self.bucket is None else self._base

    def found(
        self,
        rate: float,
        highest: float,
        wait: float,
        now: float,
        *,
        clear: bool = False,
        guess: bool = False,
    ) -> None:
        """Keep to `rate` from the end of the `wait` that a refusal at `now` asked for.

        `highest` is the highest rate that explains the refusals as well. Where the evidence is `clear`, the
        rate may be as low as it likes, whatever was believed before. A `guess`, where hardly anything was let
        in, grows as fast as may be, as does the lowest rate: the refusals may be over at any time.
        """
        if clear:
            self._base = self._peak = 0.0
        # The wait for one request bounds the rate, unless it was rounded up to seconds.
        uncertain = highest > _UNCERTAIN * rate and not is_exact(wait)
        if uncertain and (wait <= 0 or rate * wait > _SEVERAL):
            rate = math.sqrt(rate * min(highest, _MOST_AT_ONCE**2 * rate))
        self._base = min(max(rate, self._floor(now), _LEAST), _MOST)
        guess = guess or self._base <= _LEAST
        between = max(_REQUESTS_A_REFUSAL / self._base, _WAITS_A_REFUSAL * wait)
        if guess:
            self._scale = _SHORTEST
        elif uncertain:
            # The next refusal tells more than it costs.
            self._scale = self._search_scale(highest, wait)
        else:
            longest = min(max(_LONG, _FEW_REQUESTS / self._base), _LONGEST)
            self._scale = min(max(_GROWTH * between, _SHORTEST), longest)
        self._until = now + max(wait, min(self._quiet, _SHORTEST if guess else _LONGEST))
        self._grown, self._ticked = 0.0, now
        if self.bucket is None:
            self.since = now
            self.bucket = TokenBucket("requests", "minute", rate=self._base, capacity=1.0, now=now)
        self.bucket.at, self.bucket.level = now, 1.0
        self._set_rate(self.bucket)

    def _search_scale(self, highest: float, wait: float) -> float:
        """Return the seconds of `_growth` with which the `highest` rate is reached within a few requests."""
        grown = max(highest / self._base, _UNCERTAIN) - 1
        volume = math.cbrt(grown) * (1 + grown / 4)  # until the growth is as high, in terms of the scale
        shortest = max(_SHORTEST, _UNCERTAIN_WAITS * wait)
        return max(shortest, min(_UNCERTAIN_REQUESTS / (self._base * volume), _LONG))

    def _floor(self, now: float) -> float:
        """Return the lowest rate that is believed: refusals that no pace ends must not end the work."""
        passed, self._found_at = now - self._found_at, now
        self._peak *= 0.5 ** (passed / _PEAK_HALF_LIFE)
        if self.bucket is not None and passed >= _PEAK_SECONDS:
            self._peak = max(self._peak, self._base)
        return self._peak * _FLOOR

    @property
    def _quiet(self) -> float:
        """Seconds without a request after a refusal: those of a token, and the cushion."""
        return 1 / self._base + min((_CUSHION - 1) / self._base, _CUSHION_SECONDS)

    def refused(self, wait: float, now: float) -> None:
        """Send nothing until the wait that a refusal asks for is over, and go on at the rate there was."""
        self._until = max(self._until, now + max(wait, min(self._quiet, _LONGEST)))
        if self.bucket is not None:
            self.bucket.level = min(self.bucket.level, 1.0)

    def overdrawn(self, wait: float, now: float) -> None:
        """Record that a request was refused that was sent before its time, and keep the wait it asks for."""
        self._until = max(self._until, now + wait)
        if self.bucket is not None:
            self.bucket.charge(-1.0)

    @property
    def has_grown(self) -> bool:
        """Whether the rate is so far above the base that a refusal tells how far growing may go."""
        return self.bucket is not None and self._growth(self._grown) > _GROWN

    @property
    def overrun(self) -> float:
        """The rate that a refusal after some growth tells: the limit is between the mean and the last one."""
        mean = self._volume(self._grown) / self._grown if self._grown else 1.0
        return self._base * math.sqrt(mean * self._growth(self._grown))

    def hurry(self) -> None:
        """Grow as fast as may be: the rate is a guess."""
        self._scale = _SHORTEST

    def probed(self, now: float) -> bool:
        """Whether growing has used up the cushion: a refusal is no surprise then."""
        if self.bucket is None or now < self._until:
            return False
        grown = (self._volume(self._grown) - self._grown) * self._base
        return grown >= self._quiet * self._base - 1.0

    def drop(self) -> None:
        """Believe in no rate any more."""
        self.bucket = None

    def advance(self, now: float, *, wanted: bool) -> None:
        """Let the time pass; the rate grows while requests wait for it."""
        bucket = self.bucket
        if bucket is None:
            return
        passed = now - max(self._ticked, self._until)
        self._ticked = bucket.at = max(now, self._ticked)
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
        quiet = max(0.0, self._until - now)
        lacks = (1.0 - self.bucket.level) / self._base
        if lacks <= _NEARLY:
            return quiet
        wanted = self._volume(self._grown) + lacks
        seconds = lacks / self._growth(self._grown)  # too long: the rate grows meanwhile
        for _ in range(_NEWTON):
            beyond = self._volume(self._grown + seconds) - wanted
            seconds -= beyond / self._growth(self._grown + seconds)
        return quiet + max(0.0, seconds)

    def _set_rate(self, bucket: TokenBucket) -> None:
        bucket.rate = min(self._base * self._growth(self._grown), _MOST)
        bucket.capacity = max(1.0, bucket.rate * _BURST_SECONDS)

    def _growth(self, seconds: float) -> float:
        """Return the rate after so many seconds of growth, in terms of the base."""
        return 1 + (seconds / self._scale) ** 3

    def _volume(self, seconds: float) -> float:
        """Return the integral of the growth: how much came in, in terms of a second at the base."""
        return seconds + seconds * (seconds / self._scale) ** 3 / 4
