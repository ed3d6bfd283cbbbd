"""The snippets of the migration guide: with our imports, and by the bridge, they do what LangChain does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import langchain_core.callbacks
import langchain_core.messages
import langchain_core.output_parsers
import langchain_core.prompts
import langchain_core.rate_limiters
import langchain_core.runnables
import langchain_core.tools
import langchain_core.vectorstores
import pytest
from pydantic import BaseModel, SecretStr

import batchrt
from batchrt.integrations.langchain import BatchChatOpenAI, BatchOpenAIEmbeddings, from_langchain
from batchrt.testing import MockServer
from tests.integrations.langchain.snippets import BRIDGED, UNCHANGED

GUIDE = Path(__file__).parents[3] / "docs" / "lcel.md"


def langchain_names(server: MockServer) -> dict[str, Any]:
    """Return what a snippet finds in a file with LangChain's imports."""
    names: dict[str, Any] = {}
    for module in (
        langchain_core.callbacks,
        langchain_core.messages,
        langchain_core.output_parsers,
        langchain_core.prompts,
        langchain_core.rate_limiters,
        langchain_core.runnables,
        langchain_core.tools,
        langchain_core.vectorstores,
    ):
        names.update({name: getattr(module, name) for name in module.__all__})
    model = BatchChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key=SecretStr("k"))
    embeddings = BatchOpenAIEmbeddings("text-embedding-3-small", base_url=server.base_url, api_key="k")
    return {**names, "model": model, "embeddings": embeddings}


def our_names(server: MockServer) -> dict[str, Any]:
    """Return what it finds with ours."""
    options: Any = {"base_url": server.base_url, "api_key": "k"}
    model = batchrt.ChatOpenAI("gpt-5-mini", **options)
    embeddings = batchrt.OpenAIEmbeddings("text-embedding-3-small", **options)
    return {
        **{name: getattr(batchrt, name) for name in batchrt.__all__},
        "model": model,
        "embeddings": embeddings,
    }


def run(code: str, names: dict[str, Any], bridge: Callable[[Any], Any]) -> Any:
    """Return the `result` of a snippet."""
    scope = {**names, "bridge": bridge, "itemgetter": itemgetter, "asyncio": asyncio, "BaseModel": BaseModel}
    exec(compile(code, "snippet", "exec"), scope)
    return scope["result"]


@pytest.mark.parametrize("name", UNCHANGED)
def test_snippets_run_unchanged(name: str, server: MockServer) -> None:
    """With LangChain's imports replaced by ours, and as it is by LangChain, the result is the same."""
    expected = run(UNCHANGED[name], langchain_names(server), lambda chain: chain)
    assert run(UNCHANGED[name], our_names(server), lambda chain: chain) == expected


@pytest.mark.parametrize("name", BRIDGED)
def test_snippets_run_by_the_bridge(name: str, server: MockServer) -> None:
    """What only LangChain has runs by `from_langchain`, with its own imports."""
    expected = run(BRIDGED[name], langchain_names(server), lambda chain: chain)
    for bridge in (from_langchain, partial(from_langchain, native=True)):
        assert run(BRIDGED[name], langchain_names(server), bridge) == expected


def test_snippets_stand_in_the_guide() -> None:
    """The guide's table has a line for each, by its name, and none besides."""
    table = re.findall(r"^\| ([^|]+?) +\| (as is|bridge) ", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(table) == dict.fromkeys(UNCHANGED, "as is") | dict.fromkeys(BRIDGED, "bridge")
    assert len(table) == 47
