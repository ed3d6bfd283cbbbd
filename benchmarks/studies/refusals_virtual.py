"""Refusals in virtual time: batchrt against the mock provider, over many seeds.

    python -m benchmarks.studies.refusals_virtual [--seeds 50] [--keep]

Each run is a new provider, a new model with its default policy, and a virtual clock. The seed draws refusals
at random, the jitter of retries, and the delays on the way, by which requests arrive in another order than
they were sent in. The mock's verdict is the judge: its `slowness` has the waits of random refusals in the
ideal.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import anyio
import httpx

from benchmarks.harness.isolation import WorkerError, run_worker
from benchmarks.harness.machine import describe
from benchmarks.pages.refusals import render
from benchmarks.studies import refusals_kept, report
from benchmarks.studies.quota_runs import prompts, series_of
from benchmarks.studies.results import Column, Row, Table
from benchmarks.studies.virtual_loop import run_virtually

if TYPE_CHECKING:
    from batchrt.testing import MockProvider

__all__ = ["CAPS", "COLUMNS", "KINDS", "SERVERS", "Server", "main", "measure", "play", "work"]

COLUMNS = (
    Column("lost", "lost", 0),
    Column("slowness", "x ideal", 2),
    Column("refused", "refused %", 1),
    Column("used", "used %", 1),
)
CAPS = ("1", "8", "50", "none", "auto")
KINDS = ("chat", "embeddings")
_PER_LIST = 4
_REFUSAL_SECONDS = 0.005
"""Until a refusal is answered; a request within them and the delays was sent before it."""
_DELAY = 0.001
_CELL_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Server:
    """Say how a mock provider refuses.

    Attributes:
        limits: what its `RateLimits` take.
        share: of requests refused at random.
        wait: seconds that such a refusal names; None for none.
    """

    name: str
    latency: float
    requests: int
    limits: Mapping[str, Any] | None = None
    share: float = 0.0
    wait: float | None = None

    def provider(self, seed: int) -> MockProvider:
        """Return a new one."""
        from batchrt.testing import MockProvider, Noise, Queueing, RateLimits

        chosen: dict[str, Any] = {}
        if self.limits is not None:
            chosen["rate_limits"] = RateLimits(**self.limits)
        if self.share:
            # Where nothing limits the pace there is no ideal: the server answers 50 at a time.
            chosen |= {"noise": Noise(share=self.share, wait=self.wait), "queueing": Queueing(capacity=50)}
        return MockProvider(seed=seed, latency=self.latency, refusal_latency=_REFUSAL_SECONDS, **chosen)


def _limited(name: str, latency: float, requests: int, **limits: Any) -> Server:
    return Server(name, latency, requests, limits=limits)


SERVERS = (
    _limited(
        "bare, 50 a second, bucket 10", 0.1, 300, requests_per_minute=3000, burst_seconds=0.2, style="nginx"
    ),
    _limited("bare, 5 a second, bucket 5", 1.0, 100, requests_per_minute=300, burst_seconds=1, style="nginx"),
    _limited("bare, 4 in flight", 0.1, 300, max_parallel_requests=4, style="nginx"),
    _limited("bare, 64 in flight", 1.0, 600, max_parallel_requests=64, style="nginx"),
    *(
        Server(
            f"random, {100 * share:g} %, {'bare' if wait is None else '1 s'}",
            0.1,
            300 if share >= 0.1 else 1000,
            share=share,
            wait=wait,
        )
        for wait in (None, 1.0)
        for share in (0.001, 0.02, 0.2)
    ),
    Server("random, 20 %, 1 s, answers after 0.25 s", 0.25, 100, share=0.2, wait=1.0),
    # What is lost at the start, until refusals are known to be random, is a matter of half a second.
    Server("random, 20 %, bare, 1,500 requests", 0.1, 1500, share=0.2),
    _limited("LiteLLM, 8 parallel", 0.5, 200, max_parallel_requests=8, style="litellm"),
    _limited(
        "blind, 50 a second, bucket 60, waits in ms",
        0.1,
        1000,
        requests_per_minute=3000,
        burst_seconds=1.2,
        headers="none",
        waits=("retry-after-ms",),
    ),
)


class _Network(httpx.AsyncBaseTransport):
    """Delay each request by up to a millisecond, so that requests of one burst change places."""

    def __init__(self, inner: httpx.AsyncBaseTransport, seed: int) -> None:
        self._inner = inner
        self._chance = random.Random(f"network {seed}")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.sleep(self._chance.uniform(0, _DELAY))
        return await self._inner.handle_async_request(request)


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Draw the jitter of retries from `seed`: it is the system's otherwise."""
    from batchrt.runtime import clock

    numbers = itertools.count()
    drawn = SimpleNamespace(SystemRandom=lambda: random.Random(f"{seed}/{next(numbers)}"))
    with patch.object(clock, "random", drawn):
        yield


def play(server: Server, kind: str, cap: str, seed: int) -> dict[str, float]:
    """Ask once in virtual time, and return the mock's judgement of it."""
    from batchrt import ChatOpenAI, OpenAIEmbeddings

    provider = server.provider(seed)
    # One at a time takes long, and shows after fewer requests how it is.
    requests = max(60, server.requests // 5) if cap == "1" else server.requests
    given: dict[str, Any] = {
        "base_url": "http://mock/v1",
        "api_key": "k",
        "timeout": None,
        "transport": _Network(provider.transport(), seed),
    }
    config: Any = {} if cap == "none" else {"max_concurrency": int(cap) if cap.isdigit() else cap}

    async def main() -> int:
        if kind == "chat":
            result = await ChatOpenAI("m", **given).arun(prompts(requests), config)
            return len(result.errors)
        model = OpenAIEmbeddings("m", max_batch_size=_PER_LIST, **given)
        found = await model.arun(prompts(_PER_LIST * requests), config)
        return len(found.errors)

    with _drawn_from(seed):
        errors, _ = run_virtually(main())
    verdict = provider.verdict(
        grace=_REFUSAL_SECONDS + _DELAY, max_concurrency=int(cap) if cap.isdigit() else None
    )
    return {
        "lost": max(verdict.lost, errors),
        "slowness": verdict.slowness,
        "refused": 100 * verdict.refused_share,
        "used": 100 * (verdict.used or 0.0),
    }


def work(settings: Mapping[str, Any]) -> list[dict[str, float]]:
    """Play the seeds of one cell; see `isolation.run_worker`."""
    logging.disable(logging.CRITICAL)
    server = next(one for one in SERVERS if one.name == settings["server"])
    return [play(server, settings["kind"], settings["cap"], seed) for seed in range(settings["seeds"])]


def measure(
    *, seeds: int, tell: Callable[[str], None], only: Sequence[str] = ("",), kinds: Sequence[str] = KINDS
) -> Iterator[Table]:
    """Play each server whose name has one of the words `only`, a table for each kind of request."""
    for kind in kinds:
        for server in SERVERS:
            if any(word in server.name for word in only):
                rows = []
                for cap in CAPS:
                    tell(f"{kind}, {server.name}, cap {cap}")
                    rows.append(_cell(server, kind, cap, seeds))
                yield Table(f"{kind}: {server.name}", COLUMNS, rows)


def _cell(server: Server, kind: str, cap: str, seeds: int) -> Row:
    settings = {"server": server.name, "kind": kind, "cap": cap, "seeds": seeds}
    try:
        samples = run_worker("studies.refusals_virtual", settings, seconds=_CELL_SECONDS, core=None)
    except WorkerError as error:
        return Row(f"cap {cap}", "asyncio", note=f"failed: {error}")
    return Row(f"cap {cap}", "asyncio", series_of(samples))


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, show, and keep the results if wanted."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.refusals_virtual", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, default=50, help="runs of each cell")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORD", help="servers whose name has one of these"
    )
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--keep", action="store_true", help="replace the results, and render the page")
    options = parser.parse_args(arguments)
    progress = Console(stderr=True, style="dim", highlight=False)
    console, machine = Console(width=120), describe()
    report.show_machine(console, machine)
    for table in measure(
        seeds=options.seeds,
        tell=lambda what: progress.print(what, soft_wrap=True),
        only=options.only,
        kinds=options.kinds,
    ):
        report.show_table(console, "refusals in virtual time", table)
        if options.keep:
            refusals_kept.keep("virtual", table, refusals_kept.run_of(__spec__.name, arguments, machine))
            render()
    return 0


if __name__ == "__main__":
    sys.exit(main())
