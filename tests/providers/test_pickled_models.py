"""Pickled models: made again in another process, without keys."""

from __future__ import annotations

import copy
import pickle
import ssl
from typing import Any

import httpx
import pytest

from batchrt import ChatOpenAI, OpenAI, OpenAIEmbeddings, Quota, RetryPolicy, Runnable
from batchrt.errors import AuthenticationError

KEY = "sk-canary-0123456789"
HERE: dict[str, Any] = {"base_url": "http://127.0.0.1:9/v1", "api_key": KEY}


def extra() -> int:
    """Be a tool."""
    return 1


MODELS: list[Runnable[Any, Any]] = [
    ChatOpenAI("m", temperature=0.5, max_retries=7, extra_body={"a": [1]}, native_batch=True, **HERE),
    ChatOpenAI("m", retry_policy=RetryPolicy(patience=5), extra_headers={"x-team": "a"}, **HERE),
    ChatOpenAI("m", **HERE).bind_tools([extra]),
    ChatOpenAI("m", **HERE).with_structured_output({"title": "t", "type": "object", "properties": {}}),
    OpenAI("m", n=2, best_of=3, max_tokens=5, **HERE),
    OpenAIEmbeddings("m", dimensions=8, server="tei", max_batch_tokens=100, truncate=True, **HERE),
]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_pickled_model_is_the_same_without_its_key(model: Runnable[Any, Any]) -> None:
    """It sends the same requests."""
    data = pickle.dumps(model)
    assert KEY.encode() not in data
    again = pickle.loads(data)
    assert (type(again), repr(again)) == (type(model), repr(model))
    assert again.describe().parts == model.describe().parts


def test_pickled_model_takes_the_key_of_its_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """From `OPENAI_API_KEY`; without one, OpenAI's address is an error."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    data = pickle.dumps(ChatOpenAI("m", api_key=KEY))
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        pickle.loads(data)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-other-process")
    again = pickle.loads(data)
    assert list(again._client.secrets) == ["sk-of-the-other-process"]


class Own(ChatOpenAI):
    """A user's subclass."""

    def __init__(self, label: str) -> None:
        super().__init__("m", **HERE)
        self.label = label


def test_pickled_model_of_a_subclass_has_its_attributes() -> None:
    """Its own constructor is not called."""
    again = pickle.loads(pickle.dumps(Own("a")))
    assert (type(again), again.label, again.model) == (Own, "a", "m")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"transport": httpx.MockTransport(lambda _: httpx.Response(200))}, "its own transport"),
        ({"ssl_context": ssl.create_default_context()}, "its own ssl_context"),
        ({"quota": Quota()}, "its own quota"),
        ({"extra_headers": {"X-Api-Key": KEY}}, "credentials in extra_headers"),
        ({"base_url": f"http://user:{KEY}@127.0.0.1:9/v1"}, "credentials in base_url"),
        ({"base_url": f"http://127.0.0.1:9/v1?key={KEY}"}, "credentials in base_url"),
        ({"base_url": f"http://127.0.0.1:9/v1?access_token={KEY}"}, "credentials in base_url"),
    ],
)
def test_pickled_model_would_not_be_whole(options: dict[str, Any], match: str) -> None:
    """What belongs to a process, or is secret, is named."""
    with pytest.raises(TypeError, match=f"a model with {match} cannot be pickled") as caught:
        pickle.dumps(ChatOpenAI("m", **{**HERE, **options}))
    assert KEY not in str(caught.value)


def test_copied_model_keeps_its_key() -> None:
    """A copy stays in its process; it shares the client."""
    model = Own("a")
    for other in (copy.copy(model), copy.deepcopy([model])[0]):
        assert other.label == "a"
        assert list(other._client.secrets) == [KEY]
