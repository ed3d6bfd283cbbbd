"""Whether a server takes lists: found out from how it answers, and remembered.

Nobody says so beforehand, and a server that does not take them says it in its own way: no such path, an
error that blames the request or the server itself, one answer for the whole list. Yet each of these but
the first may also be the fault of one item, or of the moment, and lists are not to be given up for good
because of that. So a list's failure raises a doubt, and its items, sent one by one, settle it: if all of
them have an answer, it was the list; if one fails too, that explains the failure. Once a list was
answered there are no more doubts. A server that says how many items it takes gets so many.
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
"""What a server may answer with that takes a list it does not know for its own error; the others of its
errors stand for an outage. LM Studio answers 200 where it has no such path."""


class ListMemory:
    """Remember what a client knows about its server's lists.

    A refusal may be about an option: vLLM's batches of chats know no tools. So it counts for requests
    of the same options only; that there is no such path counts for all.
    """

    def __init__(self) -> None:
        self.missing: bool = False
        self._of: dict[Hashable, ListSupport] = {}

    def support(self, options: Hashable) -> ListSupport:
        """Return what is known for requests of these options."""
        return self._of.setdefault(options, ListSupport(self))


class ListSupport:
    """Know whether lists of one kind of request are taken.

    Attributes:
        refused: they are not.
        taken: one was answered.
        suspected: one failed once, though all of its items were answered right after; if it happens to
            another, it is proof.
        most: how many items are taken, as the server said; `None` if it did not.
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
        """Return what to raise for a list that failed.

        Its `error`; or that its items have to go alone; or that the list has to be packed again.

        Args:
            error: of the last attempt.
            items: how many there are in the list.
            own_path: lists go to a path of their own.
            suspected: what `suspected` was when the list was sent.
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
        # What is refused for what it is would be refused again, and what failed at every attempt has
        # had its time. A single one may have been the moment.
        lasting = isinstance(error, BadRequestError) or error.retry_advised is False or error.attempts > 1
        return AloneError(Doubt(self, items, enough=lasting or suspected))

    def begin_test(self, test: object) -> None:
        """Note that an item is sent alone to settle a doubt."""
        self._tests.add(test)

    def end_test(self, test: object) -> None:
        """Note that it has ended, in whatever way."""
        self._tests.discard(test)


class Doubt:
    """Stand for a list that failed until its items have settled why.

    Args:
        support: what the doubt is about.
        items: how many there are.
        enough: whether answers to all of them are proof, or raise a suspicion.
    """

    def __init__(self, support: ListSupport, items: int, *, enough: bool) -> None:
        self._support = support
        self._unanswered = items
        self._enough = enough

    def answered(self) -> None:
        """Note that one more of the items has its answer."""
        self._unanswered -= 1
        if self._unanswered or self._support.taken:
            return
        if self._enough:
            self._support.refused = True
        else:
            self._support.suspected = True


class AloneError(Exception):
    """Stand in for the result of an item that has to be sent alone; `doubt` is what that settles."""

    def __init__(self, doubt: Doubt | None = None) -> None:
        super().__init__("this item has to be sent alone")
        self.doubt = doubt


def _is_no_path(error: ProviderError) -> bool:
    # A model that does not exist is a 404 too.
    return error.status in _MISSING and error.param != "model" and error.code != "model_not_found"


def _named_limit(error: ProviderError, items: int) -> int | None:
    """Return how many items a refusal allows that names both that and how many there were."""
    if isinstance(error, BadRequestError):
        for limit in named_limits(error.message):
            if limit.unit == "texts" and limit.given == items:
                return limit.most
    return None


def _may_mean_lists(error: ProviderError) -> bool:
    """Whether a server that does not take lists may say it like this."""
    if isinstance(error, ContextLengthError):
        return False
    if isinstance(error, BadRequestError):
        return error.status in _MAY_BLAME_LISTS
    if isinstance(error, ServerError):
        return error.status in _DELIBERATE
    # One without a status is our own: the answer was larger than allowed, and half the list may do.
    return isinstance(error, MalformedResponseError) and error.status is not None
