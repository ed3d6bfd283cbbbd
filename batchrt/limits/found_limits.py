"""Found limits: a rate, or a number in flight, that the provider does not tell but enforces.

A found limit is a hypothesis of `RefusalLog.explain`, kept to until it is contradicted:

- Both kinds are probed from below (CUBIC, `rate_estimator.py`; slow start, `in_flight_limit.py`), so
  that a limit never stays too tight for long. A refusal that a probe brings about is expected.
- A refusal while requests keep to the believed rate contradicts it. Three in a row give it up; each time that
  happens it takes twice as many, since beside random refusals a true rate is contradicted and found again.
  For some time afterwards only a rate beyond doubt is believed.
- A refusal beside fewer requests than the believed number in flight does not contradict that number, for it
  says nothing about as many; too many of them bring the next probe forward.
- A refusal that nothing explains which is believed is tested by a retrial (`retrial.py`) before any limit is
  lowered. Evidence of noise adds up, as in Wald's sequential test; once it is enough nothing is held back.
- Refusals that no limit explains (a stranger on the same key, a gateway's shared pool) change no pace: the
  wait that they name is kept, and sending goes on as before. Where most requests are refused without a
  reason, little more is sent than is accepted, but never less than one request at a time: acceptance may be a
  matter of chance that no slower pace improves.

Conclusions are drawn once per wave, when the refusals of everything sent before the first of them are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from batchrt.limits.in_flight_limit import InFlightLimit
from batchrt.limits.named_waits import NamedWaits
from batchrt.limits.rate_estimator import RateEstimator
from batchrt.limits.refusal_log import ACCEPTED, PENDING, REFUSED, Explanation, RefusalLog
from batchrt.limits.refusal_pause import FIRST_PAUSE, RefusalPause
from batchrt.limits.refusal_wave import Wave
from batchrt.limits.retrial import Retrial, chance_let_in, evidence_of_noise, is_likely, tells_nothing
from batchrt.limits.scepticism import Scepticism

if TYPE_CHECKING:
    from batchrt.limits.permit import Permit

__all__ = ["FoundLimits"]

_SMOOTHING: Final = 0.1
_TRIAL_ROUNDS: Final = 2.0
"""Round trips after which a number in flight that one wave told is probed."""
_SEPARABLE: Final = 0.6
"""The weight of outcomes that a number in flight may leave unexplained to be tried after a single refusal."""
_CERTAIN: Final = 2
"""Refusals in a row without an explanation from which on they are taken for noise."""
_ALMOST_CERTAIN: Final = 1.25
"""Evidence of noise to which a row of refusals falls back that is no chance: one more retrial decides."""
_SENT_SHARE: Final = 2.0
"""How many times the rate of accepted requests a rate may be, as in botocore's adaptive mode: refusals within
a moment would be explained by any high rate."""
_LEAST_CUT: Final = 0.7
"""The least factor by which a refusal or two lower a rate."""
_DISPROOF: Final = 6.0
"""The weight of refusals without an explanation from which on a rate that was found is given up at once."""
_TOO_MANY: Final = "the provider says that too many are in flight"
_BESIDE_AS_MANY: Final = "refused beside as many, not beside fewer"

Changed = Callable[[str, "float | None", "float | None", str], object]
Crowded: TypeAlias = "Callable[[Wave], object]"


class FoundLimits:
    """Find limits from refusals and keep to them.

    Args:
        changed: is told of each change: name, before, after, why.
        crowded: is told of refusals that the number in flight may be the reason of.
        acquit: is called with the wait that was asked for when refusals turn out to be noise.
        reopen: is called when a rate is given up: requests that waited for it must not go all at once.

    Attributes:
        rate: the rate that is kept to, if one is believed.
        in_flight: the number of requests in flight that is kept to, if one is believed.
        latency: mean seconds of a round trip; 0 before the first answer.
        unexplained: evidence that refusals have a reason that is no limit, about one for each.
    """

    __slots__ = (
        "_acquit",
        "_changed",
        "_crowded",
        "_granted_at",
        "_open",
        "_pause",
        "_reopen",
        "_retrial",
        "_scepticism",
        "_settled_at",
        "_unsettled",
        "_waits",
        "_wave",
        "in_flight",
        "latency",
        "log",
        "rate",
        "unexplained",
    )

    def __init__(
        self,
        changed: Changed,
        crowded: Crowded,
        acquit: Callable[[float], object],
        reopen: Callable[[], object],
    ) -> None:
        self.log: RefusalLog = RefusalLog()
        self.rate: RateEstimator = RateEstimator()
        self.in_flight: InFlightLimit = InFlightLimit()
        self.latency: float = 0.0
        self.unexplained: float = 0.0
        self._changed = changed
        self._crowded = crowded
        self._acquit = acquit
        self._reopen = reopen
        self._open = 0
        self._waits = NamedWaits()
        self._pause = RefusalPause()
        self._retrial = Retrial()
        self._scepticism = Scepticism()
        self._unsettled = False
        self._granted_at = -math.inf
        self._settled_at = -math.inf
        self._wave = Wave(0, 0, 0.0, 0.0, 0.0, 0.0)

    @property
    def is_certain(self) -> bool:
        """Whether refusals are known to have a reason that is no limit."""
        return self.unexplained >= _CERTAIN

    # Requests

    def granted(self, permit: Permit, now: float) -> None:
        """Record that a request may be sent."""
        self._granted_at = now
        self._retrial.granted(permit)
        if self.rate.bucket is not None:
            self.rate.bucket.charge(1.0)

    def withdrawn(self, permit: Permit) -> None:
        """Record that a request that might have been sent was not."""
        self._retrial.withdrawn(permit)
        if self.rate.bucket is not None:
            self.rate.bucket.charge(-1.0)

    def sent(self, permit: Permit) -> None:
        """Record that a request is sent; in the order in which the provider sees them."""
        self.log.sent(permit, self._open)
        self._open += 1

    def ended(self) -> None:
        """Record that a request that was sent has ended, whatever came of it."""
        self._open -= 1

    def answered(self, permit: Permit, now: float) -> None:
        """Record an answer: the request was let in."""
        permit.verdict = ACCEPTED
        self.log.replied(now)
        seconds, latency = now - permit.sent_at, self.latency
        self.latency = latency + (seconds - latency) * _SMOOTHING if latency else seconds
        self._pause.end()

    def pause_ends(self, now: float) -> float:
        """Return when the pause after a refusal that names no wait is over, and its wave known; or `now`."""
        if self._unsettled:
            if now >= self._settled_at:
                self._conclude(now)
            elif self.unexplained < _CERTAIN:
                return self._settled_at
        if self._retrial.is_wanted:
            return now
        if self._retrial.permit is not None:
            due = self._retrial.known_at(now, self.log.settling)
            if due > now:
                return due
            sent = self._retrial.end()
            if sent.verdict in {PENDING, ACCEPTED}:
                self._let_in_again(sent, now)
        return max(now, self._pause.until)

    def is_sent_again(self, permit: Permit) -> bool:
        """Whether a request is the one that is sent during the pause."""
        return self._retrial.permit is permit

    def is_clear(self, now: float) -> bool:
        """Whether nothing is held back, and nothing will be before a refusal."""
        found = self.rate.bucket or self.in_flight.limit
        paused = self._unsettled or self._retrial.is_wanted or self._pause.until > now
        return found is None and not paused and self._retrial.permit is None

    def lets_in_at(self, permit: Permit, in_flight: int, now: float, *, wanted: bool) -> float:
        """Return when `permit` may be sent beside `in_flight` others; infinity when another has to end."""
        if (due := self.pause_ends(now)) > now or self._retrial.is_wanted:
            return due
        if not permit.auto:
            due = self.in_flight.lets_in_at(in_flight, self.latency, self.log.settling, self._granted_at, now)
            if due > now:
                return due
        if self.rate.bucket is None:
            return now
        self.rate.advance(now, wanted=wanted)
        return now + self.rate.wait_for(now)

    def holds(self, in_flight: int) -> str | None:
        """Return the name of the limit that was found and holds requests back beside so many."""
        if self.rate.bucket is not None:
            return "requests_per_minute"
        limit = self.in_flight.limit
        return "max_in_flight" if limit is not None and in_flight >= limit else None

    def apart(self, limit: int) -> float:
        """Return when the last of `limit` requests in flight may be sent, where some were refused before.

        Not with the others: two at the same moment are refused by a bucket of one as well.
        """
        return self.paced(limit) if self.log.refused else -math.inf

    def paced(self, limit: int) -> float:
        """Return when one request more of `limit` may be sent than were ever in flight.

        Growth is spread over half a round trip (pacing, RFC 9002, 7.7), so that a limit shows by a refusal or
        two instead of by those of all that are sent until the first refusal is known.
        """
        return self._granted_at + self.latency / (2 * limit)

    # Refusals

    def pause(self, now: float, wait: float, random: Callable[[], float]) -> float:
        """Return the seconds of quiet after the first refusal of a wave, which asks for `wait` seconds."""
        if wait <= 0 and self.is_certain:
            if not self.log.is_barred(now):
                return 0.0
            self.unexplained = _ALMOST_CERTAIN
        return self._pause.begin(now, wait, self.latency, random)

    def refused(
        self, permit: Permit, now: float, wait: float, *, leads: bool, parallel: bool, explained: bool
    ) -> None:
        """Record a refusal; conclusions are drawn when the rest of its wave is known.

        Args:
            permit: the request.
            now: the time.
            wait: the seconds that it asks for; 0 for none.
            leads: it is the first of its wave.
            parallel: the provider says that too many requests are in flight.
            explained: a limit that is given or told explains it.
        """
        self.log.was_refused(permit, now, wait)
        if parallel:
            self._crowded(Wave.of(permit, 0.0, now))
            self._keep_to_limit(max(1, permit.beside), 0.0, now, _TOO_MANY)
        failed_again = self._retrial.refused(permit)
        if parallel or explained:
            return
        if failed_again or (self._unsettled and not leads):
            self._wave = self._wave.joined(permit, wait, now)
        else:
            self._wave = Wave.of(permit, wait, now)
        self._unsettled = True
        # Where sending goes on, the outcome of the next request is waited for as well.
        goes_on = self.is_certain and wait <= 0
        self._settled_at = now + self.log.settling * (2 if goes_on else 1)

    def _conclude(self, now: float) -> None:
        """Find out why the last wave was refused."""
        self._unsettled = False
        wave = self._wave
        self._waits.learn(wave.wait)
        explanation = self._explain(now)
        confirmed, self._retrial.has_failed = self._retrial.has_failed, False
        if not confirmed and self._is_in_doubt(explanation, wave, now):
            self._retrial.want()
            return
        after = self.log.first_after(wave.at, now) if self.is_certain and wave.wait <= 0 else None
        if after is not None and after.verdict != REFUSED:
            chance = chance_let_in(
                explanation, wave, after.sent_at, after.beside, self.rate.base, pace=self.rate.pace
            )
            if not (is_likely(chance) or tells_nothing(explanation, chance, self.rate.base)):
                explanation = explanation._replace(cause="noise")
        if confirmed and explanation.cause == "noise":
            # A limit that nothing explains yet, or a stranger's use of one: no pace is known to be better.
            self.unexplained = max(0.0, self.unexplained - 1)
            self.rate.refused(wave.wait, wave.at)
            if self.rate.bucket is None and self.in_flight.limit is None:
                self._spare(wave, now)
        else:
            self._act(explanation, wave, now)

    def _act(self, explanation: Explanation, wave: Wave, now: float) -> None:
        """Keep to the limit that explains a wave, or give one up."""
        cause = explanation.cause
        if cause == "rate":
            most = _SENT_SHARE * self.log.fastest(self._settled_at)
            explanation = explanation._replace(
                rate=min(explanation.rate, most), highest=min(explanation.highest, most)
            )
        base = self.in_flight.base
        if cause == "in flight" and base is not None and wave.most < base <= explanation.limit:
            self._doubt_limit(now)
        elif cause == "in flight":
            self._crowded(wave._replace(beside=explanation.limit, sure=True))
            self._keep_to_limit(explanation.limit, wave.wait, now, _BESIDE_AS_MANY)
        elif cause == "rate" and self._scepticism.accepts(explanation, now):
            if self._scepticism.lowering_helps(explanation, self.rate, wave.at):
                self._keep_to_rate(explanation, wave)
            else:
                self._believe_nothing(now)
        elif cause == "noise" and (self.rate.bucket is None or explanation.refused >= _DISPROOF):
            self._believe_nothing(now)
        else:
            self._guess(explanation, wave, now)
        if self.rate.bucket is None and self.in_flight.limit is None:
            self._spare(wave, now)

    def _is_in_doubt(self, explanation: Explanation, wave: Wave, now: float) -> bool:
        """Whether a retrial is to tell a limit from noise: no limit that is known explains the wave."""
        if self.is_certain or wave.wait > 0:
            return False
        base = self.rate.base
        chance = chance_let_in(explanation, wave, now, self._open, base, pace=self.rate.pace)
        if tells_nothing(explanation, chance, base):
            return False
        if explanation.cause == "noise":
            return True
        if base is not None:
            return not (self.rate.probed(wave.at) or self.rate.has_grown)
        limit = self.in_flight.base
        return limit is None or wave.most < limit

    def _let_in_again(self, sent: Permit, now: float) -> None:
        """Go on as before the refusals, unless a limit would have let the request in as well."""
        explanation, base = self._explain(now), self.rate.base
        chance = chance_let_in(explanation, self._wave, sent.sent_at, sent.beside, base, pace=self.rate.pace)
        if explanation.cause in {"rate", "in flight"} and tells_nothing(explanation, chance, base):
            self._act(explanation, self._wave, now)
            return
        self._pause.end()
        self.rate.settle()
        self.unexplained += evidence_of_noise(chance, 1 - self.log.let_in(now)[0])
        expected = explanation.cause == "rate" and self._scepticism.is_expected(
            explanation, self.rate, self._wave.at
        )
        if base is not None and not expected and self._scepticism.is_surprised():
            self._believe_nothing(now)
        elif base is None and self.in_flight.base is not None:
            self._doubt_limit(now)
        self._acquit(0.0)

    def _explain(self, now: float) -> Explanation:
        """Explain the refusals by the log, by the waits, and by the growth that ran into a limit."""
        base, told = self.rate.base, self._waits.highest_rate
        if not self.rate.has_grown:
            explanation = self.log.explain(now, [base, told], self.in_flight.base)
            return self._waits.bound(explanation, base)
        overrun = self.rate.overrun
        explanation = self.log.explain(now, [base, overrun, told], self.in_flight.base)
        if explanation.rate < overrun <= explanation.highest:
            # The log also counts the seconds at a lower pace, in which a full bucket lost its refill.
            return explanation._replace(rate=overrun, highest=overrun)
        return explanation

    def _spare(self, wave: Wave, now: float) -> None:
        """Send little more than is accepted where most requests are refused, for whatever reason."""
        rate = self.log.sparing_rate(now, self.latency)
        if rate > 0:
            self.rate.found(rate, rate, wave.wait, wave.at)
            self.rate.hurry()
            assert self.rate.base is not None
            self._changed("requests_per_minute", None, 60 * self.rate.base, "found: most is refused")

    def _guess(self, explanation: Explanation, wave: Wave, now: float) -> None:
        """Act on a refusal or two, which may be chance."""
        if self.rate.bucket is not None:
            self._surprise(wave, now)
        elif explanation.mixed:
            self._take_for_noise(now)
            self.in_flight.hold(now, 0.0)
        elif self.in_flight.base is not None and wave.most < self.in_flight.base:
            self._doubt_limit(now)
        elif wave.beside > 0 and explanation.unexplained <= _SEPARABLE and not self.is_certain:
            self._try_limit(wave.beside, 0.0, now, _BESIDE_AS_MANY)
            self._crowded(wave)
        else:
            self.unexplained += 1

    def _doubt_limit(self, now: float) -> None:
        """Record refusals beside fewer than the number in flight that is believed."""
        self.unexplained += 1
        if self.in_flight.refused_beside_fewer(now):
            self._acquit(self._wave.wait)

    def _surprise(self, wave: Wave, now: float) -> None:
        """Lower the believed rate to that of the accepted requests; give it up where that did not help."""
        rate, base = self.log.rate_between_refusals(now), self.rate.base
        assert base is not None
        if self.rate.probed(wave.at):
            self._scepticism.calm()
        elif self._scepticism.is_surprised():
            self._believe_nothing(now)
            return
        if rate is None and self.rate.probed(wave.at):
            self.rate.found(self.rate.overrun, self.rate.overrun, wave.wait, wave.at)
        elif rate is None:
            self.rate.refused(wave.wait, wave.at)
        else:
            grown = self.rate.rate or base
            self.rate.found(max(min(rate, grown), _LEAST_CUT * base), grown, wave.wait, wave.at)

    def _take_for_noise(self, now: float) -> None:
        """Send as before the refusals, once further ones have no reason either."""
        if self.is_certain and self.log.accepts_most(now):
            self._acquit(self._wave.wait)
        self.unexplained = max(self.unexplained + 1, _CERTAIN)

    def _believe_nothing(self, now: float) -> None:
        self._take_for_noise(now)
        self._scepticism.calm()
        if self.rate.bucket is not None:
            before = 60 * self.rate.bucket.rate
            self.rate.drop()
            self._scepticism.rise(now, self.log.weight(now))
            self._reopen()
            if self._wave.wait <= 0:
                self._acquit(0.0)
            self._changed("requests_per_minute", before, None, "refusals did not end below it")
        if self.in_flight.is_outgrown:
            self._changed("max_in_flight", self.in_flight.limit, None, "more were let in")
            self.in_flight.drop()
        elif self.log.weight(now) >= _DISPROOF:
            self.in_flight.hold(now, 0.0)

    def _try_limit(self, limit: int, wait: float, now: float, reason: str) -> None:
        """Keep to a number in flight; one that is new is probed soon, unless a failed probe costs a wait."""
        before = self.in_flight.limit
        self.in_flight.found(limit, self.latency, wait, now)
        if before is None and wait <= 0:
            self.in_flight.hold(now, _TRIAL_ROUNDS * (self.latency or FIRST_PAUSE))
        if before != self.in_flight.limit:
            self._changed("max_in_flight", before, self.in_flight.limit, f"found: {reason}")

    def _keep_to_limit(self, limit: int, wait: float, now: float, reason: str) -> None:
        self.unexplained = 0
        if self.rate.bucket is not None:
            self._changed("requests_per_minute", 60 * self.rate.bucket.rate, None, reason)
            self.rate.drop()
        self._try_limit(limit, wait, now, reason)

    def _keep_to_rate(self, explanation: Explanation, wave: Wave) -> None:
        self.unexplained = 0
        reason = "found: refused when more was sent"
        before = self.rate.bucket
        if self.in_flight.limit is not None:
            self._changed("max_in_flight", self.in_flight.limit, None, reason)
            self.in_flight.drop()
        self.rate.found(explanation.rate, explanation.highest, wave.wait, wave.at, clear=explanation.clear)
        assert self.rate.base is not None
        rate = None if before is None else 60 * before.rate
        self._changed("requests_per_minute", rate, 60 * self.rate.base, reason)
