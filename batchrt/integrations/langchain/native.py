"""Models of langchain-openai whose requests our client sends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast
from urllib.parse import urlencode

from langchain_core.runnables import RunnableLambda
from langchain_openai import OpenAIEmbeddings as LangChainEmbeddings
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import SecretStr

from batchrt.integrations.langchain.completions import AsyncRawCompletions, ChatRequests, clients
from batchrt.integrations.langchain.errors import Translate
from batchrt.integrations.langchain.native_chat import NativeChat
from batchrt.providers.embeddings.model import OpenAIEmbeddings
from batchrt.providers.http.client import Client
from batchrt.runnables.base import Runnable

__all__ = ["client_options", "native_model", "native_runnable"]


def native_runnable(source: Any, translate: Translate) -> Runnable[Any, Any] | None:
    """Return a runnable that does what `source` does by our client; `None` if it is no model of OpenAI's.

    Besides chat models these are embedding models, and functions that are a query method of one: their texts
    share requests.

    Raises:
        ValueError: an option of the model cannot be carried; the message names it.
    """
    if isinstance(source, BaseChatOpenAI):
        return NativeChat(native_model(source, translate))
    if isinstance(source, RunnableLambda):
        function = getattr(source, "func", None) or getattr(source, "afunc", None)
        if getattr(function, "__name__", "") not in ("embed_query", "aembed_query"):
            return None
        source = getattr(function, "__self__", None)
    return native_embeddings(source) if type(source) is LangChainEmbeddings else None


def native_model(model: BaseChatOpenAI, translate: Translate) -> BaseChatOpenAI:
    """Return a copy of `model` whose requests our client sends."""
    if isinstance(getattr(model.async_client, "with_raw_response", None), AsyncRawCompletions):
        return model  # a BatchChatOpenAI
    requests = ChatRequests(Client(**client_options(model), model=model.model_name))
    return model.model_copy(update=clients(requests, model, translate))


def client_options(model: BaseChatOpenAI) -> dict[str, Any]:
    """Return the options of our client for those of a LangChain model.

    Raises:
        ValueError: one of them cannot be carried; the message names it.
    """
    _refuse(type(model).__name__, _obstacles(model))
    root = model.root_async_client
    azure = hasattr(model, "azure_endpoint")
    return {
        "base_url": _base_url(model, azure=azure),
        "api_key": "" if azure else model.openai_api_key or "",
        "timeout": model.request_timeout if "request_timeout" in model.model_fields_set else _TIMEOUT,
        "max_retries": root.max_retries,
        "organization": root.organization,
        "project": root.project,
        "extra_headers": {**(root.auth_headers if azure else {}), **(model.default_headers or {})} or None,
        "http_client": model.http_async_client,
    }


def _base_url(model: BaseChatOpenAI, *, azure: bool) -> str:
    root = model.root_async_client
    url = str(root.base_url).rstrip("/")
    if azure and "/deployments/" not in url:
        url = f"{url}/deployments/{model.model_name}"  # as openai's Azure client does for each request
    query = {name: value for name, value in root.default_query.items() if isinstance(value, str)}
    return f"{url}?{urlencode(query)}" if query else url


def _obstacles(model: BaseChatOpenAI) -> Iterator[str]:
    """Yield the options of `model` that our client cannot carry, with what to do."""
    if model.openai_api_key is not None and not isinstance(model.openai_api_key, SecretStr):
        yield "api_key (a function; give the key itself)"
    for name in ("azure_ad_token_provider", "azure_ad_async_token_provider"):
        if getattr(model, name, None) is not None:
            yield f"{name} (give azure_ad_token or an api_key)"
    if model.openai_proxy:
        yield "openai_proxy (set HTTPS_PROXY, which batchrt reads)"
    elif model.http_client is not None and model.http_async_client is None:
        yield "http_client (give http_async_client)"
    if model.http_socket_options is not None:
        yield "http_socket_options"
    if not isinstance(model.request_timeout, int | float | None):
        yield "request_timeout in parts (give seconds)"
    if model.use_responses_api:
        yield "use_responses_api, or an option that implies it (the client calls /chat/completions)"


def _refuse(name: str, obstacles: Iterator[str]) -> None:
    found = ", ".join(obstacles)
    if found:
        raise ValueError(
            f"the client of batchrt cannot carry these options of {name}: {found}; change them, or take a "
            "model of langchain-openai that sends its own requests (from_langchain without native=True)"
        )


_TIMEOUT: Final = 600.0
"""Seconds for a request of a model without a timeout: openai's default and ours. LangChain's model then
waits for ever (findings/langchain-chat-model-waits-without-a-timeout.sh)."""
_EMBEDDING_DEFAULTS: Final[Mapping[str, Any]] = {
    "allowed_special": None,
    "disallowed_special": None,
    "http_client": None,
    "openai_proxy": "",
    "skip_empty": False,
}


def native_embeddings(model: LangChainEmbeddings) -> OpenAIEmbeddings:
    """Return our embedding model with the options of LangChain's.

    A text that is longer than the model's context is an error, where LangChain's averages the vectors of its
    parts.
    """
    fields = type(model).model_fields
    defaults = {**{name: fields[name].default for name in _EMBEDDING_DEFAULTS}, **_EMBEDDING_DEFAULTS}
    found = (
        f"{name}" for name, default in defaults.items() if getattr(model, name) not in (default, None, "")
    )
    _refuse(type(model).__name__, iter(sorted(found)))
    if model.openai_api_key is not None and not isinstance(model.openai_api_key, SecretStr):
        _refuse(type(model).__name__, iter(["api_key (a function; give the key itself)"]))
    extra = dict(model.model_kwargs)
    return OpenAIEmbeddings(
        model.model,
        dimensions=model.dimensions,
        base_url=model.openai_api_base,
        api_key=cast("SecretStr | None", model.openai_api_key),
        organization=model.openai_organization,
        timeout=model.request_timeout if isinstance(model.request_timeout, int | float | None) else 600.0,
        max_retries=model.max_retries,
        extra_headers={**(model.default_headers or {}), **(model.headers or {})} or None,
        extra_body=extra or None,
        max_batch_size=model.chunk_size,
        http_client=model.http_async_client,
    )
