"""Events of a quota, and their delivery to listeners."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = [
    "BY_HAND",
    "Admitted",
    "BudgetEmpty",
    "CooledDown",
    "Events",
    "LimitChanged",
    "Listener",
    "ProviderDown",
    "ProviderUp",
    "QuotaEvent",
    "Retried",
    "Sent",
    "SharedQuotaAway",
    "SharedQuotaBack",
    "TellingLock",
]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that had to wait for the quota may be sent.

    Attributes:
        waited: seconds.
        tokens: the tokens that are expected, of prompt and answer.
    """

    waited: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Sent:
    """A request is sent; `in_flight` requests are in flight, this one included."""

    in_flight: int
    tokens: float


@dataclass(frozen=True, slots=True)
class Retried:
    """A request that failed will be sent again.

    Attributes:
        reason: the error's class and status.
        wait: seconds until then, at the least.
        attempt: the number of the attempt that failed, from 1.
    """

    reason: str
    wait: float
    attempt: int


@dataclass(frozen=True, slots=True)
class CooledDown:
    """A cool-down begins: no request is sent for `wait` seconds.

    Attributes:
        wait: seconds.
        reason: the refusal's class and status.
        named: whether the provider named the wait; if not, an answer to a request in flight ends it sooner.
    """

    wait: float
    reason: str
    named: bool = True


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """A limit has changed.

    Attributes:
        name: `max_concurrency`, `max_in_flight`, `requests_per_minute`, `tokens_per_minute`,
            `requests_per_day` or `tokens_per_day`.
        before: the former value; `None` for none that was known.
        after: the new value; `None` for none.
        reason: the reason.
    """

    name: str
    before: float | None
    after: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class BudgetEmpty:
    """The retry budget has less left than a retry costs: the retry is not made, or waits."""

    left: float
    cost: float


@dataclass(frozen=True, slots=True)
class ProviderDown:
    """The provider is down. Requests with patience wait, and one at a time is sent as a probe.

    Attributes:
        failures: requests in a row without an answer.
        reason: the last error's class and status.
        message: the last error's message.
    """

    failures: int
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class ProviderUp:
    """The provider is up again, after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class SharedQuotaAway:
    """The state of a quota that several processes share cannot be reached.

    Attributes:
        carrier: the file or the server.
        reason: why.
        lease_left: seconds for which requests may still be sent; then they wait until it is back.
    """

    carrier: str
    reason: str
    lease_left: float


@dataclass(frozen=True, slots=True)
class SharedQuotaBack:
    """The state of a quota that several processes share can be reached again, after so many seconds."""

    carrier: str
    seconds: float


QuotaEvent: TypeAlias = (
    Admitted
    | Sent
    | Retried
    | CooledDown
    | LimitChanged
    | BudgetEmpty
    | ProviderDown
    | ProviderUp
    | SharedQuotaAway
    | SharedQuotaBack
)

_LOG: Final = logging.getLogger("batchrt")
BY_HAND: Final = "given by hand"
"""The reason of a limit that a user has set."""
_WORTH_LOGGING: Final = 1.0
"""Seconds of a cool-down above which it is logged."""

Listener: TypeAlias = Callable[[QuotaEvent], object]


class Events:
    """Deliver events to listeners; free of cost while there are none.

    Attributes:
        listeners: the listeners.
        watchers: listeners to announced events alone. Requests take the short ways beside them.
        is_heard: there is a listener or a watcher.
        waiting: events that happened under a lock, to be delivered once it is released.
    """

    __slots__ = ("_held", "_logged_until", "_names", "is_heard", "listeners", "waiting", "watchers")

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.watchers: tuple[Listener, ...] = ()
        self.is_heard: bool = False
        self.waiting: deque[QuotaEvent] = deque()
        self._held = False
        self._logged_until = -math.inf
        self._names: set[str] = set()

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Call `listener` for each event within the block."""
        self.listeners = (*self.listeners, listener)
        self.is_heard = True
        try:
            yield
        finally:
            left = list(self.listeners)
            left.remove(listener)
            self.listeners = tuple(left)
            self.is_heard = bool(self.listeners or self.watchers)

    def watch(self, watcher: Listener) -> None:
        """Call `watcher` for announced events from now on, until `unwatch`."""
        self.watchers = (*self.watchers, watcher)
        self.is_heard = True

    def unwatch(self, watcher: Listener) -> None:
        """Call `watcher` no more."""
        self.watchers = tuple(other for other in self.watchers if other != watcher)
        self.is_heard = bool(self.listeners or self.watchers)

    def announce(self, event: CooledDown | LimitChanged | ProviderDown, now: float) -> None:
        """Deliver a rare event, and log it where an operator should know.

        The logger `batchrt` gets one WARNING for a cool-down of more than a second, for an outage, and for
        a limit when it is found; none when a known limit changes, or a cool-down gets longer.
        """
        warning = self._warning(event, now)
        if warning:
            _LOG.warning(warning)
        if self.is_heard:
            self.tell(event)

    def _warning(self, event: CooledDown | LimitChanged | ProviderDown, now: float) -> str:
        if isinstance(event, CooledDown):
            if event.wait <= _WORTH_LOGGING or now < self._logged_until:
                return ""
            self._logged_until = now + event.wait
            why = "the provider asked for it, with" if event.named else "the provider refuses, with"
            return f"nothing is sent for {event.wait:.3g} s: {why} a {event.reason}"
        if isinstance(event, ProviderDown):
            return (
                f"the provider is down: {event.failures} requests in a row without an answer, the last a "
                f"{event.reason}: {event.message}"
            )
        if event.after is None or event.reason == BY_HAND or event.name in self._names:
            return ""
        if event.name == "max_concurrency" and (event.before is None or event.after >= event.before):
            return ""  # it rises until a limit is found
        self._names.add(event.name)
        return f"a limit was found: {event.name} is {event.after:g} ({event.reason})"

    def tell(self, event: QuotaEvent) -> None:
        """Deliver an event; an exception of a listener is logged, since requests must not fail for it."""
        self.waiting.append(event)
        if not self._held:
            self.deliver()

    def hold(self) -> None:
        """Keep events until `deliver`: a lock is held, under which no foreign code may run."""
        self._held = True

    def deliver(self) -> None:
        """Deliver the events that were kept."""
        self._held = False
        while self.waiting:
            event = self.waiting.popleft()
            announced = isinstance(event, CooledDown | LimitChanged | ProviderDown)
            for listener in (*self.listeners, *self.watchers) if announced else self.listeners:
                try:
                    listener(event)
                except Exception:  # noqa: BLE001  it is logged
                    _LOG.exception("a listener failed at %r", event)


class TellingLock:
    """A reentrant lock that delivers events once it is released: no listener is called under it.

    Reentrant, since a finalizer that the garbage collector runs under it may end a request.

    Args:
        events: the events to deliver.

    Attributes:
        silent: the lock alone, for sections that tell no event, while there are no listeners.
    """

    __slots__ = ("_depth", "_events", "silent")

    def __init__(self, events: Events) -> None:
        self._events = events
        self.silent: threading.RLock = threading.RLock()
        self._depth = 0

    def __enter__(self) -> None:
        self.silent.acquire()
        self._depth += 1
        if self._depth == 1 and self._events.is_heard:
            self._events.hold()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        outermost = not self._depth
        self.silent.release()
        if outermost and self._events.is_heard:
            self._events.deliver()
