"""The registry: one quota for each endpoint, key and model of a process, and no secret in it."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import MagicMock, Mock

import anyio
import httpx
import pytest

from batchrt import ChatOpenAI, LimitChanged, OpenAI, OpenAIEmbeddings, Quota, RateLimitError
from batchrt.limits import registry as quotas
from batchrt.limits.events import QuotaEvent
from batchrt.limits.shared.memory_carrier import MemoryCarrier
from batchrt.providers.base import Model
from batchrt.runtime.run import Run
from batchrt.testing import FaultPlan, MockProvider, Outage, RateLimits
from tests.limits.quotas import BACKENDS, virtually
from tests.providers.http.replies import chat_body

KEY = "sk-a-very-secret-key-0123456789"
KINDS: list[Callable[..., Model[Any, Any]]] = [ChatOpenAI, OpenAI, OpenAIEmbeddings]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clear the environment variables."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    # A book of its own for each test.
    monkeypatch.setattr(quotas, "_registries", [])


def chat(model: str = "m", **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model, **{"base_url": "http://host/v1", "api_key": KEY, **options})


def test_registry_shares_a_quota_for_the_same_endpoint_key_and_model() -> None:
    """Whatever else they are told, and whatever kind of model they are."""
    assert chat().quota is chat(temperature=1, timeout=3, max_retries=9).quota
    made = [kind("m", base_url="http://host/v1", api_key=KEY) for kind in KINDS]
    assert len({id(model.quota) for model in made}) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "http://other/v1"},
        {"base_url": "http://host:81/v1"},
        {"base_url": "https://host/v1"},
        {"base_url": "http://host/v2"},
        {"api_key": "another"},
        {"organization": "o"},
        {"project": "p"},
        {"model": "n"},
        {"extra_headers": {"X-API-Key": "t"}},
        {"transport": httpx.MockTransport(lambda _: httpx.Response(200))},
    ],
    ids=lambda options: next(iter(options)),
)
def test_registry_has_another_quota_for_another_endpoint_key_or_model(options: dict[str, Any]) -> None:
    """Their limits are not each other's business."""
    assert chat(**options).quota is not chat().quota
    assert chat(**options).quota is chat(**options).quota


def test_registry_ignores_headers_that_are_no_credentials() -> None:
    """A header that names a trace or a team is sent to the same account."""
    assert (
        chat(extra_headers={"x-trace": "1"}).quota
        is chat(extra_headers={"x-trace": "2"}).quota
        is chat().quota
    )


def test_registry_normalizes_addresses() -> None:
    """A slash at the end, a name in capitals, a port that goes without saying."""
    for written in ("http://host/v1/", "http://HOST/v1", "http://host:80/v1", "HTTP://host/v1"):
        assert chat(base_url=written).quota is chat().quota


def test_registry_treats_environment_variables_like_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key, address, organization and project."""
    explicit = chat(organization="o", project="p").quota
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://host/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "o")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "p")
    assert ChatOpenAI("m").quota is explicit


def test_registry_separates_transports_of_the_users() -> None:
    """They may lead anywhere; models that use the same one share a quota."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=chat_body())

    one, two = httpx.MockTransport(answer), httpx.MockTransport(answer)
    assert chat(transport=one).quota is chat(transport=one).quota
    assert chat(transport=one).quota is not chat(transport=two).quota
    assert chat(transport=one, model="n").quota is not chat(transport=one).quota


def test_registry_separates_clients_of_the_users() -> None:
    """As their transports."""
    one, two = httpx.AsyncClient(), httpx.AsyncClient()
    assert chat(http_client=one).quota is chat(http_client=one).quota
    assert chat(http_client=one).quota is not chat(http_client=two).quota


def test_registry_shares_a_quota_for_transports_to_one_mock_provider() -> None:
    """It is made anew for each model, and leads to the same place."""
    provider, other = MockProvider(), MockProvider()
    shared = chat(transport=provider.transport()).quota
    assert chat(transport=provider.transport()).quota is shared
    assert chat(transport=other.transport()).quota is not shared


class Plain(httpx.AsyncBaseTransport):
    """Objects that a user may pass as a transport or a client."""

    build_request = send = httpx.AsyncBaseTransport.handle_async_request


class Bare:
    """Not to be referred to weakly, and not hashable."""

    __slots__ = ("_anything",)
    __hash__ = None  # type: ignore[assignment]

    handle_async_request = build_request = send = httpx.AsyncBaseTransport.handle_async_request


class Named(Plain):
    endpoint = "https://gateway.example"


@dataclass
class Unhashable(Plain):
    base: str = "x"


class Empty(Plain):
    def __len__(self) -> int:
        return 0


class Alike(Plain):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike)

    def __hash__(self) -> int:
        return 1


class Strange(Plain):
    def __eq__(self, other: object) -> bool:
        raise NotImplementedError

    def __hash__(self) -> int:
        raise NotImplementedError

    def __bool__(self) -> bool:
        raise NotImplementedError


class Wrapper(Plain):
    def __getattr__(self, name: str) -> Any:
        return Wrapper()


TRANSPORTS: list[Callable[[], Any]] = [
    Bare,
    Named,
    Unhashable,
    Empty,
    Alike,
    Strange,
    Wrapper,
    Mock,
    MagicMock,
]


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("way", ["transport", "http_client"])
def test_registry_identifies_a_transport_by_identity_alone(kind: Callable[[], Any], way: str) -> None:
    """Its hash, equality, attributes and slots mean nothing; a given limit holds."""
    one, two = kind(), kind()
    for model in ("m", "n"):
        quota = chat(model, **{way: one}, requests_per_minute=60).quota
        assert chat(model, **{way: one}).quota is quota
        assert chat(model, **{way: one}).quota.statistics().limits == {"requests_per_minute": 60}
        assert chat(model, **{way: two}).quota is not quota
        assert chat(model).quota is not quota
    made = [each("m", base_url="http://host/v1", api_key=KEY, **{way: one}) for each in KINDS]
    assert len({id(model.quota) for model in made}) == 1


@pytest.mark.parametrize("kind", [Plain, Unhashable, Alike])
def test_registry_does_not_mistake_a_new_transport_for_a_collected_one(kind: Callable[[], Any]) -> None:
    """Which may come to lie where it lay."""
    for _ in range(6):
        assert not chat(transport=kind(), requests_per_minute=60).quota.statistics().in_flight
        assert not chat(transport=kind()).quota.statistics().limits
        gc.collect()
    assert len(quotas._registries[0]._owners) <= 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "trouble",
    [
        {"rate_limits": RateLimits(requests_per_minute=60, burst_seconds=1, headers="none")},
        {"rate_limits": RateLimits(max_parallel_requests=2, headers="none")},
        {"faults": FaultPlan.everything(0.3, seed=1)},
        {"outages": [Outage(0.0, 5.0, 503)]},
    ],
    ids=["rate", "in flight", "faults", "outage"],
)
def test_registry_quota_keeps_no_run_and_no_transport(backend: str, trouble: dict[str, Any]) -> None:
    """A quota that holds what leads to its transport would stay for ever, and every run that it refused."""
    before = runs_alive()

    def use() -> None:
        provider = MockProvider(latency=0.1, **trouble)
        model = chat(transport=provider.transport(), max_retries=1)
        virtually(backend, lambda: model.arun(["a"] * 30, {"max_concurrency": 8}))

    for _ in range(3):
        use()
    assert runs_alive() <= before
    assert not quotas._registries[0]._owners


def runs_alive() -> int:
    """Return the number of runs that no garbage collection frees."""
    gc.collect()
    return sum(type(thing) is Run for thing in gc.get_objects())


def test_registry_bounds_transports_without_weak_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest are kept, with their quotas."""
    monkeypatch.setattr(quotas, "_KEPT", 3)
    kept = Bare()
    quota = chat(transport=kept).quota
    for _ in range(10):
        chat(transport=Bare())
        assert chat(transport=kept).quota is quota
    assert len(quotas._registries[0]._owners) == len(quotas._registries[0]._kept) == 3


def test_registry_is_not_asked_where_a_quota_is_given() -> None:
    """For every model name, and for every other model that has it."""
    quota = Quota(requests_per_minute=60)
    for kind in KINDS:
        assert kind("m", base_url="http://host/v1", api_key=KEY, quota=quota).quota is quota
    assert chat("n", quota=quota).quota is quota
    assert chat().quota is not quota


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["requests_per_minute", "tokens_per_minute", "requests_per_day", "tokens_per_day", "max_in_flight"],
)
def test_registry_sets_limits_that_models_are_given(kind: Callable[..., Model[Any, Any]], name: str) -> None:
    """They are given to the quota, and not beside one that is handed in."""
    options = {"base_url": "http://host/v1", "api_key": KEY, name: 7}
    assert f"{name}=7" in repr(kind("m", **options).quota)
    assert f"{name}=7" in repr(kind("m", base_url="http://host/v1", api_key=KEY).quota), "it is shared"
    with pytest.raises(ValueError, match=f"give {name} to the quota that you pass"):
        kind("m", quota=Quota(), **options)
    with pytest.raises(ValueError, match=f"{name} must be"):
        kind("m", **{**options, name: 0})
    with pytest.raises(TypeError, match=f"{name} must be"):
        kind("m", **{**options, name: "7"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["requests_per_minute", "tokens_per_minute", "requests_per_day", "tokens_per_day", "max_in_flight"],
)
def test_registry_limits_follow_the_latest_value_and_none_lifts_them(
    kind: Callable[..., Model[Any, Any]], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For all models that share the quota; omitted limits stay, and the quota shows them."""
    events: list[QuotaEvent] = []

    def make(**options: Any) -> Quota:
        return kind("m", base_url="http://host/v1", api_key=KEY, **options).quota

    caplog.set_level(logging.INFO, "batchrt")
    quota = make()
    with quota.listening(events.append):
        for said, holds in [({}, None), ({name: 7}, 7), ({}, 7), ({name: 5}, 5), ({name: 5}, 5)]:
            assert make(**said) is quota
            assert quota.statistics().limits == ({} if holds is None else {name: holds})
        assert make(**{name: "unchanged"}).statistics().limits == {name: 5}
        assert make(**{name: None}).statistics().limits == {}
        assert repr(quota) == "Quota()"
        make(**{name: None})
    assert events == [
        LimitChanged(name, None, 7, "given by hand"),
        LimitChanged(name, 7, 5, "given by hand"),
        LimitChanged(name, 5, None, "lifted by hand"),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        f"{name} of a quota that others may share was 7, and is 5 now",
        f"{name} of a quota that others may share was 5, and is none now",
    ]


def test_registry_refuses_limits_beside_a_given_quota() -> None:
    """A wrapper that passes `None` on says nothing about them."""
    quota = Quota(max_in_flight=3)
    assert chat(quota=quota, max_in_flight=None, requests_per_minute=None).quota is quota
    assert quota.statistics().limits == {"max_in_flight": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_registry_refuses_an_argument_that_is_no_quota(kind: Callable[..., Model[Any, Any]]) -> None:
    """A number is none, and is refused before anything is sent."""
    with pytest.raises(TypeError, match="quota must be a Quota, not int"):
        kind("m", base_url="http://host/v1", api_key=KEY, quota=5)
    with pytest.raises(TypeError, match="retry_policy must be a RetryPolicy, not int"):
        kind("m", base_url="http://host/v1", api_key=KEY, retry_policy=5)


def test_registry_shares_a_quota_with_a_bound_model() -> None:
    """The name that is sent counts."""
    provider = MockProvider()
    transport = provider.transport()
    model, other = chat(transport=transport), chat("n", transport=transport)
    names: list[str] = []

    async def main() -> None:
        with (
            model.quota.listening(lambda _: names.append("m")),
            other.quota.listening(lambda _: names.append("n")),
        ):
            await model.bind(model="n").ainvoke("hi")
            await model.ainvoke("hi")

    anyio.run(main)
    assert names == ["n", "m"]


def test_registry_bounds_quotas_that_are_not_in_use() -> None:
    """A model that is made for each request still finds the quota; thousands of names do not pile up."""
    first = chat("kept").quota
    reference = weakref.ref(first)
    limited = chat("forgotten", requests_per_minute=5).quota
    forgotten = weakref.ref(limited)
    del first, limited
    gc.collect()
    assert chat("kept").quota is reference()
    for number in range(quotas._KEPT + 10):
        quotas.shared_quota(b"x", f"{number}")
    gc.collect()
    assert forgotten() is None
    assert len(quotas._registries[0]._recent) == quotas._KEPT
    assert len(quotas._registries[0]._alive) == quotas._KEPT


def test_registry_never_forgets_a_quota_in_use() -> None:
    """Otherwise two models with the same key would not share."""
    model = chat()
    quota = model.quota
    for number in range(quotas._KEPT + 10):
        quotas.shared_quota(b"x", f"{number}")
    assert chat().quota is quota
    assert model.quota is quota


def test_registry_forgets_quotas_with_their_transport() -> None:
    """Nothing of a test's mock stays in the process."""
    provider = MockProvider()
    reference = weakref.ref(chat(transport=provider.transport()).quota)
    del provider
    gc.collect()
    assert reference() is None


def test_registry_is_new_in_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks may be held, and the parent's requests do not end in it."""
    quota = chat().quota
    monkeypatch.setattr(os, "getpid", lambda: 0)  # another process, as far as anybody can tell
    assert chat().quota is not quota


def test_registry_shows_no_key() -> None:
    """Not in a quota, its events and statistics, the registry or a model."""
    events: list[QuotaEvent] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        message = f"key {request.headers['authorization']} is over its limit"
        return httpx.Response(429, json={"error": {"message": message}}, headers={"retry-after": "500"})

    async def main() -> RateLimitError:
        model = chat(transport=httpx.MockTransport(refuse), organization="org-secret")
        with model.quota.listening(events.append), pytest.raises(RateLimitError) as caught:
            await model.ainvoke("hi")
        quota = model.quota
        shown = [repr(quota), str(quota), repr(quota.statistics()), repr(model)]
        assert all(KEY not in text for text in shown)
        return caught.value

    error = anyio.run(main)
    assert events
    assert KEY not in repr(events)
    assert KEY not in repr(error)
    assert KEY not in str(error)
    assert KEY.encode() not in pickle.dumps(error)
    chat()
    registry = quotas._registries[0]
    assert KEY not in repr([vars(registry), dict(registry._alive), dict(registry._recent)])
    for account, _ in registry._recent:
        assert KEY.encode() not in account
        assert len(account) == 16


def test_registry_shares_the_quotas_made_after_share_quotas(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the carrier, and a name of their own; those of a transport do not."""
    monkeypatch.setattr(quotas, "_registries", [])
    before = quotas.shared_quota(b"account", "before")
    quotas.share_quotas(MemoryCarrier())
    one, two = (quotas.shared_quota(b"account", model) for model in ("one", "two"))
    assert quotas.shared_quota(b"account", "one") is one
    statuses = [
        quota.statistics().shared for quota in (before, one, two, quotas.shared_quota(b"a", "m", object))
    ]
    assert [None if status is None else status.name for status in statuses] == [
        None,
        f"{b'account'.hex()} one",
        f"{b'account'.hex()} two",
        None,
    ]
