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
from typing import TYPE_CHECKING, Final, TypeAlias

from batchrt.limits.explanation import Explanation
from batchrt.limits.in_flight_limit import InFlightLimit
from batchrt.limits.named_waits import NamedWaits
from batchrt.limits.rate_doubts import RateDoubts
from batchrt.limits.rate_estimator import RateEstimator
from batchrt.limits.rate_trial import RateTrial
from batchrt.limits.refusal_log import ACCEPTED, RefusalLog
from batchrt.limits.refusal_pause import FIRST_PAUSE, Pause
from batchrt.limits.refusal_wave import Wave

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
_SENT_SHARE: Final = 2.0
"""How many times the rate of accepted requests a rate may be, as in botocore's adaptive mode: refusals within
a moment would be explained by any high rate."""
_LEAST_CUT: Final = 0.7
"""The least factor by which a refusal or two lower a rate."""
_SPARED: Final = 0.6
_SPARING: Final = 1.25
"""The share of accepted requests below which the pace is held to so many times the rate of accepted ones."""
_DISPROOF: Final = 6.0
"""The weight of refusals without an explanation from which on a rate that was found is given up at once."""

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
        unexplained: refusals in a row that no limit explains.
    """

    __slots__ = (
        "_acquit",
        "_changed",
        "_crowded",
        "_doubts",
        "_granted_at",
        "_holds_since",
        "_open",
        "_pause",
        "_reopen",
        "_settled_at",
        "_unsettled",
        "_waits",
        "_wave",
        "in_flight",
        "latency",
        "log",
        "rate",
        "trial",
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
        self.trial: RateTrial = RateTrial()
        self.latency: float = 0.0
        self.unexplained: int = 0
        self._changed = changed
        self._crowded = crowded
        self._acquit = acquit
        self._reopen = reopen
        self._doubts = RateDoubts(self.rate, self.log)
        self._open = 0
        self._pause = Pause()
        self._holds_since = math.inf
        self._unsettled = False
        self._waits = NamedWaits()
        self._granted_at = -math.inf
        self._settled_at = -math.inf
        self._wave = Wave(0, 0, 0.0, 0.0, 0.0, 0.0)

    @property
    def is_certain(self) -> bool:
        """Whether refusals are known to have a reason that is no limit."""
        return self.unexplained >= _CERTAIN

    @property
    def is_on_trial(self) -> bool:
        """Whether a rate that was found is put to the test."""
        return self.trial.is_open and self.rate.bucket is not None

    # Requests

    def granted(self, now: float) -> None:
        """Record that a request may be sent."""
        self._granted_at = now
        if self.rate.bucket is not None:
            self.rate.bucket.charge(1.0)
            self._doubts.kept()
        self.trial.granted(now)

    def withdrawn(self) -> None:
        """Record that a request that might have been sent was not."""
        if self.rate.bucket is not None:
            self.rate.bucket.charge(-1.0)

    def sent(self, permit: Permit) -> None:
        """Record that a request is sent; in the order in which the provider sees them."""
        self.log.sent(permit, self._open)
        self._open += 1
        self.trial.sent(permit)

    def ended(self) -> None:
        """Record that a request that was sent has ended, whatever came of it."""
        self._open -= 1

    def answered(self, permit: Permit, now: float) -> None:
        """Record an answer: the request was let in."""
        permit.verdict = ACCEPTED
        self.log.replied(now)
        seconds, latency = now - permit.sent_at, self.latency
        self.latency = latency + (seconds - latency) * _SMOOTHING if latency else seconds
        self._pause.answered()

    def pause_ends(self, now: float) -> float:
        """Return when the pause after a refusal that names no wait is over, and its wave known; or `now`."""
        if self._unsettled:
            if now >= self._settled_at:
                self._conclude(now)
            elif self.unexplained < _CERTAIN:
                return self._settled_at
        return max(now, self._pause.until)

    def is_clear(self, now: float) -> bool:
        """Whether nothing is held back, and nothing will be before a refusal."""
        found = self.rate.bucket or self.in_flight.limit
        return found is None and not self._unsettled and self._pause.until <= now

    def lets_in_at(self, permit: Permit, in_flight: int, now: float, *, wanted: bool) -> float:
        """Return when `permit` may be sent beside `in_flight` others; infinity when another has to end."""
        if (due := self.pause_ends(now)) > now:
            return due
        if not permit.auto:
            due = self.in_flight.lets_in_at(in_flight, self.latency, self._granted_at, now)
            if due > now:
                return due
        if self.rate.bucket is None:
            return now
        if self.trial.is_open:
            if not self.trial.disproves(now, self.log.settling):
                return self.trial.due(now, self.log.settling)
            self._believe_nothing(now)
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
        noise = self.log.refused_share(now) if self.unexplained > _CERTAIN else 0.0
        return self._pause.begin(now, wait, self.latency, random, noise=noise)

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
            self._keep_to_limit(
                max(1, permit.beside), 0.0, now, "the provider says that too many are in flight"
            )
        if parallel or explained:
            return
        if leads or not self._unsettled:
            self._wave = Wave.of(permit, wait, now)
        else:
            self._wave = self._wave.joined(permit, wait, now)
        self._unsettled = True
        self._settled_at = now + self.log.settling

    def _conclude(self, now: float) -> None:
        """Find out why the last wave was refused."""
        self._unsettled = False
        wave = self._wave
        former = self._forget_what_changed(now)
        self._waits.learn(wave)
        explanation = self._explain(now).at_most(_SENT_SHARE * self.log.fastest(self._settled_at))
        if not wave.most and wave.wait <= 0:
            explanation = explanation.alone(self.latency)
        if self.rate.bucket is not None and self.trial.is_failed_by(wave) and explanation.cause != "noise":
            if explanation.cause == "rate":
                # A refusal confirms the rate that was kept to, if that is among those that explain it.
                rate = min(max(explanation.rate, self.rate.base or 0.0), explanation.highest)
                self._keep_to_rate(explanation._replace(rate=rate), wave)
            else:
                self.rate.overdrawn(wave.wait, wave.at)
            self.trial.failed(wave, self.log.refused_share(now))
        else:
            self._act_on(explanation, former, wave, now)
            share = self.log.refused_share(now)
            tried = None if self._waits.are_told else self.rate.base
            self.trial.refused(tried, wave, now, refused=explanation.refused, share=share)
        if self.trial.is_open:
            self._pause.end()

    def _act_on(self, explanation: Explanation, former: float | None, wave: Wave, now: float) -> None:
        """Believe in a limit, or give one up, after an explanation; `former` is a rate to return to."""
        cause = explanation.cause
        base = self.in_flight.base
        if former is not None and cause != "rate":
            self._keep_to_rate(Explanation("rate", rate=former, highest=former), wave)
        elif cause == "in flight" and base is not None and wave.most < base <= explanation.limit:
            self._doubt_limit(now)
        elif cause == "in flight":
            self._crowded(wave._replace(beside=explanation.limit, sure=True))
            self._keep_to_limit(explanation.limit, wave.wait, now, "refused beside as many, not beside fewer")
        elif cause == "rate" and self.rate.bucket is None and explanation.is_vague(wave.wait):
            pass  # the waits keep the pace until a request is let in
        elif cause == "rate" and self._doubts.is_credible(explanation, now):
            if self._doubts.expects(explanation, wave):
                self._keep_to_rate(self._doubts.tempered(explanation), wave)
            else:
                self._believe_nothing(now)
        elif cause == "noise" and (self.rate.bucket is None or explanation.refused >= _DISPROOF):
            self._believe_nothing(now)
        else:
            self._guess(explanation, wave, now)
        if self.rate.bucket is None and self.in_flight.limit is None:
            self._holds_since = math.inf
            self._spare(wave, now)
        elif (self.rate.bucket is not None and self._doubts.are_none) or self.in_flight.found_at == now:
            self._holds_since = now

    def _forget_what_changed(self, now: float) -> float | None:
        """Forget what was sent under other limits; return a rate that was given up and is to be kept to."""
        if self.in_flight.limit is None and (former := self._doubts.given_up_in_vain(now)) is not None:
            return former
        change = self.log.change(self._holds_since, now)
        if change is not None:
            self.log.forget(change)
        return None

    def _explain(self, now: float) -> Explanation:
        """Explain the refusals by the log, by the waits, and by the growth that ran into a limit."""
        base, waits, limit = self.rate.base, self._waits, self.in_flight.base
        overrun = self.rate.overrun if self.rate.has_grown else None
        rates = [base, overrun, waits.highest_rate]
        explanation = self.log.explain(now, rates, limit, waits_differ=waits.differ)
        if overrun is None:
            return waits.bound(explanation, base)
        if explanation.rate < overrun <= explanation.highest:
            # The log also counts the seconds at a lower pace, in which a full bucket lost its refill.
            return explanation._replace(rate=overrun, highest=overrun)
        return explanation

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
            self._try_limit(wave.beside, 0.0, now)
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
        base, probed = self.rate.base, self.rate.probed(wave.at)
        assert base is not None
        if not self._doubts.surprised(wave):
            self._believe_nothing(now)
        elif (rate := self._doubts.accepted_rate(now)) is not None:
            grown = self.rate.rate or base
            self.rate.found(max(min(rate, grown), _LEAST_CUT * base), grown, wave.wait, wave.at)
        elif probed:
            self.rate.found(self.rate.overrun, self.rate.overrun, wave.wait, wave.at)
        else:
            self.rate.refused(wave.wait, wave.at)

    def _take_for_noise(self, now: float) -> None:
        """Send as before the refusals, once further ones have no reason either."""
        if self.is_certain and self.log.accepts_most(now):
            self._acquit(self._wave.wait)
        self.unexplained = max(self.unexplained + 1, _CERTAIN)

    def _believe_nothing(self, now: float) -> None:
        self._take_for_noise(now)
        self._doubts.end()
        if self.rate.bucket is not None:
            before = 60 * self.rate.bucket.rate
            self._doubts.give_up(now)
            self._reopen()
            self._changed("requests_per_minute", before, None, "refusals did not end below it")
        if self.in_flight.is_outgrown:
            self._changed("max_in_flight", self.in_flight.limit, None, "more were let in")
            self.in_flight.drop()
        elif self.log.weight(now) >= _DISPROOF:
            self.in_flight.hold(now, 0.0)

    def _try_limit(self, limit: int, wait: float, now: float) -> None:
        """Keep to a number in flight; one that is new is probed soon, unless a failed probe costs a wait."""
        is_new = self.in_flight.limit is None
        self.in_flight.found(limit, self.latency, wait, now)
        if is_new and wait <= 0:
            self.in_flight.hold(now, _TRIAL_ROUNDS * (self.latency or FIRST_PAUSE))

    def _keep_to_limit(self, limit: int, wait: float, now: float, reason: str) -> None:
        self.unexplained = 0
        before = self.in_flight.limit
        if self.rate.bucket is not None:
            self._changed("requests_per_minute", 60 * self.rate.bucket.rate, None, reason)
            self.rate.drop()
        self._try_limit(limit, wait, now)
        if before != self.in_flight.limit:
            self._changed("max_in_flight", before, limit, f"found: {reason}")

    def _keep_to_rate(self, explanation: Explanation, wave: Wave) -> None:
        self.unexplained = 0
        reason = "found: refused when more was sent"
        before = self.rate.bucket
        if self.in_flight.limit is not None:
            self._changed("max_in_flight", self.in_flight.limit, None, reason)
            self.in_flight.drop()
        rate, highest, clear = explanation.rate, explanation.highest, explanation.clear
        self.rate.found(rate, highest, wave.wait, wave.at, clear=clear, guess=explanation.guess)
        assert self.rate.base is not None
        former = None if before is None else 60 * before.rate
        self._changed("requests_per_minute", former, 60 * self.rate.base, reason)
