"""List requests: items sent in lists for as long as the server accepts lists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from batchrt.batching.list_call import Limits, ListCall, Split
from batchrt.batching.microbatch import list_step
from batchrt.batching.shared import shared
from batchrt.config import cache_of
from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    ProviderError,
    RateLimitError,
)
from batchrt.limits.error_kinds import FailureKind, kind_of
from batchrt.providers.kept_answers import KeptAnswers
from batchrt.providers.list_support import AloneError, ListSupport
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand

__all__ = ["BATCH_SIZE", "ListOptions", "Send", "listed"]

BATCH_SIZE: Final = 20
"""Items in a list unless the user says otherwise; LangChain's number for completions too.

A list is answered when the longest of its texts is written: the more items, the longer they wait for one
another. Twenty save 95% of the requests, and more can save only the rest."""

Send: TypeAlias = Callable[[Sequence[Any], Strand], Awaitable[Sequence[Any]]]
"""Sends prepared values in one request and returns their results, with an error in place of a broken one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """Hold the options of lists.

    Attributes:
        max_batch_size: the most items in one.
        linger: seconds after the last arrival for which one waits to be filled.
        max_linger: seconds after the first one.
        own_path: lists have a path of their own, which servers may lack.
    """

    max_batch_size: int
    linger: float
    max_linger: float
    own_path: bool = False


def listed(
    alone: Step,
    send: Send,
    kept: tuple[KeptAnswers[Any], Callable[[Sequence[Any]], bytes]],
    support: ListSupport,
    options: ListOptions,
    *,
    name: str,
    identity: Hashable,
    prepare: Callable[[Any], Any],
    shared_calls: MutableMapping[Hashable, ListCall] | None = None,
) -> Step:
    """Return a step that sends items in lists for as long as the server accepts lists.

    An item whose list was refused goes through `alone`, on a slot of its own, and so do all later ones: as if
    there were no lists. An item that is broken in its list's response is sent again in the same way.

    Args:
        alone: carries one input through.
        send: see `Send`; a single value is sent as in `alone`.
        kept: answers from a response cache, and what returns the body of a request for a list of values.
        support: whether the server accepts lists.
        options: of the lists.
        name: the name of the step in errors.
        identity: steps of equal identity share their lists.
        prepare: returns the value to send for an input.
        shared_calls: keeps the calls whose lists concurrent runs share, by `identity`; `None` if each run
            has lists of its own.
    """
    if options.max_batch_size == 1 or support.hopeless:
        return alone

    def limits() -> Limits:
        most = support.most
        return Limits(options.max_batch_size if most is None else min(most, options.max_batch_size))

    call = ListCall(
        name=name,
        call=_kept_or_sent(*kept, _list_call(send, support, own_path=options.own_path)),
        limits=limits,
        prepare=prepare,
        split=_split,
        linger=options.linger,
        max_linger=options.max_linger,
    )
    if shared_calls is not None:
        call = shared_calls.setdefault(identity, shared(call))
    together = list_step(call, identity)
    return Step.of(_together_or_alone(together.call, alone.call, support), [together])


def _kept_or_sent(
    answers: KeptAnswers[Any],
    body_of: Callable[[Sequence[Any]], bytes],
    send: Callable[[list[Any], Strand], Awaitable[Sequence[Any]]],
) -> Callable[[list[Any], Strand], Awaitable[Sequence[Any]]]:
    """Return `send` with a response cache before it, where the run has one."""

    async def call(values: list[Any], strand: Strand) -> Sequence[Any]:
        kept = cache_of(strand.config)
        if kept is None:
            return await send(values, strand)
        bodies = [body_of([value]) for value in values]
        return await answers.many(
            kept, bodies, strand, lambda places: send([values[place] for place in places], strand)
        )

    return call


def _list_call(
    send: Send, support: ListSupport, *, own_path: bool
) -> Callable[[list[Any], Strand], Awaitable[Sequence[Any]]]:
    async def call(values: list[Any], strand: Strand) -> Sequence[Any]:
        if len(values) == 1:
            return await send(values, strand)
        if not support.may_send:  # it was packed before that was known
            raise AloneError
        suspected = support.suspected
        try:
            results = await send(values, strand)
        except ProviderError as error:
            verdict = support.judge(error, len(values), own_path=own_path, suspected=suspected)
            if verdict is error:
                raise
            raise verdict from error
        support.taken = True
        return [AloneError() if isinstance(result, Exception) else result for result in results]

    return call


def _together_or_alone(together: StepCall, alone: StepCall, support: ListSupport) -> StepCall:
    async def carry(value: Any, strand: Strand) -> Any:
        if not support.may_send:
            return await alone(value, strand)
        try:
            return await together(value, strand)
        except AloneError as error:
            doubt = error.doubt
        if doubt is None:
            return await alone(value, strand)
        support.begin_test(strand)
        try:
            output = await alone(value, strand)
        finally:
            support.end_test(strand)
        doubt.answered()
        return output

    return carry


def _split(error: Exception) -> Split:
    """Return whether one item of a list, or the list's length, may have been the cause of `error`."""
    if isinstance(error, AloneError | AuthenticationError) or kind_of(error) is FailureKind.EXHAUSTED:
        return Split.NEVER
    if isinstance(error, RateLimitError) and "too large" not in error.message.lower():
        return Split.NEVER  # more requests make it worse, unless the list alone was over the limit
    if isinstance(error, ProviderError) and error.status in (404, 405):
        return Split.NEVER
    return Split.FULLY if isinstance(error, BadRequestError) else Split.CAUTIOUSLY
