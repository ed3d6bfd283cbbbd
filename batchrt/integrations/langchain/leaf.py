"""A LangChain runnable as a leaf: one call of its own `ainvoke` or `invoke`, on one slot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Final

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.llms import LLM, BaseLLM
from langchain_core.output_parsers.base import BaseOutputParser
from langchain_core.prompts.base import BasePromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable as LangChainRunnable
from langchain_core.runnables import RunnablePick
from langchain_core.tools import BaseTool, StructuredTool, Tool
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from batchrt.integrations.langchain.messages import langchain_value
from batchrt.integrations.langchain.tracing import check_loop, has_handlers, langchain_config
from batchrt.runnables.base import Runnable
from batchrt.runnables.keywords import function_takes
from batchrt.runtime.side_stream import Closing
from batchrt.runtime.step import Produce, Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.threads import call_in_thread

__all__ = ["LangChainLeaf"]


class LangChainLeaf(Runnable[Any, Any]):
    """Run a LangChain runnable as it is: a retriever, a tool, a model, a parser, a prompt, a graph.

    Its `ainvoke` runs on the event loop, with LangChain's config, so that callbacks, tags and the run tree
    are its own. A runnable whose async methods are LangChain's default, which calls the sync ones in the
    loop's default executor (a handful of threads), runs its `invoke` in a thread of the run instead.
    """

    def __init__(self, runnable: LangChainRunnable[Any, Any]) -> None:
        self.runnable: LangChainRunnable[Any, Any] = runnable
        self.name: str | None = runnable.get_name()

    def __repr__(self) -> str:
        return self.get_name()

    def _takes(self, keyword: str) -> bool:
        return function_takes((self.runnable.ainvoke,), keyword)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        if _is_quick(self.runnable):
            step = self._quick_step(kwargs)
        else:
            step = self._thread_step(kwargs) if is_sync_only(self.runnable) else self._async_step(kwargs)
        kind = type(self.runnable)
        return step._replace(
            produce=None if kind.astream is LangChainRunnable.astream else self._producer(kwargs),
            transform=None
            if kind.atransform is LangChainRunnable.atransform
            else partial(_transformed, self.runnable, kwargs),
        )

    def _producer(self, kwargs: Mapping[str, Any]) -> Produce:
        def stream(value: Any, config: Any) -> AsyncIterator[Any]:
            return self.runnable.astream(langchain_value(value), config, **kwargs)

        return lambda value, strand: _chunks(partial(stream, value), strand)

    def _async_step(self, kwargs: Mapping[str, Any]) -> Step:
        ainvoke = self.runnable.ainvoke

        async def call(value: Any, strand: Strand) -> Any:
            await strand.take()
            check_loop()
            return await ainvoke(langchain_value(value), langchain_config(strand.config), **kwargs)

        return Step(call)

    def _thread_step(self, kwargs: Mapping[str, Any]) -> Step:
        invoke = self.runnable.invoke

        async def call(value: Any, strand: Strand) -> Any:
            await strand.take()
            config = langchain_config(strand.config)
            given = langchain_value(value)
            return await call_in_thread(lambda value: invoke(value, config, **kwargs), given, strand)

        return Step(call)

    def _quick_step(self, kwargs: Mapping[str, Any]) -> Step:
        """Return the step of a computation that waits for nothing: no slot, no task, no thread."""
        invoke, ainvoke = self.runnable.invoke, self.runnable.ainvoke

        async def call(value: Any, strand: Strand) -> Any:
            config, given = langchain_config(strand.config), langchain_value(value)
            if has_handlers(config):
                check_loop()
                return await ainvoke(given, config, **kwargs)  # async handlers are awaited on this loop
            return invoke(given, config, **kwargs)

        return Step(call)


async def _chunks(stream: Callable[[Any], AsyncIterator[Any]], strand: Strand) -> AsyncIterator[Any]:
    """Yield the chunks of a stream of LangChain's, which is opened with its config."""
    await strand.take()
    check_loop()
    outputs = stream(langchain_config(strand.config))
    async with Closing(outputs):
        async for chunk in outputs:
            yield chunk


async def _transformed(
    runnable: LangChainRunnable[Any, Any],
    kwargs: Mapping[str, Any],
    chunks: AsyncIterator[Any],
    strand: Strand,
) -> AsyncIterator[Any]:
    outputs = _chunks(lambda config: runnable.atransform(_values(chunks), config, **kwargs), strand)
    async with Closing(chunks), Closing(outputs):
        async for chunk in outputs:
            yield chunk


async def _values(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for chunk in chunks:
        yield langchain_value(chunk)


_CORE: Final = "langchain_core."


def _is_quick(runnable: LangChainRunnable[Any, Any]) -> bool:
    """Whether `runnable` is a prompt, a parser or `pick` of LangChain's own, which only compute."""
    kind = type(runnable)
    return kind.__module__.startswith(_CORE) and isinstance(
        runnable, BasePromptTemplate | BaseOutputParser | RunnablePick
    )


_ASYNC_METHODS: Final[tuple[tuple[type, str], ...]] = (
    (BaseRetriever, "_aget_relevant_documents"),
    (BaseTool, "_arun"),
    (BaseChatModel, "_agenerate"),
    (LLM, "_acall"),
    (BaseLLM, "_agenerate"),
)
"""The method by which a kind of runnable is async; the default of each runs the sync one in an executor."""

_SEARCHES: Final = {
    "similarity": "asimilarity_search",
    "similarity_score_threshold": "asimilarity_search_with_score",
    "mmr": "amax_marginal_relevance_search",
}


def is_sync_only(runnable: LangChainRunnable[Any, Any]) -> bool:
    """Whether the async methods of `runnable` are defaults that call the sync ones in a thread."""
    kind = type(runnable)
    if kind.ainvoke is LangChainRunnable.ainvoke:
        return True
    if isinstance(runnable, VectorStoreRetriever):
        search = _SEARCHES.get(runnable.search_type, "")
        return _inherits(type(runnable.vectorstore), VectorStore, search)
    if isinstance(runnable, StructuredTool | Tool):
        return runnable.coroutine is None
    for base, method in _ASYNC_METHODS:
        if isinstance(runnable, base):
            return _inherits(kind, base, method)
    return False


def _inherits(kind: type, base: type, method: str) -> bool:
    own = getattr(kind, method, None)
    return own is not None and own is getattr(base, method, None)
