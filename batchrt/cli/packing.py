"""Rows packed into lists, each as long as the server takes."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Final, TypeAlias

import anyio

from batchrt.batching.list_call import ListCall, pack
from batchrt.cli.entries import Entry
from batchrt.cli.feed import Feed, PipeFeed
from batchrt.cli.texts import Text

__all__ = ["Lists", "PipeLists"]

Read: TypeAlias = "Callable[[Entry], Text]"

_UNBOUNDED: Final = 2048
"""Rows of a pipe that make a list where the server sets no bound."""
_PATIENCE: Final = 1.0
"""Seconds that rows of a pipe wait for others: nobody knows whether more will come."""


class Lists(Iterator[list[Text]]):
    """Give lists of texts, until the rows end or `stop` is called.

    Attributes:
        under_way: what was given and has not been taken back, in the order of the rows.
    """

    def __init__(self, feed: Feed, read: Read, call: ListCall) -> None:
        self.under_way: deque[list[Text]] = deque()
        self._feed = feed
        self._lists = pack(map(read, feed), _of_texts(call))
        self._stopped = False

    def __next__(self) -> list[Text]:
        # What was read ahead when it was stopped is not begun either.
        if self._stopped:
            raise StopIteration
        texts = next(self._lists)
        _leave(self._feed, texts)
        self.under_way.append(texts)
        return texts

    def stop(self) -> None:
        """Give no more lists."""
        self._stopped = True


class PipeLists(AsyncIterator[list[Text]]):
    """Do what `Lists` does, for rows that may be long in coming: a list does not wait for them for ever."""

    def __init__(self, feed: PipeFeed, read: Read, call: ListCall) -> None:
        self.under_way: deque[list[Text]] = deque()
        self._feed = feed
        self._read = read
        self._call = _of_texts(call)
        self._waiting: list[Text] = []
        self._full: deque[list[Text]] = deque()
        self._stopped = False
        self._ended = False

    async def __anext__(self) -> list[Text]:
        while not self._full and not self._ended:
            await self._gather()
        if self._stopped or not self._full:
            raise StopAsyncIteration
        texts = self._full.popleft()
        _leave(self._feed, texts)
        self.under_way.append(texts)
        return texts

    async def _gather(self) -> None:
        """Wait for rows until a list is full, no more come, or one has waited long enough."""
        waiting, most = self._waiting, self._call.limits().size or _UNBOUNDED
        try:
            if not waiting:
                waiting.append(self._read(await anext(self._feed)))
            with anyio.move_on_after(_PATIENCE):
                # The last one is there to tell whether the list before it is full.
                while len(waiting) <= most:
                    waiting.append(self._read(await anext(self._feed)))
        except StopAsyncIteration:
            self._ended = True
        self._full.extend(pack(waiting, self._call))
        # If it was time that was up, all of them go.
        self._waiting = self._full.pop() if len(waiting) > most and self._full else []

    def stop(self) -> None:
        """Give no more lists, also to those who wait for one."""
        self._stopped = True
        self._feed.stop()


def _of_texts(call: ListCall) -> ListCall:
    cost = call.cost
    return replace(call, cost=None if cost is None else lambda text: cost(text.text))


def _leave(feed: Feed | PipeFeed, texts: list[Text]) -> None:
    """Take rows off the feed's own list."""
    for _ in texts:
        feed.entries.popleft()
