from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import anyio
import httpx
import pytest

from batchrt import testing
from batchrt.testing import (
    Fault,
    FaultLike,
    FaultPlan,
    LogNormal,
    MockProvider,
    Outage,
    Queueing,
    RateLimits,
)
from batchrt.testing.serving.exchange import Exchange
from tests.cli.conftest import Command


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[MockProvider, Any]]:
    """Collect the providers that the command would serve, and their addresses."""
    seen: list[tuple[MockProvider, Any]] = []

    def serve(provider: MockProvider, *address: Any, **_: Any) -> None:
        seen.append((provider, address))

    monkeypatch.setattr(testing, "serve_forever", serve, raising=False)
    return seen


def test_mock_options_make_the_provider(command: Command, served: list[tuple[MockProvider, Any]]) -> None:
    """Latency as a number or a distribution, faults of every kind and of single ones."""
    arguments = ["--latency", "lognormal:0.2,0.5", "--seed", "7", "--port", "0", "--host", "::1"]
    faults = ["--faults", "0.1", "--fault", "stall:3=0.2", "--fault", "gzip_bomb:1000=0.01"]
    assert command("mock", *arguments, *faults).code == 0
    [(provider, address)] = served
    assert (provider.latency, provider.seed, address) == (LogNormal(0.2, 0.5), 7, ("::1", 0))
    expected: dict[FaultLike, float] = {
        fault: rate
        for fault, rate in FaultPlan.everything(0.1, seed=7).rates.items()
        if getattr(fault, "fault", fault) is not Fault.STALL
    }
    expected |= {Fault.STALL(seconds=3): 0.2, Fault.GZIP_BOMB(size=1000): 0.01}
    assert dict(provider.faults.rates.items()) == expected


def test_mock_by_default_nothing_goes_wrong(command: Command, served: list[tuple[MockProvider, Any]]) -> None:
    """Answers at once, on loopback alone."""
    assert command("mock").code == 0
    [(provider, address)] = served
    assert (provider.latency, provider.faults) == (0, FaultPlan())
    assert address == ("127.0.0.1", 8000)
    controller = provider._controller
    assert (controller._limits, controller._queueing, controller._outages) == (None, None, ())


def test_mock_family_and_its_limits(command: Command, served: list[tuple[MockProvider, Any]]) -> None:
    """Its limits of lists and the width of vectors; latency grows with a list."""
    limits = ["--max-inputs", "2", "--max-input-tokens", "3", "--max-in-flight", "9", "--dimensions", "5"]
    assert command("mock", "--server", "tei", "--latency-per-input", "0.5", *limits).code == 0
    [(provider, _)] = served

    async def meet() -> list[Exchange]:
        return [met(provider, *texts) for texts in (["a", "b", "c"], ["a long text indeed"], ["a", "b"])]

    many, long, proper = anyio.run(meet)
    assert b"batch size 3 > maximum allowed batch size 2" in body_of(many)
    assert b"less than 3 tokens" in body_of(long)
    assert proper.reply.delay == 1.0
    assert len(json.loads(body_of(proper))["data"][0]["embedding"]) == 5


def test_mock_limits_a_queue_and_outages(command: Command, served: list[tuple[MockProvider, Any]]) -> None:
    """Each option of limits reaches the provider."""
    limits = ["--requests-per-minute", "600,60@120", "--tokens-per-minute", "90000", "--burst-seconds", "0.1"]
    told = ["--requests-per-day", "1000", "--tokens-per-day", "1e6", "--limit-style", "litellm"]
    told += ["--max-parallel-requests", "8,4@30"]
    queue = ["--capacity", "4,2@60", "--max-waiting", "0", "--seconds-per-token", "0.5"]
    outages = ["--outage", "5-6=429", "--outage", "0.5-2=refused", "--outage", "7-8"]
    headers = ["--limit-headers", "success"]
    assert command("mock", *limits, *told, *queue, *outages, *headers).code == 0
    [(provider, _)] = served
    controller = provider._controller
    assert controller._limits == RateLimits(
        requests_per_minute=[(0, 600), (120, 60)],
        tokens_per_minute=90_000,
        requests_per_day=1000,
        tokens_per_day=1e6,
        max_parallel_requests=[(0, 8), (30, 4)],
        burst_seconds=0.1,
        style="litellm",
        headers="success",
    )
    assert controller._queueing == Queueing(capacity=[(0, 4), (60, 2)], max_waiting=0, seconds_per_token=0.5)
    assert controller._outages == (Outage(5, 6, 429), Outage(0.5, 2, "refused"), Outage(7, 8))


def met(provider: MockProvider, *texts: str) -> Exchange:
    raw = json.dumps({"model": "m", "input": texts}).encode()
    exchange = provider.open("POST", "/v1/embeddings", raw)
    exchange.abandon()
    return exchange


def body_of(exchange: Exchange) -> bytes:
    return b"".join(exchange.reply.parts())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--server", "abacus"], "--server must be one of openai, azure, tei"),
        (["--latency-per-input", "inf"], "--latency-per-input must be seconds >= 0, not inf"),
        (["--latency", "soon"], "--latency must be seconds, as 0.2, or lognormal:MEDIAN,SIGMA"),
        (["--latency", "-1"], "--latency must be seconds"),
        (["--latency", "lognormal:0.2"], "--latency must be seconds"),
        (["--fault", "flood=0.1"], "there is no kind 'flood'; there are rate_limit_seconds, "),
        (["--fault", "stall"], "write it as stall=RATE or stall:SECONDS=RATE"),
        (["--fault", "gzip_bomb=0.1"], "write it as gzip_bomb:BYTES=RATE"),
        (["--fault", "conflict:3=0.1"], "write it as conflict=RATE"),
        (["--fault", "stall=0.7", "--fault", "conflict=0.7"], "the rates add up to 1.4"),
        (["--requests-per-minute", "many"], "--requests-per-minute must be a number, as 600, or numbers and"),
        (["--tokens-per-minute", "600,300"], "as 600,300@60; not '600,300'"),
        (["--requests-per-day", "0"], "--requests-per-day must be a number above 0"),
        (["--tokens-per-day", "9,8@7,7@6"], "--tokens-per-day must be a number above 0"),
        (["--burst-seconds", "5"], "--burst-seconds needs a limit, as --requests-per-minute 600"),
        (["--requests-per-minute", "5", "--burst-seconds", "0"], "--burst-seconds must be above 0"),
        (["--requests-per-minute", "5", "--limit-style", "x"], "--limit-style must be one of openai, azure"),
        (["--requests-per-minute", "5", "--limit-headers", "x"], "--limit-headers must be one of all, "),
        (["--limit-style", "tei"], "--limit-style needs a limit"),
        (["--max-parallel-requests", "2.5"], "--max-parallel-requests must be a whole number above 0"),
        (["--capacity", "0.5"], "--capacity must be a whole number above 0"),
        (["--max-waiting", "5"], "--max-waiting needs --capacity"),
        (["--outage", "5"], "--outage 5: write it as START-END or START-END=KIND"),
        (["--outage", "9-5"], "--outage 9-5: write it as"),
        (["--outage", "5-9=418"], "--outage 5-9=418: write it as"),
    ],
)
def test_mock_mistake_is_one_line(command: Command, arguments: list[str], words: str) -> None:
    """With an example of how it is written."""
    result = command("mock", *arguments)
    assert result.code == 2
    assert words in result.complaint


def test_mock_port_that_is_taken_is_one_line(command: Command) -> None:
    """And no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = command("mock", "--port", port)
    assert result.code == 2
    assert result.complaint.startswith(f"cannot listen on 127.0.0.1, port {port}: address already in use")


def test_mock_it_says_where_it_listens_and_serves_until_ctrl_c() -> None:
    """The first line is all that a script needs; requests without the key are refused."""
    arguments = [sys.executable, "-m", "batchrt", "mock", "--port", "0", "--require-key", "sesame"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            base_url = running.stdout.readline().strip()
            url, sesame = f"{base_url}/models", {"authorization": "Bearer sesame"}
            assert httpx.get(url, trust_env=False).status_code == 401
            assert httpx.get(url, headers=sesame, trust_env=False).status_code == 200
            running.send_signal(signal.SIGINT)
            assert running.wait() == 0
            assert running.stderr.read() == ""
        finally:
            running.kill()
