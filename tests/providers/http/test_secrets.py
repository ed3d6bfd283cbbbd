"""What must not be shown to anybody."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

from batchrt.errors import ProviderError
from batchrt.providers.chat.model import ChatOpenAI
from batchrt.providers.completions.model import OpenAI
from batchrt.providers.embeddings.model import OpenAIEmbeddings
from batchrt.providers.http.secrets import Secrets

KEY = "sk-hidden-from-view"

ASKING: list[Callable[[Any], Any]] = [
    lambda options: ChatOpenAI("m", **options),
    lambda options: ChatOpenAI("m", native_batch=True, **options),
    lambda options: OpenAI("m", **options),
    lambda options: OpenAIEmbeddings("m", **options),
]
ANSWERS = [
    httpx.Response(401, json={"error": {"message": "no"}}),
    httpx.Response(413, json={"error": {"message": "too much"}}),
    httpx.Response(500, text="boom"),
    httpx.Response(200, text="not json"),
    httpx.Response(200, json={"data": [], "choices": []}),
    httpx.Response(200, json={"data": [{"index": 0, "embedding": "%"}], "choices": [{"index": "x"}]}),
]


@pytest.mark.parametrize("asking", ASKING)
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer.status_code} {answer.text[:12]}")
def test_secrets_are_not_in_a_traceback_with_variables(asking: Any, answer: httpx.Response) -> None:
    """In the form of error reporters, for one input and for a list."""

    def respond(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(answer.status_code, content=answer.content)

    options = {"api_key": KEY, "base_url": "http://host/v1", "max_retries": 0}
    model = asking({**options, "transport": httpx.MockTransport(respond)})
    errors: list[Any] = anyio.run(lambda: model.abatch(["a", "b"], return_exceptions=True))
    errors += anyio.run(lambda: (model | str).abatch(["a", "b"], return_exceptions=True))
    for error in errors:
        assert isinstance(error, ProviderError)
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        while shown is not None:
            for frame in shown.stack:
                if "batchrt/providers" in frame.filename.replace("\\", "/"):
                    assert KEY not in json.dumps(frame.locals)
            shown = shown.__cause__ or shown.__context__  # type: ignore[assignment]


def test_secrets_come_longest_first_and_are_not_shown() -> None:
    """One may contain another."""
    secrets = Secrets(["abc", "abcdef"])
    assert list(secrets) == ["abcdef", "abc"]
    assert repr(secrets) == "***"
