"""Plans of broken responses, and the judgement of what a client makes of them."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import anyio

from batchrt.errors import (
    ConnectionFailedError,
    MalformedResponseError,
    ProviderError,
    RequestTimeoutError,
)
from batchrt.providers.http.transport import Transport
from tests.providers.http.fault_server import Plan, echo, response

__all__ = [
    "BROKEN",
    "ODD",
    "SOUND",
    "Tally",
    "cuts",
    "judge",
    "mixed",
    "run_mixup",
    "run_plans",
    "shuffled",
    "stalls",
]

SOUND: Final = (
    *(
        "length",
        "chunked",
        "trailers",
        "gzip",
        "close",
        "http10",
        "http10-length",
        "http10-keep",
        "last",
        "204",
    ),
    *("304", "interim", "interim-many", "headers-150", "no-reason"),
)
"""Framings that must be read."""
ODD: Final = (
    *("folded", "lf", "length-twice", "204-length", "space-name", "null", "no-colon", "lengths-differ"),
    *(
        "length-and-chunked",
        "length-plus",
        "version-2",
        "status-0",
        "tls-alert",
        "not-http",
        "encoding-unknown",
    ),
)
"""Framings that a client may read or refuse."""
BROKEN: Final = (
    *("length-negative", "length-text", "length-huge", "chunk-text", "chunk-negative", "chunk-huge"),
    *("chunk-short", "gzip-broken", "gzip-short", "status-text", "switching"),
    *("endless-head", "endless-line", "endless-interim"),
)
"""Framings that must be refused."""
SHORT: Final = ("too-short", "too-long", "chunk-long")
"""Framings whose length is wrong."""
ENDED_BY_CLOSE: Final = ("close", "http10")
CUT: Final = (
    "length",
    "chunked",
    "trailers",
    "gzip",
    "close",
    "http10",
    "http10-keep",
    "interim",
    "last",
    "304",
)
_TYPED: Final = (ConnectionFailedError, MalformedResponseError, RequestTimeoutError)
FOREIGN: Final = 10**9
"""An id that no request has."""


def cuts(step: int = 1) -> Iterator[Plan]:
    """Yield responses that end after each byte, in each way."""
    for framing, end in itertools.product(CUT, ("cut", "reset", "shut")):
        whole = len(response(Plan(framing=framing, id=FOREIGN)))
        for at in range(0, whole + 1, step):
            yield Plan(framing=framing, end=end, at=at)


def stalls(step: int) -> Iterator[Plan]:
    """Yield responses that stop after every `step` bytes, while the connection stays open."""
    for framing in CUT:
        for at in range(0, len(response(Plan(framing=framing, id=FOREIGN))), step):
            yield Plan(framing=framing, end="stall", at=at)


def mixed() -> Iterator[Plan]:
    """Yield each framing, with delays, in parts, with rubbish around it, and on connections that close."""
    for framing in (*SOUND, *ODD, *BROKEN, *SHORT):
        yield Plan(framing=framing, close=True)
    foreign = response(Plan(id=FOREIGN)).decode("latin-1")
    for framing in SOUND:
        yield Plan(framing=framing)
        yield Plan(framing=framing, parts=7)
        yield Plan(framing=framing, parts=60)
        yield Plan(framing=framing, wait=0.02)
        for after in ("\r\n", "\0", "x" * 100, "HTTP/1.1 ", foreign, "0\r\n\r\n"):
            yield Plan(framing=framing, after=after)
        for before in ("\r\n", "\0", "x", "HTTP/1.1 ", "\x15\x03\x03\x00\x02\x02\x28"):
            yield Plan(framing=framing, before=before, close=True)


def is_sound(plan: Plan, *, tls: bool) -> bool:
    """Whether the response must be read as it is meant."""
    if plan.before or plan.framing not in SOUND:
        return False
    if plan.end == "reset":
        return False  # what was sent before it may be lost
    reached = plan.end == "whole" or plan.at >= len(response(plan))
    if plan.framing in ENDED_BY_CLOSE:
        # Bytes after the end are a part of such a body, and with TLS an end without an alert is no end.
        return reached and plan.end != "stall" and not plan.after and not (tls and plan.end != "whole")
    return reached


def judge(plan: Plan, outcome: Any, *, tls: bool) -> str | None:
    """Return what is wrong with the outcome of an exchange; `None` if nothing is."""
    if isinstance(outcome, BaseException):
        if not isinstance(outcome, _TYPED):
            return f"an error of the wrong type: {outcome!r}"
        return f"an error: {outcome!r}" if is_sound(plan, tls=tls) else None
    if str(plan.id) != outcome.headers.get("x-id"):
        may = plan.framing in (*ODD, *SHORT) or plan.before
        return None if may and outcome.headers.get("x-id") is None else f"another answer: {outcome.headers}"
    if plan.framing in BROKEN:
        return f"{outcome!r} in place of an error"
    status = int(plan.framing) if plan.framing in ("204", "304") else 200
    body = b"" if status != 200 else echo(plan)
    if outcome.status == status and outcome.body == body:
        return None
    return None if _may_differ(plan, outcome.body, body, tls=tls) else f"{outcome!r}: {outcome.body[:200]!r}"


def _may_differ(plan: Plan, received: bytes, body: bytes, *, tls: bool) -> bool:
    """Whether a client cannot know that it did not receive the whole body."""
    if plan.framing in (*ODD, *SHORT) or plan.before:
        return received in body or body in received
    if plan.framing not in ENDED_BY_CLOSE:
        return False
    if plan.after:
        return received.startswith(body)
    return not tls and plan.end in ("cut", "shut") and body.startswith(received)


@dataclass
class Tally:
    """The counts of a run.

    Attributes:
        exchanges: all of them.
        answers: those with an answer.
        errors: those with an error, by class.
        cancelled: requests that were cancelled, which are no exchanges.
        wrong: descriptions of outcomes that must not be, fifty at most.
    """

    exchanges: int = 0
    answers: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    cancelled: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, plan: Plan, outcome: Any, *, tls: bool) -> None:
        """Judge and count one exchange."""
        self.exchanges += 1
        if isinstance(outcome, BaseException):
            name = type(outcome).__name__
            self.errors[name] = self.errors.get(name, 0) + 1
        else:
            self.answers += 1
        problem = judge(plan, outcome, tls=tls)
        if problem is not None and len(self.wrong) < 50:
            self.wrong.append(f"{plan}: {problem}")


async def run_plans(
    transport: Transport,
    url: str,
    plans: Iterable[Plan],
    *,
    deadline: float,
    at_once: int = 20,
    patient: Transport | None = None,
) -> Tally:
    """Send a request for each plan, and one that is sound between two of them, and judge the outcomes.

    Args:
        transport: whose `timeout` is below `deadline`.
        url: of the server.
        plans: their ids are replaced.
        deadline: seconds after which an exchange has failed to end.
        at_once: exchanges in flight.
        patient: sends the requests for the sound plans; else `transport` does.
    """
    tally, tls = Tally(), url.startswith("https")
    work = iter(enumerate(each for plan in plans for each in (plan, Plan())))

    async def worker() -> None:
        for number, plan in work:
            own = replace(plan, id=FOREIGN + 1 + number)
            began = time.monotonic()
            try:
                with anyio.fail_after(deadline):
                    sender = patient if patient is not None and plan.end == "whole" else transport
                    outcome: Any = await sender.post(url, own.body())
            except ProviderError as error:
                outcome = error
            except TimeoutError:
                outcome = AssertionError(f"no end after {time.monotonic() - began:.1f} s")
            tally.add(own, outcome, tls=tls)

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(worker)
    return tally


def shuffled(plans: Iterable[Plan], seed: int) -> list[Plan]:
    """Return `plans` in another order."""
    made = list(plans)
    random.Random(seed).shuffle(made)
    return made


async def run_mixup(
    transport: Transport, url: str, exchanges: int, *, seed: int, at_once: int = 50, deadline: float = 30.0
) -> Tally:
    """Send requests that are cut, reset, followed by rubbish, cancelled or answered in whole, at random.

    No response may reach another request: not on a connection whose last request was cancelled or broken, and
    not where a second response, which nothing asked for, comes with the first.

    Args:
        transport: whose `timeout` is below `deadline`.
        url: of the server.
        exchanges: their number.
        seed: of the plans and of the moments of cancellation.
        at_once: exchanges in flight.
        deadline: seconds after which an exchange has failed to end.
    """
    tally, tls = Tally(), url.startswith("https")
    chance = random.Random(seed)
    work = iter(range(exchanges))

    async def worker() -> None:
        for number in work:
            plan, patience = _draw(chance, FOREIGN + 1 + number)
            try:
                with anyio.move_on_after(patience or deadline) as scope:
                    outcome: Any = await transport.post(url, plan.body())
            except ProviderError as error:
                outcome = error
            if scope.cancelled_caught:
                if not patience:
                    tally.add(plan, AssertionError("no end"), tls=tls)
                tally.cancelled += 1
                continue
            tally.add(plan, outcome, tls=tls)

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(worker)
    return tally


_FOREIGN_RESPONSE: Final = response(Plan(id=FOREIGN)).decode("latin-1")


def _draw(chance: random.Random, number: int) -> tuple[Plan, float]:
    """Return a plan, and seconds after which its request is cancelled; 0 for never."""
    plan = Plan(
        id=number, framing=chance.choice(("length", "length", "length", "chunked", "trailers", "close"))
    )
    kind, patience = chance.random(), 0.0
    if kind < 0.05:
        plan.end, plan.at = chance.choice(("cut", "reset", "shut")), chance.randrange(130)
    elif kind < 0.10:
        plan.after = chance.choice((_FOREIGN_RESPONSE, "HTTP/1.1 200 OK\r\n", "x", "\r\n"))
    elif kind < 0.15:
        plan.wait, patience = chance.uniform(0, 0.004), chance.uniform(1e-9, 0.004)
    elif kind < 0.17:
        patience = chance.uniform(1e-9, 0.001)
    elif kind < 0.19:
        plan.parts, patience = chance.randrange(2, 5), chance.uniform(1e-9, 0.01)
    elif kind < 0.20:
        plan.close = True
    return plan, patience
