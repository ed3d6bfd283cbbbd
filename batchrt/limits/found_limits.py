"""Found limits: a rate, or a number in flight, that the provider does not tell but enforces.

A found limit is a hypothesis of `RefusalLog.explain`, kept to until it is contradicted:

- Both kinds are probed from below (CUBIC, `rate_estimator.py`; slow start, `in_flight_limit.py`), so
  that a limit never stays too tight for long. A refusal that a probe brings about is expected.
- A refusal while requests keep to the believed rate contradicts it. Three in a row give it up; each time that
  happens it takes twice as many, since beside random refusals a true rate is contradicted and found again.
  For some time afterwards only a rate beyond doubt is believed.
- A refusal beside fewer requests than the believed number in flight does not contradict that number, for it
  says nothing about as many; too many of them bring the next probe forward.
- Refusals that no limit explains (a stranger on the same key, a gateway's shared pool) change no pace: the
  wait that they name is kept, and sending goes on as before. Where most requests are refused without a
  reason, little more is sent than is accepted, but never less than one request at a time: acceptance may be a
  matter of chance that no slower pace improves.

Conclusions are drawn once per wave, when the refusals of everything sent before the first of them are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from batchrt.limits.in_flight_limit import InFlightLimit
from batchrt.limits.named_waits import NamedWaits
from batchrt.limits.refusal_pause import FIRST_PAUSE, RefusalPause
from batchrt.limits.retrial import Retrial
from batchrt.limits.rate_estimator import RateEstimator
from batchrt.limits.refusal_log import ACCEPTED, PENDING, REFUSED, Entry, Explanation, RefusalLog

if TYPE_CHECKING:
    from batchrt.limits.permit import Permit

__all__ = ["FoundLimits", "Wave"]

_SMOOTHING: Final = 0.1
_TRIAL_ROUNDS: Final = 2.0
"""Round trips after which a number in flight that one wave told is probed."""
_SEPARABLE: Final = 0.6
"""The weight of outcomes that a number in flight may leave unexplained to be tried after a single refusal."""
_CERTAIN: Final = 2
"""Refusals in a row without an explanation from which on they are taken for noise."""
_SENT_SHARE: Final = 2.0
"""How many times the rate of accepted requests a rate may be, as in botocore's adaptive mode: refusals within
a moment would be explained by any high rate."""
_LEAST_CUT: Final = 0.7
"""The least factor by which a refusal or two lower a rate."""
_SPARED: Final = 0.6
_SPARING: Final = 1.25
"""The share of accepted requests below which the pace is held to so many times the rate of accepted ones."""
_SURPRISES: Final = 3
_MOST_SURPRISES: Final = 24
"""Refusals in a row below the rate that is kept to, after which it is no explanation; doubling each time that
a rate is given up, for a rate beside noise is found again and again."""
_DISPROOF: Final = 6.0
"""The weight of refusals without an explanation from which on a rate that was found is given up at once."""
_SCEPTICAL: Final = 15.0
_MOST_SCEPTICAL: Final = 120.0
"""Seconds for which no rate is inferred after one turned out to be none, doubling from time to time; more
than twice the refusals end it."""
_MANY: Final = 2.0
_BESIDE_AS_MANY: Final = "refused beside as many, not beside fewer"
_UNCERTAIN: Final = 1.3
"""The factor between the rates that explain refusals, from which on their geometric mean is tried."""
_NATS: Final = 1.5
"""The logarithm of a likelihood ratio that counts as one refusal without an explanation: two are 20 to 1, the
bound of Wald's sequential test for errors of one in twenty."""
_EVEN: Final = 0.5
_LIKELY: Final = 0.25
"""How likely a limit has to let a request in for its outcome to be no evidence, and that where the limit is
beyond doubt."""
_LEAST_NOISE: Final = 0.02
_SLIP: Final = 0.05
"""How likely a limit lets a request in that is over it: counts on both sides differ for a moment."""
_UNKNOWN: Final = 0.25
"""How likely a limit of which too little is known does so."""

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
        "_doubt",
        "_doubted_share",
        "_granted_at",
        "_waits",
        "_open",
        "_patience",
        "_pause",
        "_reopen",
        "_retrial",
        "_sceptical_until",
        "_settled_at",
        "_surprises",
        "_unsettled",
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
        self._surprises = 0
        self._patience = _SURPRISES
        self._doubt = _SCEPTICAL
        self._doubted_share = 0.0
        self._sceptical_until = -math.inf
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
        seconds = now - permit.sent_at
        self.latency += (seconds - self.latency) * _SMOOTHING if self.latency else seconds
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

    def lets_in_at(self, permit: Permit, in_flight: int, now: float, *, wanted: bool) -> float:
        """Return when `permit` may be sent beside `in_flight` others; infinity when another has to end."""
        if (due := self.pause_ends(now)) > now or self._retrial.is_wanted:
            return due
        if not permit.auto:
            due = self.in_flight.lets_in_at(
                in_flight, self.latency, self.log.settling, self._granted_at, now
            )
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

    def apart(self, limit: int, grows: bool) -> float:
        """Return when one of `limit` requests in flight may be sent that does not go with the others.

        That is one beside more than were tried before: a limit above shows by a refusal or two, instead of by
        the refusals of all that were sent within a refusal's time (RFC 9002, 7.7, and BBR pace for that
        reason). And the last one where some were refused before: two at the same moment are refused by a
        bucket of one as well.
        """
        return self._granted_at + self.latency / (2 * limit) if grows or self.log.refused else -math.inf

    # Refusals

    def pause(self, now: float, wait: float, random: Callable[[], float]) -> float:
        """Return the seconds of quiet after the first refusal of a wave, which asks for `wait` seconds."""
        if wait <= 0 and self.is_certain:
            if not self.log.is_barred(now):
                return 0.0
            self.unexplained = _CERTAIN - _NATS / 2
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
            self._crowded(Wave(permit.beside, permit.beside, 0.0, now, permit.sent_at, permit.sent_at))
            self._keep_to_limit(
                max(1, permit.beside), 0.0, now, "the provider says that too many are in flight"
            )
        failed_again = self._retrial.refused(permit)
        if parallel or explained:
            return
        if failed_again or (self._unsettled and not leads):
            self._wave = self._wave.joined(permit, wait, now)
        else:
            self._wave = Wave(permit.beside, permit.beside, wait, now, permit.sent_at, permit.sent_at)
        self._unsettled = True
        # Where sending goes on, the outcome of the next request is waited for as well.
        goes_on = self.is_certain and wait <= 0
        self._settled_at = now + self.log.settling * (2 if goes_on else 1)

    def _conclude(self, now: float) -> None:
        """Find out why the last wave was refused."""
        self._unsettled = False
        wave = self._wave
        explanation = self._explain(now)
        confirmed, self._retrial.has_failed = self._retrial.has_failed, False
        if not confirmed and self._is_in_doubt(explanation, wave, now):
            self._retrial.want()
            return
        after = self.log.first_after(wave.at, now) if self.is_certain and wave.wait <= 0 else None
        if after is not None and after.verdict != REFUSED and self._chance(explanation, after) < _EVEN:
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
        elif cause == "rate" and self._is_credible(explanation, now):
            if self._lowering_helps(explanation, wave):
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
        """Whether one request more is to tell a limit from noise.

        Not where a limit that is known explains the wave, nor where a rate is so high that it would let the
        request in as well.
        """
        if self.is_certain or (wave.wait > 0 and not self._waits.are_fixed):
            return False
        rate = explanation.rate if explanation.cause == "rate" else self.rate.base or 0.0
        chance = rate * (now - wave.refused_at)
        if chance >= _LIKELY if explanation.clear else chance >= _EVEN and self.rate.bucket is not None:
            return False
        if explanation.cause == "in flight" and self._open < explanation.limit:
            return False
        if explanation.cause == "noise":
            return True
        if self.rate.bucket is not None:
            return not self.rate.probed(wave.at) and not self.rate.has_grown
        base = self.in_flight.base
        return base is None or wave.most < base

    def _let_in_again(self, permit: Permit, now: float) -> None:
        """Go on as before the refusals, unless a limit would have let the request in by now as well."""
        explanation = self._explain(now)
        chance = self._chance(explanation, permit)
        if explanation.cause == "in flight":
            told = chance >= _EVEN
        elif explanation.clear:
            told = chance >= _LIKELY
        else:
            told = chance >= _EVEN and explanation.cause == "rate" and self.rate.bucket is not None
        if told:
            self._act(explanation, self._wave, now)
            return
        self._pause.end()
        self.rate.settle()
        noise = min(max(1 - self.log.let_in(now)[0], _LEAST_NOISE), _EVEN)
        self.unexplained += max(0.0, math.log((1 - noise) / chance) / _NATS)
        if self.rate.bucket is not None:
            self._surprises += 1
            if self._surprises >= self._patience:
                self._believe_nothing(now)
        elif self.in_flight.base is not None:
            self._doubt_limit(now)
        self._acquit(0.0)

    def _chance(self, explanation: Explanation, entry: Entry) -> float:
        """Return how likely the limit lets a request in that is sent right after it refused another."""
        if explanation.cause == "rate":
            return min(1.0, max(explanation.rate * (entry.sent_at - self._wave.refused_at), _SLIP))
        if explanation.cause == "in flight":
            return 1.0 if entry.beside < explanation.limit else _SLIP
        if self.rate.base is not None:
            return min(1.0, max(self.rate.base * (entry.sent_at - self._wave.refused_at), _SLIP))
        return _UNKNOWN

    def _explain(self, now: float) -> Explanation:
        """Explain the refusals by the log, by the waits, and by the growth that ran into a limit."""
        self._waits.learn(self._wave.wait)
        told = self._waits.highest_rate
        told = None if told == math.inf else told
        if not self.rate.has_grown:
            explanation = self.log.explain(now, [self.rate.base, told], self.in_flight.base)
            return self._by_waits(explanation, told)
        overrun = self.rate.overrun
        explanation = self.log.explain(now, [self.rate.base, overrun, told], self.in_flight.base)
        if explanation.rate < overrun <= explanation.highest:
            # The log also counts the seconds at a lower pace, in which a full bucket lost its refill.
            return explanation._replace(rate=overrun, highest=overrun)
        return explanation

    def _by_waits(self, explanation: Explanation, told: float | None) -> Explanation:
        """Let the waits bound the rate, where they are shares of a token.

        The wait for one request is its share of a token; the longest of some is nearly that for a whole one.
        """
        if told is None or explanation.cause != "rate":
            return explanation
        if told < explanation.rate:
            self._waits.forget()
            return explanation
        highest = min(told, explanation.highest)
        if self.rate.base is not None and self.rate.base > explanation.rate:
            highest = min(highest, self.rate.base)  # which was refused
        rate = explanation.rate
        if highest > _UNCERTAIN * rate:
            rate = math.sqrt(rate * highest)
        return explanation._replace(rate=rate, highest=highest)

    def _spare(self, wave: Wave, now: float) -> None:
        """Send little more than is accepted where most requests are refused, for whatever reason."""
        share, rate = self.log.let_in(now)
        if share < _SPARED and rate > 0:
            # One request at a time hammers no provider, and a chance that no pace improves is taken often.
            one_at_a_time = 1 / self.latency if self.latency else 0.0
            self._spare_rate(max(_SPARING * rate, one_at_a_time), wave)

    def _spare_rate(self, rate: float, wave: Wave) -> None:
        self.rate.found(rate, rate, wave.wait, wave.at)
        self.rate.hurry()
        assert self.rate.base is not None
        self._changed("requests_per_minute", None, 60 * self.rate.base, "found: most is refused")

    def _lowering_helps(self, explanation: Explanation, wave: Wave) -> bool:
        """Whether a lower rate may bring the refusals down: not where it did not, time and again."""
        base, grown = self.rate.base, self.rate.rate
        if base is None or grown is None or explanation.clear or self.rate.probed(wave.at):
            self._surprises = 0
            return True
        if grown > explanation.highest >= base:
            # Growing ran into the limit that the base told: a small bucket has no cushion.
            self._surprises = 0
            return True
        self._surprises += 1
        return self._surprises < self._patience

    def _is_credible(self, explanation: Explanation, now: float) -> bool:
        if explanation.clear or now >= self._sceptical_until:
            return True
        return explanation.refused > _MANY * self._doubted_share

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
            self._surprises = 0
        else:
            self._surprises += 1
        if self._surprises >= self._patience:
            self._believe_nothing(now)
        elif rate is None and self.rate.probed(wave.at):
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
        self._surprises = 0
        if self.rate.bucket is not None:
            before = 60 * self.rate.bucket.rate
            self.rate.drop()
            self._patience = min(2 * self._patience, _MOST_SURPRISES)
            self._doubted_share = max(self.log.weight(now), 1.0)
            self._sceptical_until = now + self._doubt
            self._reopen()
            if self._wave.wait <= 0:
                self._acquit(0.0)
            self._doubt = min(2 * self._doubt, _MOST_SCEPTICAL)
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


class Wave(NamedTuple):
    """The refusals of requests that were sent before the first refusal was known.

    Attributes:
        beside: the fewest that one of them was sent beside.
        most: the most that one of them was sent beside.
        wait: the longest wait that was asked for.
        at: when the last of them came.
        sent_at: when the first of them was sent.
        refused_at: when the last of them was sent.
        sure: the number in flight is the reason, not one of several.
    """

    beside: int
    most: int
    wait: float
    at: float
    sent_at: float
    refused_at: float
    sure: bool = False

    def joined(self, permit: Permit, wait: float, now: float) -> Wave:
        """Return it with one refusal more, which came just now."""
        return self._replace(
            beside=min(self.beside, permit.beside),
            most=max(self.most, permit.beside),
            wait=max(self.wait, wait),
            at=now,
            refused_at=max(self.refused_at, permit.sent_at),
        )
