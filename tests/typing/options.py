"""What a type checker makes of a model's options: checked by mypy and pyright, not run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

import httpx

from batchrt import ChatOpenAI, OpenAI, OpenAIEmbeddings, Quota, RetryPolicy


def options_of_every_model(quota: Quota) -> None:
    """The shared options are known by name and type to all three."""
    for model in (ChatOpenAI, OpenAI, OpenAIEmbeddings):
        model("m", base_url="http://127.0.0.1/v1", api_key="k", timeout=None, max_retries=0)
        model("m", quota=quota, retry_policy=RetryPolicy(), extra_headers={"a": "b"}, extra_body={"a": 1})
        model("m", requests_per_minute=None, max_in_flight="unchanged", tokens_per_day=1e6)
        model("m", max_batch_size=5, linger=0.1, max_linger=None, share_lists=True)
        model("m", transport=httpx.AsyncHTTPTransport(), http_client=httpx.AsyncClient())


def options_of_one_kind() -> None:
    """Each model has the options of its kind."""
    ChatOpenAI("m", temperature=0, stop=["x"], max_completion_tokens=5, native_batch=True)
    OpenAI("m", temperature=0, stop="x", max_tokens=5, best_of=2, suffix="x")
    OpenAIEmbeddings("m", dimensions=5, tokenizer="tiktoken", truncate=True)


def options_that_do_not_fit() -> None:
    """A name that does not exist, one of another model, a value of another type."""
    ChatOpenAI("m", temprature=0)  # type: ignore[call-arg]
    ChatOpenAI("m", suffix="x")  # type: ignore[call-arg]
    OpenAIEmbeddings("m", temperature=0)  # type: ignore[call-arg]
    OpenAIEmbeddings("m", timeout="5")  # type: ignore[arg-type]
    ChatOpenAI("m", max_in_flight="unlimited")  # type: ignore[arg-type]
    OpenAI("m", max_completion_tokens=5)  # type: ignore[call-overload]
