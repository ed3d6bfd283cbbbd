"""A client: whom it asks, with what key, and how often."""

from __future__ import annotations

from traceback import TracebackException
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from batchrt.errors import AuthenticationError
from batchrt.providers.chat.model import ChatOpenAI
from batchrt.providers.http.client import Client
from tests.providers.http.replies import chat_body

pytestmark = pytest.mark.anyio

KEY = "sk-proj-0123456789"
NAMES = ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without the developer's own settings."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


async def sent_by(**options: Any) -> httpx.Request:
    """Return the request that a model with `options` sends."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=chat_body())

    await ChatOpenAI("m", transport=httpx.MockTransport(handle), **options).ainvoke("hi")
    return seen[0]


async def test_client_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables are those of the openai SDK."""
    for name, value in zip(NAMES, [f" {KEY}\n", "http://host/v2/", "org", "proj"], strict=True):
        monkeypatch.setenv(name, value)
    request = await sent_by()
    assert str(request.url) == "http://host/v2/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["openai-organization"] == "org"
    assert request.headers["openai-project"] == "proj"


async def test_client_arguments_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them; an empty key means no key."""
    for name in NAMES:
        monkeypatch.setenv(name, "http://wrong")
    request = await sent_by(base_url="http://right/v1", api_key=SecretStr(KEY), organization="o", project="p")
    assert str(request.url) == "http://right/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert (request.headers["openai-organization"], request.headers["openai-project"]) == ("o", "p")
    assert "authorization" not in (await sent_by(api_key="")).headers


async def test_client_extra_headers_override_its_own() -> None:
    """In any case: Azure's api-key, a proxy's authorization."""
    extra = {"Authorization": "Token t", "api-key": "k", "User-Agent": "me"}
    request = await sent_by(api_key=KEY, extra_headers=extra)
    assert request.headers.get_list("authorization") == ["Token t"]
    assert (request.headers["api-key"], request.headers["user-agent"]) == ("k", "me")


async def test_client_sends_user_and_password_as_basic_authentication() -> None:
    """They are in no URL, and a key overrides them."""
    request = await sent_by(base_url="http://user:pass@host/v1", api_key="")
    assert str(request.url) == "http://host/v1/chat/completions"
    assert request.headers["authorization"] == "Basic dXNlcjpwYXNz"
    request = await sent_by(base_url="http://user:pass@host/v1", api_key=KEY)
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("key", "mistake"),
    [
        (
            "sk-secret\nsk-other",
            "has a line break as its character 10; it must be the key alone",
        ),
        ("sk-secret\r\nx", "has a line break as its character 10;"),
        ("sk-\tsecret", "has a tab as its character 4;"),
        ("\x1b[31msk-secret", "has a control character as its character 1;"),
        ("sk-secret\u2019", "has no ASCII character as its character 10;"),
        ("Bearer sk-secret", "begins with Bearer, which is added to it; leave that out"),
    ],
)
def test_client_key_that_cannot_be_one_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, key: str, mistake: str
) -> None:
    """The error has the parameter or the variable that it comes from, and the place of the character."""
    with pytest.raises(ValueError, match=r"^api_key ") as given:
        ChatOpenAI("m", api_key=key, base_url="http://host/v1")
    monkeypatch.setenv("OPENAI_API_KEY", f" {key}\n")
    with pytest.raises(ValueError, match=r"^OPENAI_API_KEY ") as found:
        ChatOpenAI("m")
    for caught in (given, found):
        assert mistake in str(caught.value)
        assert caught.tb.tb_next is not None
        frames = TracebackException(caught.type, caught.value, caught.tb.tb_next, capture_locals=True)
        assert "secret" not in "".join(
            line for frame in frames.stack for line in (frame.locals or {}).values()
        )
    ChatOpenAI("m", extra_headers={"Authorization": "Token t"})  # replaces the key


def test_client_key_with_a_space_is_for_local_servers_alone() -> None:
    """They are given words such as `not needed`; OpenAI's keys have none."""
    ChatOpenAI("m", api_key="not needed", base_url="http://host/v1")
    with pytest.raises(ValueError, match="api_key has a space as its character 7"):
        ChatOpenAI("m", api_key="sk-one sk-two")


def test_client_address_of_the_environment_is_named_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a parameter where that is wrong."""
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000")
    with pytest.raises(ValueError, match=r"^OPENAI_BASE_URL must be a URL"):
        ChatOpenAI("m")
    with pytest.raises(ValueError, match=r"^base_url must be a URL"):
        ChatOpenAI("m", base_url="x")


def test_client_needs_a_key_for_openai_alone() -> None:
    """A missing key is an error when the model is made, with the remedy."""
    with pytest.raises(AuthenticationError, match="set OPENAI_API_KEY or pass api_key"):
        ChatOpenAI("m")
    ChatOpenAI("m", base_url="http://localhost:8000/v1")
    ChatOpenAI("m", api_key=KEY)
    ChatOpenAI("m", extra_headers={"authorization": "Bearer x"})
    ChatOpenAI("m", transport=httpx.MockTransport(lambda _: httpx.Response(200)))


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"max_retries": -1},
        {"max_response_bytes": 0},
        {"base_url": "localhost:8000"},
        {"api_key": "sk\n-key"},
        {"extra_headers": {"a b": "c"}},
        {"extra_body": {"messages": []}},
        {"temperature": 3},
    ],
)
def test_client_refuses_options_that_make_no_sense(options: dict[str, Any]) -> None:
    """When the model is made."""
    with pytest.raises(ValueError, match=r"must|cannot|no name"):
        ChatOpenAI("m", **{"base_url": "http://localhost", **options})


CREDENTIALS = [
    *("authorization", "proxy-authorization", "x-api-key", "api-key", "apikey", "x-apikey", "x-goog-api-key"),
    *(
        "ocp-apim-subscription-key",
        "x-portkey-api-key",
        "x-portkey-virtual-key",
        "x-auth-token",
        "x-authtoken",
    ),
    *("x-amz-security-token", "cf-access-client-secret", "cookie", "x-auth", "x-session-token", "x_api_key"),
    *("helicone-auth", "x-password", "x-jwt", "x-access-key", "x-api-key-2"),
]
NO_CREDENTIALS = [
    *(
        "x-portkey-trace-id",
        "x-portkey-provider",
        "x-portkey-metadata",
        "idempotency-key",
        "x-idempotency-key",
    ),
    *("x-monkey", "x-keyword", "x-author", "x-tokenizer", "x-max-tokens", "x-cookie-policy", "x-secretary"),
    *(
        "x-cache-key",
        "x-partition-key",
        "x-trace-key",
        "x-auth-type",
        "x-token-count",
        "x-turkey",
        "x-trace-id",
    ),
]


def quota_of(header: str, value: str) -> object:
    """Return the quota of a client that sends `header`."""
    return Client(base_url="http://host", api_key=KEY, extra_headers={header: value}).quota_of("m")


@pytest.mark.parametrize("header", CREDENTIALS)
def test_credential_headers_are_recognized_by_words(header: str) -> None:
    """Their values are masked, and another value is another account."""
    client = Client(base_url="http://host", extra_headers={header: "a-long-value"})
    assert "a-long-value" in list(client.secrets)
    assert quota_of(header, "a-long-value") is not quota_of(header, "another-value")


@pytest.mark.parametrize("header", NO_CREDENTIALS)
def test_credential_headers_are_not_recognized_by_letters(header: str) -> None:
    """A trace per request makes no quota per request; words of messages are not masked."""
    client = Client(base_url="http://host", api_key=KEY, extra_headers={header: "openai-europe"})
    assert list(client.secrets) == [KEY]
    assert quota_of(header, "openai") is quota_of(header, "anthropic")


@pytest.mark.parametrize("key", ["ollama", "lm-studio", "Not-Needed", "openai", "sk-no-key-required"])
def test_secrets_do_not_include_placeholders(key: str) -> None:
    """Guides of local servers use them, and they are words of messages too."""
    assert not list(Client(base_url="http://host", api_key=key).secrets)


def test_client_repr_hides_the_key() -> None:
    """Nor does the repr of anything that the model holds show it."""
    model = ChatOpenAI("m", base_url=f"http://user:{KEY}@host/v1", api_key=KEY)
    client = Client(base_url="http://host", api_key=KEY, extra_headers={"x-api-key": KEY + "2"})
    for thing in (
        model,
        model.bind(stop="x"),
        client,
        client._transport,
        client._transport._channel,
    ):
        assert KEY not in repr(thing) + str(thing)
    assert repr(model) == "ChatOpenAI(model='m', base_url='http://host')"


def test_secrets_are_masked_and_words_are_not() -> None:
    """Longest first, so that no part of one is left; `none` and `EMPTY` are not secrets."""
    client = Client(
        base_url="http://user:password@host",
        api_key=KEY,
        extra_headers={"x-api-key": KEY + "-longer", "x-team": "research", "cookie": "abc"},
    )
    masked = list(client.secrets)
    assert masked.index(KEY + "-longer") < masked.index(KEY)
    assert set(client.secrets) == {KEY, KEY + "-longer", "dXNlcjpwYXNzd29yZA==",
                                   "Basic dXNlcjpwYXNzd29yZA=="}  # fmt: skip
    assert not list(Client(base_url="http://host", api_key="EMPTY").secrets)
