"""A chat model of langchain-openai as a step, without LangChain's bookkeeping while no handler listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from langchain_core.globals import get_llm_cache
from langchain_core.messages import AIMessage
from langchain_openai.chat_models.base import BaseChatOpenAI

from batchrt.errors import ProviderError
from batchrt.integrations.langchain.completions import AsyncRawCompletions, completion_of, wire_of
from batchrt.integrations.langchain.errors import raise_as
from batchrt.integrations.langchain.leaf import LangChainLeaf
from batchrt.integrations.langchain.messages import langchain_value
from batchrt.integrations.langchain.tracing import check_loop, has_handlers, langchain_config
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["NativeChat"]


class NativeChat(LangChainLeaf):
    """Run a chat model whose client is ours.

    LangChain's `ainvoke` costs about a millisecond of bookkeeping for callbacks and caches. Where there are
    neither, the request is built, sent and read by the model's own methods without it: the methods that
    langchain-openai's subclasses for other providers override too.
    """

    def __init__(self, model: BaseChatOpenAI) -> None:
        super().__init__(model)
        self.model: BaseChatOpenAI = model

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        whole = super()._build(kwargs)
        if not _is_plain(self.model) or "stream" in kwargs:
            return whole
        options = {name: value for name, value in kwargs.items() if name not in _OF_TRACERS}
        raw: AsyncRawCompletions = self.model.async_client.with_raw_response
        send = raw.requests._step()

        async def call(value: Any, strand: Strand) -> Any:
            if has_handlers(langchain_config(strand.config)) or (
                self.model.cache is not False and get_llm_cache() is not None
            ):
                return await whole.call(value, strand)
            payload = self.model._get_request_payload(langchain_value(value), **options)
            if "messages" not in payload:  # for the Responses API, which openai's own client sends
                return await whole.call(value, strand)
            check_loop()
            try:
                answer = await send.call(wire_of(payload), strand)
            except ProviderError as error:
                raise_as(raw.translate(error), error)
            return self._message(payload, answer)

        return whole._replace(call=call)

    def _message(self, payload: Mapping[str, Any], answer: Any) -> AIMessage:
        result = self.model._create_chat_result(completion_of(answer, payload), {})
        first: Any = result.generations[0]
        message: AIMessage = first.message
        whole = (result.llm_output or {}) if len(result.generations) == 1 else {}
        message.response_metadata = {**whole, **(first.generation_info or {}), **message.response_metadata}
        if message.id is None:
            message.id = f"lc_run--{uuid4()}-0"
        return message


_OF_TRACERS = ("ls_structured_output_format", "structured_output_format")
"""Arguments that LangChain binds for tracers alone."""


def _is_plain(model: BaseChatOpenAI) -> bool:
    """Whether only callbacks and a global cache stand between the model's `ainvoke` and its request."""
    return (
        model.cache in (None, False)
        and model.rate_limiter is None
        and not model.callbacks
        and not model.verbose
        and not model.include_response_headers
        and not model.streaming
        and model.output_version in (None, "v0")
        and type(model)._agenerate is BaseChatOpenAI._agenerate
        and type(model).ainvoke is BaseChatOpenAI.ainvoke
        and isinstance(getattr(model.async_client, "with_raw_response", None), AsyncRawCompletions)
    )
