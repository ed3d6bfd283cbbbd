"""The default transport in front of broken responses: each exchange ends in its own answer or its own error.

`BATCHRT_FAULTS=long` runs every cut, and `BATCHRT_EXCHANGES` at random; by default a sample is run.
"""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from batchrt.errors import ConnectionFailedError, MalformedResponseError, ProviderError, RequestTimeoutError
from batchrt.providers.http.response import Reply
from batchrt.providers.http.transport import Transport
from tests.providers.http.fault_plans import (
    BROKEN,
    FOREIGN,
    SOUND,
    Tally,
    cuts,
    judge,
    mixed,
    run_mixup,
    run_plans,
    shuffled,
    stalls,
)
from tests.providers.http.fault_server import Plan, Served, echo, fault_server, response
from tests.providers.http.tls import certificate

pytestmark = pytest.mark.anyio

LONG: Final = os.environ.get("BATCHRT_FAULTS") == "long"


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "tls"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run the server, with TLS or without."""
    cert = certificate(tmp_path_factory.mktemp("cert")) if request.param else None
    with fault_server(cert) as server:
        yield server


@pytest.fixture
async def make(served: Served, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Transport]]:
    """Give transports to the server; afterwards no connection and no task of theirs may be left."""
    for name in ("http", "https", "all"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    if served.cert is not None:
        monkeypatch.setenv("SSL_CERT_FILE", str(served.cert))
    made: list[Transport] = []
    before = tasks()

    def make(**options: Any) -> Transport:
        settings = {"timeout": 5.0, "max_response_bytes": 10**6, **options}
        made.append(Transport({}, tls=served.cert is not None, **settings))
        return made[-1]

    yield make
    for transport in made:
        await transport.aclose()
    assert await anyio.to_thread.run_sync(served.wait_until_closed) == 0
    assert tasks() <= before


def tasks() -> int:
    """Return the number of tasks that live on the loop."""
    if "trio" in sys.modules and sys.modules["sniffio"].thread_local.name == "trio":
        return int(sys.modules["trio"].lowlevel.current_statistics().tasks_living)
    return len(sys.modules["asyncio"].all_tasks())


def check(tally: Tally) -> None:
    """Assert that no outcome was wrong, and that there were answers and errors."""
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.answers > tally.exchanges // 3
    assert set(tally.errors) >= {"ConnectionFailedError", "MalformedResponseError"}
    if LONG:
        print(tally)  # noqa: T201


async def test_native_channel_reads_or_refuses_every_framing(make: Any, served: Served) -> None:
    """With rubbish around it, in parts, and late."""
    check(await run_plans(make(timeout=20.0), served.url, shuffled(mixed(), 1), deadline=30))


async def test_native_channel_survives_the_end_of_a_response_at_any_byte(make: Any, served: Served) -> None:
    """By a close, a reset or a half-close; plans of twenty connections at once."""
    check(await run_plans(make(timeout=20.0), served.url, shuffled(cuts(1 if LONG else 17), 2), deadline=60))


async def test_native_channel_meets_its_deadline_wherever_a_response_stops(make: Any, served: Served) -> None:
    """Head, body, chunk or trailer."""
    plans = list(stalls(5 if LONG else 37))
    hasty, patient = make(timeout=0.3), make(timeout=60.0)
    tally = await run_plans(hasty, served.url, shuffled(plans, 3), deadline=90, at_once=50, patient=patient)
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.errors == {"RequestTimeoutError": len(plans)}


async def test_native_channel_hands_no_response_to_another_request(make: Any, served: Served) -> None:
    """With fifty requests in flight, of which some are cut, followed by rubbish, or cancelled."""
    exchanges = int(os.environ.get("BATCHRT_EXCHANGES", "100000")) if LONG else 600
    tally = await run_mixup(make(timeout=20.0), served.url, exchanges, seed=4)
    check(tally)
    assert tally.cancelled > exchanges // 40
    assert tally.exchanges + tally.cancelled == exchanges


async def test_native_channel_repeats_a_request_whose_connection_the_server_had_closed(
    make: Any, served: Served
) -> None:
    """Servers close idle connections without a word, also at the moment at which one is used again."""
    transport = make()
    before = served.counts()["opened"]
    for number in range(100):
        plan = Plan(id=number, close=True)
        reply = await transport.post(served.url, plan.body())
        assert reply.body == echo(plan)
        await anyio.sleep(0.0005 * (number % 4))
    assert served.counts()["opened"] - before >= 100


async def test_native_channel_discards_a_connection_that_sent_more_than_it_was_asked(
    make: Any, served: Served
) -> None:
    """A second response, which comes while the connection is idle, is not the next request's."""
    transport = make()
    foreign = response(Plan(id=FOREIGN)).decode("latin-1")
    for number in range(20):
        plan = Plan(id=number, after=foreign, later=0.005)
        assert (await transport.post(served.url, plan.body())).body == echo(plan)
        await anyio.sleep(0.03)


async def test_native_channel_reads_an_answer_that_comes_before_the_request_is_sent(
    make: Any, served: Served
) -> None:
    """A 413 says why the rest of the body is not wanted."""
    transport = make(timeout=20.0)
    for size in (10_000, 8_000_000):
        for _ in range(5):
            reply = await transport.post(served.url.replace("/v1", "/early"), b"x" * size)
            assert reply.status == 413
            assert b"too large" in reply.body
    plan = Plan(id=1)
    assert (await transport.post(served.url, plan.body())).body == echo(plan)


@pytest.mark.parametrize("framing", ["endless-head", "endless-line", "endless-interim"])
async def test_native_channel_bounds_the_head(make: Any, served: Served, framing: str) -> None:
    """Fifty megabytes of headers are neither read nor kept."""
    transport = make()
    await transport.post(served.url, Plan().body())
    tracemalloc.start()
    try:
        with pytest.raises(MalformedResponseError):
            await transport.post(served.url, Plan(framing=framing).body())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    ("framing", "size"), [("length", 3000), ("chunked", 3000), ("close", 3000), ("gzip", 1_000_000)]
)
async def test_native_channel_bounds_the_body(make: Any, served: Served, framing: str, size: int) -> None:
    """As it is received, and as it unpacks; the next request is not affected."""
    transport = make(max_response_bytes=2000)
    with pytest.raises(MalformedResponseError, match="2000"):
        await transport.post(served.url, Plan(framing=framing, size=size).body())
    plan = Plan(id=2)
    assert (await transport.post(served.url, plan.body())).body == echo(plan)


NO_HEADERS: Any = {}


def reply_to(plan: Plan, body: bytes | None = None, status: int = 200) -> Reply:
    headers: Any = {"x-id": str(plan.id)}
    return Reply(status, headers, echo(plan) if body is None else body)


@pytest.mark.parametrize("framing", SOUND)
def test_fault_judge_wants_the_answer_to_a_sound_response(framing: str) -> None:
    """And no error, no other status, no part of it, and no other request's."""
    plan = Plan(id=7, framing=framing)
    status = int(framing) if framing in ("204", "304") else 200
    body = b"" if status != 200 else echo(plan)
    assert judge(plan, reply_to(plan, body, status), tls=False) is None
    for wrong in (
        ConnectionFailedError("x"),
        reply_to(plan, body, 201),
        reply_to(plan, echo(plan)[:-1], status),
        reply_to(Plan(id=8), status=status),
        Reply(status, NO_HEADERS, body),
    ):
        assert judge(plan, wrong, tls=False) is not None


def test_fault_judge_wants_typed_errors() -> None:
    """Anything else is a failure of the client."""
    plan = Plan(id=7, end="cut", at=20)
    for right in (ConnectionFailedError("x"), MalformedResponseError("x"), RequestTimeoutError("x")):
        assert judge(plan, right, tls=False) is None
    for wrong in (OSError("x"), ProviderError("x"), AssertionError("no end")):
        assert judge(plan, wrong, tls=False) is not None
    for framing in BROKEN:
        assert judge(Plan(id=7, framing=framing), reply_to(plan), tls=False) is not None


def test_fault_judge_takes_a_short_body_only_where_its_end_is_not_marked() -> None:
    """With TLS it is."""
    whole = response(Plan(id=7, framing="close"))
    plan = Plan(id=7, framing="close", end="cut", at=len(whole) - 3)
    short = reply_to(plan, echo(plan)[:-3])
    assert judge(plan, short, tls=False) is None
    assert judge(plan, short, tls=True) is not None
    plan = Plan(id=7, framing="length", end="cut", at=len(response(Plan(id=7))) - 3)
    assert judge(plan, reply_to(plan, echo(plan)[:-3]), tls=False) is not None
