"""A quota watch: it listens to the quotas at which requests of a run have failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Final

from batchrt.limits.events import Events, Listener

__all__ = ["note_failing", "watching_quotas"]


class _QuotaWatch:
    """Listen to each quota from its first failure on.

    A chain does not tell which quotas its requests will use, since functions may call models; and a quota
    without a failure has no event that is worth recording, so its requests stay free of listeners.
    """

    def __init__(self, listener: Listener, stack: ExitStack) -> None:
        self._listener = listener
        self._stack = stack
        self._watched: set[Events] = set()

    def add(self, events: Events) -> None:
        if events not in self._watched:
            self._watched.add(events)
            self._stack.enter_context(events.listening(self._listener))


_watch: Final[ContextVar[_QuotaWatch | None]] = ContextVar("batchrt_quota_watch", default=None)


@contextmanager
def watching_quotas(listener: Listener) -> Iterator[None]:
    """Call `listener` for events of the quotas at which a request within the block fails."""
    with ExitStack() as stack:
        token = _watch.set(_QuotaWatch(listener, stack))
        try:
            yield
        finally:
            _watch.reset(token)


def note_failing(events: Events) -> None:
    """Note that a request of the current context is about to be recorded as failed."""
    watch = _watch.get()
    if watch is not None:
        watch.add(events)
