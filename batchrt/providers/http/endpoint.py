"""The endpoint: one path of an API for one model. It admits, sends, evaluates and retries requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from tenacity import stop_after_attempt

from batchrt.errors import ProviderError
from batchrt.limits.error_kinds import Failure, FailureKind
from batchrt.limits.permit import Permit
from batchrt.messages import Usage
from batchrt.providers.http.error_mapping import error_from, say_until
from batchrt.providers.http.rate_limit_headers import (
    limited_unit,
    parallel_limit,
    read_rate_limits,
    refuses_parallel,
)
from batchrt.providers.http.response_head import may_have
from batchrt.providers.http.retry_after import wait_before_retry
from batchrt.providers.http.streamed_call import StreamedCall
from batchrt.runtime.retry import first_failure, note_failure
from batchrt.runtime.sync_callbacks import checked_sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrt.limits.quota import Quota
    from batchrt.providers.http.response import Reply, Sink
    from batchrt.providers.http.secrets import Secrets
    from batchrt.providers.http.streamed_call import Chunks
    from batchrt.providers.http.transport import Transport
    from batchrt.runtime.clock import Clock
    from batchrt.runtime.observers import RequestObserver, RunObserver
    from batchrt.runtime.retry import RetryPolicy
    from batchrt.runtime.strand import Strand

__all__ = ["Endpoint"]

_SILENCE: Final = 20.0
"""Seconds for which a refused request is tried again, at the least, at a provider that answered lately."""
_REFUSALS: Final = 10
"""Attempts of a request that is refused with a named wait, where a policy says nothing."""


class Billed(Protocol):
    """An answer that may say its token usage."""

    @property
    def usage(self) -> Usage | None:
        """The tokens that were billed; `None` if the answer does not say."""


B = TypeVar("B", bound=Billed)
T = TypeVar("T")


class Endpoint:
    """Send requests for one model to one address.

    Args:
        url: the address.
        quota: admits requests.
        transport: sends them.
        secrets: masked in errors.
        model: the model's name.
        policy: when to retry.
        max_attempts: attempts per request, where the policy does not say.
        most: the most tokens of an answer; `None` if nothing says.

    Attributes:
        quota: admits requests.
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

    @property
    def url(self) -> str:
        """The address."""
        return self._url

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    async def call(  # noqa: PLR0917  each call passes the first three, or all
        self,
        body: bytes,
        read: Callable[[Reply, Clock], B],
        strand: Strand,
        sink: Callable[[], Sink] | None = None,
        answers: int = 1,
        observer: RequestObserver | None = None,
    ) -> B:
        """Post `body` and return the reply as parsed by `read`; `strand` holds a slot meanwhile.

        Args:
            body: the request's.
            read: parses a reply; the answer's usage is added to the strand's item.
            strand: holds the slot.
            sink: makes the consumer of a successful reply's body, a new one for each attempt.
            answers: how many answers are asked for; 0 for vectors.
            observer: follows the request; else one is made where the run is observed.

        Raises:
            ProviderError: the last attempt's; `attempts` says how many there were.
        """
        if observer is None and strand.run.observer is not None:
            return await self._observed(strand.run.observer, body, read, strand, sink, answers)
        permit = self._permit(len(body), answers, strand)
        if strand.spending is not None:
            await self._reserve(permit, strand)
        try:
            if not self.quota.admit_nowait(permit, strand):
                await self.quota.admit(permit, strand)
            if observer is not None:
                observer.sent()
            reply = await self._transport.post(self._url, body, None if sink is None else sink())
            return self._evaluate(reply, read, permit, strand)
        except ProviderError as error:
            failure = self._failed(error, permit, strand)
        finally:
            if permit.granted or permit.reservation is not None:
                self._abandon(permit, strand)
        return await self._retry(body, read, strand, sink, answers, failure, observer)

    async def _observed(  # noqa: PLR0917  the arguments of `call`
        self,
        observers: RunObserver,
        body: bytes,
        read: Callable[[Reply, Clock], B],
        strand: Strand,
        sink: Callable[[], Sink] | None,
        answers: int,
    ) -> B:
        with observers.request(self, body, strand) as observer:
            answer = await self.call(body, observer.reading(read), strand, sink, answers, observer)
            observer.answered(answer)
        return answer

    def stream(
        self,
        body: Callable[[ProviderError | None], bytes | None],
        read: Callable[[Reply, Clock], Chunks[T]],
        strand: Strand,
    ) -> StreamedCall[T]:
        """Return the chunks of the answer to a request, which is sent when the first is asked for.

        See `StreamedCall` for the arguments and the errors.
        """
        return StreamedCall(self, body, read, strand)

    def _permit(self, size: int, answers: int, strand: Strand) -> Permit:
        return Permit(
            size,
            answers=answers,
            most=self._most,
            auto=strand.slots.adaptive,
            longest_quiet=self._longest,
            patience=self._policy.patience,
        )

    async def _reserve(self, permit: Permit, strand: Strand) -> None:
        """Reserve the expected cost from the run's spending limit."""
        assert strand.spending is not None

        def expect() -> tuple[float, float, bool]:
            known = self.quota.expect(permit)
            return permit.input, permit.output, known

        permit.reservation = await strand.spending.reserve(self._model, expect, strand)

    def _settle(self, permit: Permit, usage: Usage | None) -> None:
        """Replace the reservation by the billed usage; `None` if that is not known."""
        if permit.reservation is not None:
            permit.reservation.settle(usage)
            permit.reservation = None

    def _abandon(self, permit: Permit, strand: Strand) -> None:
        """Release the permit of a cancelled attempt: a request that was sent may be billed all the same."""
        self._settle(permit, None if permit.granted else Usage())
        if permit.granted:
            self.quota.abandoned(permit, strand.run.now())

    def _note_limits(self, reply: Reply, permit: Permit) -> None:
        """Keep the limits that the headers of a response tell."""
        quota = self.quota
        if quota.follow_headers:
            permit.told = read_rate_limits(reply.headers)
            if quota.may_be_parallel and (limit := parallel_limit(reply.headers)) is not None:
                quota.told_in_flight(limit)

    def _refusal(self, reply: Reply, permit: Permit, clock: Clock) -> ProviderError:
        """Return the error of a response whose status is no success."""
        error = error_from(reply, self._secrets, clock.wall, longest=self._longest)
        if refuses_parallel(reply.headers, error):
            # One more may be sent as soon as another request ends, whatever wait is named.
            permit.parallel, error.retry_after = True, None
        return error

    def _evaluate(self, reply: Reply, read: Callable[[Reply, Clock], B], permit: Permit, strand: Strand) -> B:
        quota, run, item = self.quota, strand.run, strand.item
        if quota.follow_headers and may_have(reply.headers, b"limit-"):  # one look, for all that tell none
            self._note_limits(reply, permit)
        clock = run.clock
        if not 200 <= reply.status < 300:  # noqa: PLR2004
            raise self._refusal(reply, permit, clock)
        answer = read(reply, clock)
        usage = answer.usage
        if usage is not None:
            item.add_usage(usage, self._model)
        now = run.now()
        item.add_request(now - permit.sent_at)
        # A message has it; lookups among the headers are dear, and a list's exchange is no single item's.
        item.request_id = getattr(answer, "request_id", None)
        quota.answered(permit, usage, now)
        if permit.reservation is not None:
            self._settle(permit, usage)
        return answer

    def _failed(self, error: ProviderError, permit: Permit, strand: Strand) -> Failure:
        """Classify `error`, and tell the quota of it unless the quota itself raised it."""
        failure = Failure.of(error)
        if permit.granted:
            if failure.wait > self._longest:
                say_until(error, strand.run.clock.wall())
            unit = limited_unit(error) if failure.kind.overloaded else None
            self.quota.failed(permit, failure, strand.run.now(), unit=unit)
            self._settle(permit, None if failure.kind.billed else Usage())
        return failure

    def _decider(self, failure: Failure, strand: Strand, observer: RequestObserver | None) -> _RetryDecider:
        return _RetryDecider(self, failure, strand, observer)

    # A method of its own: a closure's variables would cost memory in every first attempt that waits.
    async def _retry(  # noqa: PLR0917  the arguments of `call`
        self,
        body: bytes,
        read: Callable[[Reply, Clock], B],
        strand: Strand,
        sink: Callable[[], Sink] | None,
        answers: int,
        failure: Failure,
        observer: RequestObserver | None,
    ) -> B:
        retry = _RetryDecider(self, failure, strand, observer)
        while True:
            await retry.wait()
            permit = self._permit(len(body), answers, strand)
            permit.again = True
            if strand.spending is not None:
                await self._reserve(permit, strand)
            try:
                await self.quota.admit(permit, strand)
                if observer is not None:
                    observer.sent()
                retry.attempts += 1
                reply = await self._transport.post(self._url, body, None if sink is None else sink())
                return self._evaluate(reply, read, permit, strand)
            except ProviderError as error:
                retry.failed(self._failed(error, permit, strand))
            finally:
                if permit.granted or permit.reservation is not None:
                    self._abandon(permit, strand)


class _RetryDecider:
    """Decide about the retries of one request: whether, after how long, and at whose expense."""

    def __init__(
        self, endpoint: Endpoint, failure: Failure, strand: Strand, observer: RequestObserver | None
    ) -> None:
        self._observer = observer
        self.attempts = failure.error.attempts
        self._quota = endpoint.quota
        self._policy = endpoint._policy
        self._stop = endpoint._stop
        self._max_attempts = endpoint._max_attempts
        self._longest = endpoint._longest
        self._strand = strand
        self._failure = failure
        self._began = self._since = strand.run.now()
        self._silent = 0
        self._state = first_failure(failure.error, strand)

    def failed(self, failure: Failure) -> None:
        """Record that an attempt failed."""
        error = failure.error
        if not error.attempts:  # the quota raised it, and nothing was sent
            error.__cause__ = self._failure.error
        error.attempts = self.attempts
        self._failure = failure
        note_failure(self._state, error, self._strand)

    async def wait(self) -> None:
        """Wait until it is time for another attempt.

        Raises:
            ProviderError: the last attempt's error, if there is to be no other attempt.
        """
        failure, state, quota = self._failure, self._state, self._quota
        if not self._is_worth_it(failure):
            raise failure.error
        now = self._strand.run.now()
        served = failure.refused and self._is_served(now)
        if failure.refused:
            stop = self._stops_refused(failure, now, served=served)
        else:
            stop = bool(checked_sync("stop", self._stop(state)))
        if self._waits_for_provider(failure.kind, stop=stop):
            # The provider failed, not the request: this attempt does not count.
            quota.report_down(failure.error, now)
            seconds = 0.0
        else:
            if stop:
                raise failure.error
            if not served and not (failure.refused and quota.has_served(now)):
                await self._pay(failure)
            seconds = self._seconds(failure)
            state.idle_for += seconds
            state.prepare_for_next_attempt()
        quota.tell_retry(failure.error, seconds, self.attempts)
        if self._observer is not None:
            self._observer.retried(failure.error, seconds, self.attempts)
        self._strand.count_retry()
        self._strand.give()
        if seconds > 0:
            await self._strand.run.clock.sleep(seconds)

    def _is_worth_it(self, failure: Failure) -> bool:
        if self._policy.retry is not None and failure.kind is not FailureKind.DOWN:
            return failure.wait <= self._longest and bool(
                checked_sync("retry", self._policy.retry(self._state))
            )
        wrong_address = self._quota.has_wrong_address(failure.kind)
        return failure.is_worth_retrying(self._longest, wrong_address=wrong_address)

    def _is_served(self, now: float) -> bool:
        """Whether the provider answers others while it refuses this request; restarts the count if so."""
        since, self._since = self._since, now
        if not self._quota.serves(since, now):
            self._silent += 1
            return False
        self._silent, self._began = 0, now
        return True

    def _stops_refused(self, failure: Failure, now: float, *, served: bool) -> bool:
        """Whether a request that is refused for now has had enough attempts.

        A refusal is no failure: while others are answered the request keeps its place. Where none is, it has
        as many attempts as a policy allows for failures, or `_REFUSALS` where the provider names the
        wait. A provider that answered within the last minute is given `_SILENCE` seconds as well, and the
        patience of the policy counts in any case.
        """
        if self._policy.stop is not None:
            return bool(checked_sync("stop", self._policy.stop(self._state)))
        if self._max_attempts == 1:
            return True
        if served:
            return False
        lately = self._quota.has_served(now)
        most = max(self._max_attempts, _REFUSALS) if lately or failure.paced else self._max_attempts
        seconds = max(self._policy.patience, _SILENCE if lately else 0.0)
        return self._silent >= most and now - self._began >= seconds

    def _waits_for_provider(self, kind: FailureKind, *, stop: bool) -> bool:
        if not self._policy.patience or not kind.outage or self._quota.has_wrong_address(kind):
            return False
        return self._quota.is_down() or (stop and self._quota.silent_since(self._began))

    async def _pay(self, failure: Failure) -> None:
        quota, error = self._quota, failure.error
        if quota.retries.afford(failure):
            return
        patience = 0.0 if quota.has_wrong_address(failure.kind) else self._policy.patience
        if patience:
            quota.check_can_wait(self._strand.run.blockades)
        if not patience or not await quota.retries.wait(patience, self._strand):
            error.message += f"; not tried again: {quota.retries.words()}"
            error.args = (error.message, *error.args[1:])
            raise error

    def _seconds(self, failure: Failure) -> float:
        """Return the seconds to wait here; a refused request waits at the quota instead."""
        if self._policy.wait is not None:
            seconds = float(self._policy.wait(self._state))
            return seconds if failure.refused else max(seconds, failure.wait)
        if failure.refused:
            return 0.0
        random = self._strand.run.clock.random
        return wait_before_retry(failure.error, self._state.attempt_number, random)
