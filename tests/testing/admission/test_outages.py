from __future__ import annotations

import math
from typing import Any

import anyio
import httpx
import pytest

from batchrt.testing import Fault, FaultPlan, MockProvider, Outage, Queueing, RateLimits
from tests.testing.test_provider import BODY
from tests.testing.virtual import Client, Got, simulate


def meet(outage: Outage, *seconds: float, **options: Any) -> list[Got]:
    """Send requests at these seconds."""
    provider = MockProvider(outages=[outage], **options)

    async def main() -> list[Got]:
        client = Client(provider)
        got = []
        for number, second in enumerate(seconds):
            await anyio.sleep_until(second)
            got.append(await client.ask(f"{number}"))
        return got

    return simulate(main)


def test_outage_fails_everything_from_its_start_until_before_its_end() -> None:
    """At once, and with the code of an overloaded server."""
    got = meet(Outage(10, 70), 0, 9.9, 10, 69.9, 70)
    assert [one.status for one in got] == [200, 200, 503, 503, 200]
    assert got[2].document["error"]["code"] == "server_is_overloaded"
    assert got[2].time == 10
    assert "retry-after" not in got[2].headers


@pytest.mark.parametrize(
    ("outage", "status", "waits"),
    [
        (Outage(0, 60, 500), 500, {}),
        (Outage(0, 60, 503, retry_after=True), 503, {"retry-after": "38"}),
        (Outage(0, 60, 429), 429, {"retry-after": "38", "retry-after-ms": "37500"}),
        (Outage(0, 60, 429, retry_after=False), 429, {}),
        (Outage(0, math.inf, 429), 429, {}),
    ],
)
def test_outage_may_give_its_remaining_seconds(outage: Outage, status: int, waits: dict[str, str]) -> None:
    """A 429 does, and the other statuses may."""
    _, got = meet(outage, 0, 22.5)
    assert got.status == status
    assert {name: value for name, value in got.headers.items() if "retry" in name} == waits


def test_outage_429_has_the_providers_style() -> None:
    """The style of its limits, or of its family."""
    [got] = meet(Outage(0, 60, 429), 0, server="azure")
    assert got.message == "Rate limit reached. Please retry after 60 seconds."
    limits = RateLimits(requests_per_minute=60, style="litellm")
    [got] = meet(Outage(0, 60, 429), 0, rate_limits=limits)
    assert got.headers["llm_provider-retry-after"] == "60"


def test_outage_failure_may_be_delayed() -> None:
    """As that of a gateway that waits for its upstream."""
    [got] = meet(Outage(0, 60, 500, delay=30), 0)
    assert (got.status, got.time) == (500, 30)


def test_outage_may_refuse_connections() -> None:
    """As a machine without a listener does."""
    provider = MockProvider(outages=[Outage(0, 5, "refused")])

    async def main() -> int:
        client = Client(provider)
        with pytest.raises(httpx.ConnectError):
            await client.ask()
        await anyio.sleep(5)
        return (await client.ask()).status

    assert simulate(main) == 200
    assert provider.log.snapshot().in_flight == 0
    assert provider.verdict().failed == 1


def test_outage_may_hang_connections() -> None:
    """Until the outage is over, when it closes them, or until the client's timeout."""
    provider = MockProvider(outages=[Outage(0, 60, "hanging"), Outage(60, math.inf, "hanging")])

    async def main() -> list[float]:
        with pytest.raises(httpx.RemoteProtocolError):
            await Client(provider).ask()
        times = [anyio.current_time()]
        with pytest.raises(httpx.ReadTimeout):
            await Client(provider, timeout=7).ask()
        return [*times, anyio.current_time()]

    assert simulate(main) == [60, 67]
    assert provider.log.snapshot().disconnects == 1


def test_outage_spares_requests_in_flight() -> None:
    """The time of arrival decides."""
    provider = MockProvider(latency=10.0, outages=[Outage(5, 60)])
    assert simulate(lambda: Client(provider).ask()).status == 200


def test_outage_does_not_touch_quota_queue_or_faults() -> None:
    """A script of faults continues afterwards at its position."""
    provider = MockProvider(
        rate_limits=RateLimits(requests_per_minute=60, burst_seconds=2),
        queueing=Queueing(capacity=1),
        faults=FaultPlan(script=[Fault.CONFLICT]),
        outages=[Outage(0, 0.5)],
    )

    async def main() -> list[int]:
        client = Client(provider)
        statuses = [(await client.ask(f"{number}")).status for number in range(20)]
        await anyio.sleep(0.5)
        return statuses + [(await client.ask(f"{number}")).status for number in range(3)]

    assert simulate(main) == [503] * 20 + [409, 200, 429]
    verdict = provider.verdict()
    assert (verdict.failed, verdict.accepted, verdict.rejected) == (20, 2, 1)


def test_outage_first_in_the_list_wins() -> None:
    """Invalid requests and those not for a model are unaffected."""
    provider = MockProvider(outages=[Outage(0, 10, 500), Outage(0, 20)])

    async def main() -> list[int]:
        client = Client(provider)
        statuses = [
            (await client.post("/v1/chat/completions", {})).status,
            (await client.get("/v1/models")).status,
        ]
        for second in (0, 10, 20):
            await anyio.sleep_until(second)
            statuses.append((await client.ask()).status)
        return statuses

    assert simulate(main) == [400, 200, 500, 503, 200]


@pytest.mark.parametrize(
    ("outage", "error"),
    [
        (Outage(0, 3600, "refused"), httpx.ReadError),
        (Outage(0, math.inf, "hanging"), httpx.ReadTimeout),
        (Outage(0, 3600, 503), None),
    ],
)
def test_outage_on_a_socket_resets_or_hangs(outage: Outage, error: type[Exception] | None) -> None:
    """An open connection is reset, or hangs; the server continues."""
    provider = MockProvider(outages=[outage])
    options: Any = {"trust_env": False, "timeout": 60}
    with provider.serve() as server, httpx.Client(base_url=server.base_url, **options) as client:
        if error is None:
            assert client.post("/chat/completions", content=BODY).status_code == 503
        else:
            patience = 0.2 if outage.kind == "hanging" else 60
            with pytest.raises(error):
                client.post("/chat/completions", content=BODY, timeout=patience)
        assert client.get("/models").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((5, 5), {}, "0 <= start < end"),
        ((-1, 5), {}, "0 <= start < end"),
        ((0, math.nan), {}, "0 <= start < end"),
        ((0, 5, 418), {}, "kind must be one of"),
        ((0, 5), {"delay": -1}, "delay must be seconds >= 0"),
        ((0, 5, "refused"), {"retry_after": True}, "retry_after needs a kind that is a status"),
        ((0, math.inf, 503), {"retry_after": True}, "retry_after needs a kind that is a status, and an end"),
    ],
)
def test_outage_rejects_invalid_arguments(arguments: Any, options: Any, words: str) -> None:
    """The constructor raises."""
    with pytest.raises(ValueError, match=words):
        Outage(*arguments, **options)
