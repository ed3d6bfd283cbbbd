"""History of a simulated run: what happened and when, and how many leaves were at work."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio

__all__ = ["History", "client_of"]

_CLIENT: Final = re.compile(r"[a-z]+")


def client_of(key: str) -> str:
    """Return the client whose item has `key`: keys are such as `a3`, and `a3.1` for a part of it."""
    found = _CLIENT.match(key)
    assert found is not None, key
    return found[0]


class History:
    """Record events in virtual time, and count the leaves of each client that are at work.

    Attributes:
        now: tells the time; on asyncio the loop's own, which callbacks outside of tasks can ask too.
        events: lines of time and event, in order.
        active: the leaves at work, by client.
        peaks: the most at a time, by client.
        worked: the seconds of leaves that were at work, by client.
        attempts: how often each leaf began with each value.
        billed: the tokens of answers that were sent, by client.
    """

    def __init__(self) -> None:
        self.now: Callable[[], float] = anyio.current_time
        self.events: list[str] = []
        self.active: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()
        self.worked: defaultdict[str, float] = defaultdict(float)
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.billed: Counter[str] = Counter()

    def note(self, event: str) -> None:
        # Six digits, since the last ones of a sum may differ between machines; and no negative zero.
        self.events.append(f"{math.fabs(self.now()):.6f} {event}")

    @contextmanager
    def at_work(self, leaf: str, key: str) -> Iterator[None]:
        """Count a leaf while it is at work for the item of `key`."""
        client = client_of(key)
        self.active[client] += 1
        self.peaks[client] = max(self.peaks[client], self.active[client])
        self.note(f"{leaf}({key}) begins")
        began = self.now()
        try:
            yield
        except BaseException as error:
            self.note(f"{leaf}({key}) {name_of(error)}")
            raise
        else:
            self.note(f"{leaf}({key}) ends")
        finally:
            self.active[client] -= 1
            self.worked[client] += self.now() - began

    def digest(self) -> str:
        """Name the history by its hash."""
        return hashlib.sha256("\n".join(self.events).encode()).hexdigest()[:16]


def name_of(error: BaseException) -> str:
    """Name an error in the same words on each event loop."""
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return "cancelled"
    return "closed" if isinstance(error, GeneratorExit) else type(error).__name__
