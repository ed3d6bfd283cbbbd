"""LangChain's standard tests of models (package `langchain-tests`), against ours before the mock server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from batchrt.integrations.langchain import BatchChatOpenAI, BatchOpenAIEmbeddings
from batchrt.testing import MockProvider, MockServer

unit = pytest.importorskip("langchain_tests.unit_tests", reason="needs langchain-tests")
integration = pytest.importorskip("langchain_tests.integration_tests", reason="needs langchain-tests")

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"model": "gpt-5-mini", "api_key": "k", "max_retries": 0}
EMBEDDINGS: dict[str, Any] = {"model": "text-embedding-3-small", "api_key": "k"}


def served() -> MockServer:
    """Start a server for all tests: their classes are asked for options before fixtures run."""
    server = MockProvider().serve()
    server.__enter__()
    return server


SERVER = served()


@pytest.fixture
def benchmark() -> Any:
    """Call a function once: times are none of these tests' business."""
    return lambda function, *args, **kwargs: function(*args, **kwargs)


@pytest.fixture
def vcr() -> Any:
    """Be a cassette without a record, for the one test of a stream that asks for one."""
    return SimpleNamespace(responses=[])


class TestChatModelUnit(unit.ChatModelUnitTests):  # type: ignore[name-defined, misc]
    """Options, tools, structured output, serialization."""

    @property
    def chat_model_class(self) -> Any:
        return BatchChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**CHAT, "base_url": SERVER.base_url}


class TestChatModelIntegration(integration.ChatModelIntegrationTests):  # type: ignore[name-defined, misc]
    """Answers and streams; the mock does not call tools."""

    has_tool_calling = False
    has_structured_output = False
    supports_json_mode = False

    @property
    def chat_model_class(self) -> Any:
        return BatchChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**CHAT, "base_url": SERVER.base_url}


class TestEmbeddingsUnit(unit.EmbeddingsUnitTests):  # type: ignore[name-defined, misc]
    """Options."""

    @property
    def embeddings_class(self) -> Any:
        return BatchOpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {**EMBEDDINGS, "base_url": SERVER.base_url}


class TestEmbeddingsIntegration(integration.EmbeddingsIntegrationTests):  # type: ignore[name-defined, misc]
    """Vectors of queries and documents, sync and async."""

    @property
    def embeddings_class(self) -> Any:
        return BatchOpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {**EMBEDDINGS, "base_url": SERVER.base_url}
