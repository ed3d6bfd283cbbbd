"""List support: whether a server accepts lists, learned from its responses and remembered.

Servers do not announce it, and a server without lists refuses one in its own way: no such path, an error that
blames the request or the server itself, one answer for the whole list. All of these but the first may also
be the fault of one item, or temporary, and must not end lists for good. So a list's failure raises a doubt,
and its items, sent one by one, settle it: if all of them are answered, the list was the cause; if one fails
too, that explains the failure. Once a list was answered there are no more doubts. A server that names the
number of items that it accepts gets that many.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from batchrt.batching.list_call import RepackError
from batchrt.errors import (
    BadRequestError,
    ContextLengthError,
    MalformedResponseError,
    ProviderError,
    ServerError,
)
from batchrt.providers.limit_messages import named_limits

__all__ = ["AloneError", "Doubt", "ListMemory", "ListSupport"]

_MISSING: Final = (404, 405)
_MAY_BLAME_LISTS: Final = (400, 422)
_DELIBERATE: Final = (200, 500, 501)
"""Statuses of a server that takes an unknown list for an error of its own; its other errors stand for an
outage. LM Studio answers 200 where it has no such path."""


class ListMemory:
    """Remember whether a client's server accepts lists.

    A refusal may be about an option: vLLM's batches of chats do not support tools. So it counts for requests
    with the same options only; a path that is missing counts for all.
    """

    def __init__(self) -> None:
        self.missing: bool = False
        self._of: dict[Hashable, ListSupport] = {}

    def support(self, options: Hashable) -> ListSupport:
        """Return the support of lists for requests with these options."""
        return self._of.setdefault(options, ListSupport(self))


class ListSupport:
    """Track whether lists of one kind of request are accepted.

    Attributes:
        refused: lists are not accepted.
        taken: a list was answered.
        suspected: a list failed once, though all of its items were answered right after; a second one is
            proof.
        most: the most items in a list, as the server named it; `None` if it did not.
    """

    def __init__(self, memory: ListMemory | None = None) -> None:
        self.refused: bool = False
        self.taken: bool = False
        self.suspected: bool = False
        self.most: int | None = None
        self._memory = memory or ListMemory()
        # A set and no count: its changes are whole even from several threads.
        self._tests: set[object] = set()

    @property
    def hopeless(self) -> bool:
        """Whether no list will be sent any more."""
        return self.refused or self._memory.missing

    @property
    def may_send(self) -> bool:
        """Whether to send a list now: not while single items are to settle a doubt."""
        return not (self._tests or self.hopeless)

    def judge(self, error: ProviderError, items: int, *, own_path: bool, suspected: bool) -> Exception:
        """Return the exception to raise for a list that failed.

        It is `error` itself; an `AloneError`, to send the items alone; or a `RepackError`, to pack again.

        Args:
            error: of the last attempt.
            items: the length of the list.
            own_path: lists have a path of their own.
            suspected: the value of `suspected` when the list was sent.
        """
        if own_path and _is_no_path(error):
            self._memory.missing = True
            return AloneError()
        if (most := _named_limit(error, items)) is not None:
            self.most = most if self.most is None else min(most, self.most)
            self.refused = self.refused or self.most == 1
            return RepackError()
        if self.taken or not _may_mean_lists(error):
            return error
        # A deliberate refusal would come again, and several failed attempts are no accident. A single failed
        # attempt may be.
        lasting = isinstance(error, BadRequestError) or error.retry_advised is False or error.attempts > 1
        return AloneError(Doubt(self, items, enough=lasting or suspected))

    def begin_test(self, test: object) -> None:
        """Record that an item is being sent alone to settle a doubt."""
        self._tests.add(test)

    def end_test(self, test: object) -> None:
        """Record that it has ended, with an answer or an error."""
        self._tests.discard(test)


class Doubt:
    """The open question of why a list failed, until its items have settled it.

    Args:
        support: is told the result.
        items: the length of the list.
        enough: whether answers to all items are proof; otherwise they raise a suspicion.
    """

    def __init__(self, support: ListSupport, items: int, *, enough: bool) -> None:
        self._support = support
        self._unanswered = items
        self._enough = enough

    def answered(self) -> None:
        """Record that one more of the items was answered."""
        self._unanswered -= 1
        if self._unanswered or self._support.taken:
            return
        if self._enough:
            self._support.refused = True
        else:
            self._support.suspected = True


class AloneError(Exception):
    """Raised, or given as a result, for an item that has to be sent alone; this settles `doubt`, if any."""

    def __init__(self, doubt: Doubt | None = None) -> None:
        super().__init__("this item has to be sent alone")
        self.doubt = doubt


def _is_no_path(error: ProviderError) -> bool:
    # A model that does not exist is a 404 too.
    return error.status in _MISSING and error.param != "model" and error.code != "model_not_found"


def _named_limit(error: ProviderError, items: int) -> int | None:
    """Return the limit that a refusal names, if it also names the number of items that were sent."""
    if isinstance(error, BadRequestError):
        for limit in named_limits(error.message):
            if limit.unit == "texts" and limit.given == items:
                return limit.most
    return None


def _may_mean_lists(error: ProviderError) -> bool:
    """Whether a server without lists may answer with this error."""
    if isinstance(error, ContextLengthError):
        return False
    if isinstance(error, BadRequestError):
        return error.status in _MAY_BLAME_LISTS
    if isinstance(error, ServerError):
        return error.status in _DELIBERATE
    # An error without a status is our own: the response was too large, and half the list may fit.
    return isinstance(error, MalformedResponseError) and error.status is not None
