"""The servers of the refusals suite, and the least time in which each can answer."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeAlias

from benchmarks.studies import refusals_nginx, refusals_packaged
from benchmarks.studies.refusals_server import Counts, chance, latency_of, serving

__all__ = ["Case", "Server", "cases"]

_LATENCY = (0.1, 0.2)
_FIXED = (0.25, 0.25)
_AT_ONCE = 50
"""Requests that a server that refuses at random answers at a time, so that there is an ideal for "auto"."""
_FEWEST = 96


class Server(Protocol):
    """A server that runs and counts what comes.

    Attributes:
        base_url: what a client takes for its base URL.
    """

    base_url: str

    def counts(self) -> Counts:
        """Return what came since it was started."""


Ideal: TypeAlias = Callable[[Sequence[str], int], float]
"""Seconds that the texts take with so many requests at once at the most, if every one is well timed."""


def _nothing() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Case:
    """Say what is asked of which server.

    Attributes:
        key: what the command line calls it.
        serve: starts the server.
        in_flight: requests at once.
        per_second: requests a second that can be answered at the most.
        lacking: says why it cannot be measured, if so.
        dear: the server takes long to start, and is shared by the runs.
        per_list: texts in each request for embeddings; 0 if chats are asked for.
        fits: requests at once that are known never to be refused, where no ideal can be computed: whoever
            keeps to that is the ideal.
        at_random: refusals have nothing to do with what is sent.
        real: the server is of another package, and nothing of its limit is made here.
    """

    key: str
    name: str
    serve: Callable[[], AbstractContextManager[Server]]
    items: int
    in_flight: int
    ideal: Ideal
    per_second: float
    lacking: Callable[[], str] = _nothing
    dear: bool = False
    per_list: int = 0
    fits: int = 0
    at_random: bool = False
    real: bool = False

    def in_lists(self, size: int) -> Case:
        """Return the same with requests for embeddings of so many texts each, in place of chats."""
        if self.per_list:
            return self
        name = f"{self.name}; each for {size} texts' embeddings instead"
        return replace(self, name=name, items=self.items * size, per_list=size)

    def items_at(self, in_flight: int) -> int:
        """Return the number of texts, which falls with a small cap where nothing else limits the pace."""
        if not self.at_random or in_flight >= _AT_ONCE:
            return self.items
        return max(_FEWEST, self.items * in_flight // _AT_ONCE)

    def waited(self, texts: Sequence[str], in_flight: int, quiet: float) -> float:
        """Return the ideal of a client that sends nothing in the `quiet` seconds of all named waits."""
        return _by_chance(texts, in_flight, share=0, wait=0) + quiet

    def requests(self, texts: Sequence[str]) -> list[str]:
        """Return what the small servers take for the text of each request."""
        size = max(1, self.per_list)
        return ["|".join(texts[start : start + size]) for start in range(0, len(texts), size)]


def _by_rate(texts: Sequence[str], in_flight: int, *, rate: float, at_once: int) -> float:
    """The last is let in when the rate has caught up with it."""
    busy = sum(latency_of(text, _LATENCY) for text in texts)
    return max((len(texts) - at_once) / rate + sum(_LATENCY) / 2, busy / in_flight)


def _by_number(texts: Sequence[str], in_flight: int, *, most: int) -> float:
    return sum(latency_of(text, _LATENCY) for text in texts) / min(in_flight, most)


def _by_chance(texts: Sequence[str], in_flight: int, *, share: float, wait: float) -> float:
    """A request that is refused waits as asked, without its slot, and all others go on."""
    due = [(0.0, number, 1) for number in range(len(texts))]
    free = [0.0] * min(in_flight, _AT_ONCE, len(texts))
    last = 0.0
    while due:
        at, number, tries = heapq.heappop(due)
        begin = max(at, free[0])
        if chance("refused", texts[number], tries) < share:
            heapq.heappush(due, (begin + wait, number, tries + 1))
        else:
            last = max(last, heapq.heappushpop(free, begin + _FIXED[0]), begin + _FIXED[0])
    return last


def _unknown(texts: Sequence[str], in_flight: int) -> float:  # noqa: ARG001
    return 0.0


_LITELLM_REFUSAL = {
    "headers": {
        "retry-after": "60",
        "rate_limit_type": "max_parallel_requests",
        "reset_at": "2026-11-28 03:34:58 UTC",
    },
    "told": {
        "x-ratelimit-api_key-limit-max_parallel_requests": "4",
        "x-ratelimit-api_key-remaining-max_parallel_requests": "0",
    },
    "body": json.dumps(
        {
            "error": {
                "message": "Rate limit exceeded for api_key: 88dc28d0. Limit type: max_parallel_requests. "
                "Current limit: 4, Remaining: 0. Limit resets at: 2026-11-28 03:34:58 UTC",
                "type": "throttling_error",
                "param": None,
                "code": "429",
            }
        }
    ),
}
"""As version 1.108.7 of the proxy has it, word for word but for the key's digest."""


def _at_random(share: float, wait: int) -> Case:
    """Return a server that refuses a share of all requests, whatever comes, and names a wait or none."""
    items = 400 if share >= 0.1 else 600
    named = f"retry-after {wait}" if wait else "without a wait"
    return Case(
        f"random-{100 * share:g}{'' if wait else '-bare'}",
        f"{100 * share:g} % refused at random, {named}: {items} chats, {_AT_ONCE} at once",
        partial(serving, latency=_FIXED, share=share, at_once=_AT_ONCE, wait=wait),
        items,
        _AT_ONCE,
        partial(_by_chance, share=share, wait=wait),
        _AT_ONCE / _FIXED[0],
        at_random=True,
    )


def cases() -> tuple[Case, ...]:
    """Return all of them: nginx, the small servers, and what has a virtual environment of its own."""
    rate = partial(_by_rate, rate=50, at_once=11)
    number = partial(_by_number, most=4)
    few = 4 / (sum(_LATENCY) / 2)
    return (
        Case(
            "nginx-rate",
            "nginx limit_req 50 r/s, burst 10 nodelay: 300 chats, 32 at once",
            partial(refusals_nginx.limiting, refusals_nginx.RATE, latency=_LATENCY),
            300,
            32,
            rate,
            50,
            refusals_nginx.lacking,
            real=True,
        ),
        Case(
            "nginx-in-flight",
            "nginx limit_conn 4: 200 chats, 32 at once",
            partial(refusals_nginx.limiting, refusals_nginx.IN_FLIGHT, latency=_LATENCY),
            200,
            32,
            number,
            few,
            refusals_nginx.lacking,
            real=True,
        ),
        *(_at_random(share, wait) for share in (0.001, 0.02, 0.2) for wait in (0, 1)),
        Case(
            "rate",
            "bare 429s by rate, 50 a second from a bucket of 11: 200 chats, 32 at once",
            partial(serving, latency=_LATENCY, per_second=50, bucket=11),
            200,
            32,
            rate,
            50,
        ),
        Case(
            "waits",
            "429s by rate with a wait in ms, 50 a second from a bucket of 60: 500 chats, 50 at once",
            partial(serving, latency=_LATENCY, per_second=50, bucket=60, waits=True),
            500,
            50,
            partial(_by_rate, rate=50, at_once=60),
            50,
        ),
        Case(
            "in-flight",
            "bare 429s by number, 4 in flight: 100 chats, 32 at once",
            partial(serving, latency=_LATENCY, most=4),
            100,
            32,
            number,
            few,
        ),
        Case(
            "parallel",
            "LiteLLM's shape, 4 in flight, retry-after 60: 100 chats, 32 at once",
            partial(serving, latency=_LATENCY, most=4, **_LITELLM_REFUSAL),
            100,
            32,
            number,
            few,
        ),
        Case(
            "litellm",
            "LiteLLM's proxy, max_parallel_requests 4: 100 chats, 32 at once",
            partial(refusals_packaged.litellm, most=4, latency=_LATENCY),
            100,
            32,
            number,
            few,
            partial(refusals_packaged.lacking, refusals_packaged.LITELLM),
            dear=True,
            real=True,
        ),
        Case(
            "infinity-texts",
            "Infinity, a queue of 64: 1,500 texts one by one, 200 at once",
            partial(refusals_packaged.infinity, queue=64),
            1_500,
            200,
            _unknown,
            1_000,
            partial(refusals_packaged.lacking, refusals_packaged.INFINITY),
            dear=True,
            real=True,
            per_list=1,
            fits=64,
        ),
        Case(
            "infinity-lists",
            "Infinity, a queue of 64: 3,200 texts in lists of 16, 32 at once",
            partial(refusals_packaged.infinity, queue=64),
            3_200,
            32,
            _unknown,
            1_000,
            partial(refusals_packaged.lacking, refusals_packaged.INFINITY),
            dear=True,
            real=True,
            per_list=16,
            fits=4,
        ),
    )
