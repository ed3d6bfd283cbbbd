"""One path of an API for one model: requests are let in, sent, judged, and sent again where that may help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from tenacity import stop_after_attempt

from batchrt.errors import ConnectionFailedError, OutageError, ProviderError, RateLimitError
from batchrt.limits.error_kinds import is_outage, is_overloaded, is_paced, may_be_billed
from batchrt.limits.permit import Permit
from batchrt.messages import Usage
from batchrt.providers.http.error_mapping import error_from, say_until
from batchrt.providers.http.rate_limit_headers import (
    limited_unit,
    parallel_limit,
    read_rate_limits,
    refuses_parallel,
)
from batchrt.providers.http.retry_after import should_retry, wait_before_retry
from batchrt.runtime.retry import first_failure, note_failure
from batchrt.runtime.sync_callbacks import checked_sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrt.limits.quota import Quota
    from batchrt.providers.http.response import Reply, Sink
    from batchrt.providers.http.secrets import Secrets
    from batchrt.providers.http.transport import Transport
    from batchrt.runtime.clock import Clock
    from batchrt.runtime.retry import RetryPolicy
    from batchrt.runtime.strand import Strand

__all__ = ["Endpoint"]


_SILENCE: Final = 20.0
_REFUSALS: Final = 10
"""Attempts of a request that is refused for now and told when to come back, where a policy says nothing."""


_LASTING_FAULTS: Final = frozenset(("certificate", "protocol"))
"""What is wrong with an address and will be at the next attempt: names may be looked up in vain for a moment,
and a server may be about to start."""


class Billed(Protocol):
    """An answer."""

    @property
    def usage(self) -> Usage | None:
        """The tokens it was billed, if that was said."""


T = TypeVar("T", bound=Billed)


class Endpoint:
    """Send requests for one model to one address.

    Args:
        url: the address.
        quota: lets requests in.
        transport: sends them.
        secrets: masked in errors.
        model: the model's name.
        policy: what is tried again.
        max_attempts: how often, where the policy does not say.
        most: the most tokens of an answer; `None` if nothing says.

    Attributes:
        quota: lets requests in.
    """

    __slots__ = (
        "_longest",
        "_max_attempts",
        "_model",
        "_most",
        "_policy",
        "_secrets",
        "_stop",
        "_transport",
        "_url",
        "quota",
    )

    def __init__(
        self,
        url: str,
        quota: Quota,
        transport: Transport,
        secrets: Secrets,
        *,
        model: str,
        policy: RetryPolicy,
        max_attempts: int,
        most: float | None = None,
    ) -> None:
        self._model = model
        self.quota: Quota = quota
        self._url = url
        self._transport = transport
        self._secrets = secrets
        self._policy = policy
        self._stop = policy.stop or stop_after_attempt(max_attempts)
        self._max_attempts = max_attempts
        self._longest = policy.max_retry_after
        self._most = most

    async def call(
        self,
        body: bytes,
        read: Callable[[Reply, Clock], T],
        strand: Strand,
        sink: Callable[[], Sink] | None = None,
        answers: int = 1,
    ) -> T:
        """Post `body` and return what `read` makes of the reply; `strand` holds a slot meanwhile.

        Args:
            body: the request's.
            read: makes an answer of a reply; what it was billed is added to the strand's item.
            strand: whose request it is.
            sink: makes what takes the body of a success in as it comes, for each attempt anew.
            answers: how many answers are asked for; 0 for vectors.

        Raises:
            ProviderError: the last attempt's; `attempts` says how many there were.
        """
        permit = self._passage(len(body), answers, strand)
        if strand.spending is not None:
            await self._reserve(permit, strand)
        try:
            await self.quota.admit(permit, strand)
            reply = await self._transport.post(self._url, body, None if sink is None else sink())
            return self._judge(reply, read, permit, strand)
        except ProviderError as error:
            self._note(error, permit, strand)
            failure = error
        finally:
            if permit.granted or permit.reservation is not None:
                self._leave(permit, strand)
        return await self._call_again(body, read, strand, sink, answers, failure)

    def _passage(self, size: int, answers: int, strand: Strand) -> Permit:
        return Permit(
            size,
            answers=answers,
            most=self._most,
            auto=strand.slots.adaptive,
            longest_quiet=self._longest,
            patience=self._policy.patience,
        )

    async def _reserve(self, permit: Permit, strand: Strand) -> None:
        """Set aside what it is expected to cost of what the run may spend."""
        assert strand.spending is not None

        def expect() -> tuple[float, float, bool]:
            known = self.quota.expect(permit)
            return permit.input, permit.output, known

        permit.reservation = await strand.spending.reserve(self._model, expect, strand)

    def _settle(self, permit: Permit, usage: Usage | None) -> None:
        """Note what it was billed; `None` if that is not known."""
        if permit.reservation is not None:
            permit.reservation.settle(usage)
            permit.reservation = None

    def _leave(self, permit: Permit, strand: Strand) -> None:
        """Note that nobody waits for it any more: what was sent may be billed all the same."""
        self._settle(permit, None if permit.granted else Usage())
        if permit.granted:
            self.quota.abandoned(permit, strand.run.now())

    def _judge(self, reply: Reply, read: Callable[[Reply, Clock], T], permit: Permit, strand: Strand) -> T:
        if self.quota.follow_headers:
            permit.told = read_rate_limits(reply.headers)
            if self.quota.may_be_parallel and (limit := parallel_limit(reply.headers)) is not None:
                self.quota.told_in_flight(limit)
        clock = strand.run.clock
        if not 200 <= reply.status < 300:  # noqa: PLR2004
            error = error_from(reply, self._secrets, clock.wall, longest=self._longest)
            if refuses_parallel(reply.headers, error):
                # A place is free as soon as another request ends, whatever wait is named.
                permit.parallel, error.retry_after = True, None
            raise error
        answer = read(reply, clock)
        usage = answer.usage
        if usage is not None:
            strand.item.add_usage(usage, self._model)
        now = strand.run.now()
        strand.item.add_request(now - permit.sent_at)
        self.quota.answered(permit, usage, now)
        self._settle(permit, usage)
        return answer

    def _note(self, error: ProviderError, permit: Permit, strand: Strand) -> None:
        """Tell the quota of a failure, unless it is the quota's own."""
        if permit.granted:
            if error.retry_after is not None and error.retry_after > self._longest:
                say_until(error, strand.run.clock.wall())
            unit = limited_unit(error) if is_overloaded(error) else None
            self.quota.failed(permit, error, strand.run.now(), unit=unit)
            self._settle(permit, None if may_be_billed(error) else Usage())

    # A method of its own: the variables of a closure would burden every first attempt that waits.
    async def _call_again(  # noqa: PLR0917  what `call` was given
        self,
        body: bytes,
        read: Callable[[Reply, Clock], T],
        strand: Strand,
        sink: Callable[[], Sink] | None,
        answers: int,
        failure: ProviderError,
    ) -> T:
        again = _Again(self, failure, strand)
        while True:
            await again.wait()
            permit = self._passage(len(body), answers, strand)
            permit.again = True
            if strand.spending is not None:
                await self._reserve(permit, strand)
            try:
                await self.quota.admit(permit, strand)
                again.attempts += 1
                reply = await self._transport.post(self._url, body, None if sink is None else sink())
                return self._judge(reply, read, permit, strand)
            except ProviderError as error:
                self._note(error, permit, strand)
                again.failed(error)
            finally:
                if permit.granted or permit.reservation is not None:
                    self._leave(permit, strand)


def _is_refused(error: ProviderError) -> bool:
    """Whether there was too much for now, and not a failure of the provider."""
    return isinstance(error, RateLimitError) or is_paced(error)


class _Again:
    """Decide about another attempt of one request."""

    def __init__(self, endpoint: Endpoint, error: ProviderError, strand: Strand) -> None:
        self.attempts = error.attempts
        self._quota = endpoint.quota
        self._policy = endpoint._policy
        self._stop = endpoint._stop
        self._max_attempts = endpoint._max_attempts
        self._longest = endpoint._longest
        self._strand = strand
        self._error = error
        self._began = self._since = strand.run.now()
        self._silent = 0
        self._state = first_failure(error, strand)

    def failed(self, error: ProviderError) -> None:
        """Record that an attempt failed."""
        if isinstance(error, OutageError) or not error.attempts:
            error.__cause__ = self._error
        error.attempts = self.attempts
        self._error = error
        note_failure(self._state, error, self._strand)

    async def wait(self) -> None:
        """Wait until it is time for another attempt.

        Raises:
            ProviderError: the last one's error, if there is to be none.
        """
        error, state, quota = self._error, self._state, self._quota
        if not self._is_worth_it(error):
            raise error
        now = self._strand.run.now()
        refused = _is_refused(error)
        served = refused and self._is_served(now)
        if refused:
            stop = self._stops_refused(error, now, served=served)
        else:
            stop = bool(checked_sync("stop", self._stop(state)))
        if self._waits_for_provider(error, stop=stop):
            # It is the provider that failed, and not the request: this attempt does not count.
            quota.report_down(error, now)
            seconds = 0.0
        else:
            if stop:
                raise error
            if not served and not (refused and quota.has_served(now)):
                await self._pay(error)
            seconds = self._seconds(error)
            state.idle_for += seconds
            state.prepare_for_next_attempt()
        quota.tell_retry(error, seconds, self.attempts)
        self._strand.item.retries += 1
        self._strand.give()
        if seconds > 0:
            await self._strand.run.clock.sleep(seconds)

    def _is_worth_it(self, error: ProviderError) -> bool:
        if isinstance(error, OutageError):
            return False
        if (error.retry_after or 0.0) > self._longest:
            return False
        if self._policy.retry is not None:
            return bool(checked_sync("retry", self._policy.retry(self._state)))
        if isinstance(error, ConnectionFailedError) and error.fault in _LASTING_FAULTS:
            # Later on it may be the network between, such as a portal that wants to be logged in to.
            return not self._quota.has_wrong_address(error)
        return should_retry(error, self._longest)

    def _is_served(self, now: float) -> bool:
        """Whether the provider answers others while it refuses this request; starts the count anew if so."""
        since, self._since = self._since, now
        if not self._quota.serves(since, now):
            self._silent += 1
            return False
        self._silent, self._began = 0, now
        return True

    def _stops_refused(self, error: ProviderError, now: float, *, served: bool) -> bool:
        """Whether it was enough for a request that is refused for now.

        A refusal is no failure: while others are answered the request keeps its place. Where nobody is, it
        is as many attempts as a policy allows for failures, or `_REFUSALS` where the provider names the
        time. A provider that answered within the last minute is given `_SILENCE` seconds as well, and the
        patience of the policy counts in any case.
        """
        if self._policy.stop is not None:
            return bool(checked_sync("stop", self._policy.stop(self._state)))
        if self._max_attempts == 1:
            return True
        if served:
            return False
        lately = self._quota.has_served(now)
        most = max(self._max_attempts, _REFUSALS) if lately or is_paced(error) else self._max_attempts
        seconds = max(self._policy.patience, _SILENCE if lately else 0.0)
        return self._silent >= most and now - self._began >= seconds

    def _waits_for_provider(self, error: ProviderError, *, stop: bool) -> bool:
        if not self._policy.patience or not is_outage(error) or self._quota.has_wrong_address(error):
            return False
        return self._quota.is_down() or (stop and self._quota.silent_since(self._began))

    async def _pay(self, error: ProviderError) -> None:
        if self._quota.retries.afford(error):
            return
        patience = 0.0 if self._quota.has_wrong_address(error) else self._policy.patience
        if patience:
            self._quota.check_can_wait(self._strand.run.blockades)
        if not patience or not await self._quota.retries.wait(patience, self._strand):
            error.message += f"; not tried again: {self._quota.retries.words()}"
            error.args = (error.message, *error.args[1:])
            raise error

    def _seconds(self, error: ProviderError) -> float:
        """Return the seconds to wait here; a refused request waits at the quota instead."""
        asked = error.retry_after or 0.0
        refused = _is_refused(error)
        if self._policy.wait is not None:
            seconds = float(self._policy.wait(self._state))
            return seconds if refused else max(seconds, asked)
        if refused:
            return 0.0
        random = self._strand.run.clock.random
        return wait_before_retry(error, self._state.attempt_number, random)
