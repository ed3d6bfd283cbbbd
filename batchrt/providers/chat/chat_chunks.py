"""Chunks of a chat's answer, read from the events of its stream; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from io import StringIO
from operator import add
from typing import Any

from batchrt.messages import AIMessageChunk, Content, Usage
from batchrt.providers.chat.messages_json import read_chat
from batchrt.providers.chat.tool_call_fragments import ToolCallFragments
from batchrt.providers.choices import parts_of, reasoning_of, refusal_of
from batchrt.providers.chunk_reader import ChunkReader
from batchrt.providers.http.response import Reply
from batchrt.providers.http.secrets import Secrets
from batchrt.providers.response_body import ShapeError, malformed

__all__ = ["ChatChunks"]


class ChatChunks(ChunkReader[AIMessageChunk]):
    """Read deltas of a message; see `ChunkReader` for the arguments.

    A delta without a content that is not empty, a reasoning, a refusal, a tool call, log probabilities or a
    finish reason is no chunk. Texts are kept once more, for the error of a stream that breaks off; and of
    chunks that hold more, which are rare, the rest.
    """

    def __init__(self, head: Reply, secrets: Secrets, wall: Callable[[], float]) -> None:
        super().__init__(head, secrets, wall)
        self._text, self._thoughts = StringIO(), StringIO()
        self._others: list[AIMessageChunk] = []
        self._calls = ToolCallFragments()
        self._model: str | None = None
        self._is_null = True
        # Of the chunks that were delivered:
        self._has_chunk = self._has_model = False
        self._all_null = True

    def _whole(self, reply: Reply) -> tuple[AIMessageChunk, Usage | None]:
        message = read_chat(reply, self._secrets, self._wall)
        return AIMessageChunk.of(message), message.usage

    def partial(self) -> AIMessageChunk:
        """Return the sum of the chunks so far."""
        text = AIMessageChunk(
            self._text.getvalue(),
            reasoning=self._thoughts.getvalue() or None,
            model=self._model,
            request_id=self.request_id,
            usage=self.usage,
            is_null=self._is_null,
        )
        return reduce(add, self._others, text)

    def _chunk(self, choice: Mapping[str, Any], data: Mapping[str, Any]) -> AIMessageChunk | None:
        delta = self._delta(choice)
        content = delta.get("content")
        if isinstance(content, str):
            self._is_null = False
        elif content is not None:
            content = self._parts(content)
        if self._model is None:
            model = data.get("model")
            self._model = model if isinstance(model, str) and model else None
        others: dict[str, Any] = {}
        plain = len(delta) == 1 and isinstance(content, str)
        if not plain or choice.get("logprobs") or choice.get("finish_reason"):
            others = self._others_of(choice, delta, content)
        reasoning = others.pop("reasoning", None)
        if not content and not reasoning and not others:
            return None
        if reasoning is not None:
            self._thoughts.write(reasoning)
        if isinstance(content, str):
            self._text.write(content)
            if others:
                self._others.append(AIMessageChunk("", is_null=True, **others))
        else:
            self._others.append(AIMessageChunk(content or "", is_null=True, **others))
        return self._made(content or "", reasoning=reasoning, **others)

    def _last(self) -> AIMessageChunk | None:
        news = self.usage is not None or self._all_null != self._is_null
        if news or not self._has_chunk or (self._model is not None and not self._has_model):
            return self._made("", usage=self.usage)
        return None

    def _made(self, content: Content, **members: Any) -> AIMessageChunk:
        """Return a chunk, with the members that the first one has of all."""
        if not self._has_chunk:
            self._has_chunk = True
            members["request_id"] = self.request_id
        if not self._has_model and self._model is not None:
            self._has_model = True
            members["model"] = self._model
        self._all_null = self._is_null
        return AIMessageChunk(content, is_null=self._is_null, **members)

    def _delta(self, choice: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the delta in a choice, or a message or text that stands in for the first."""
        delta = choice.get("delta")
        if isinstance(delta, dict):
            return delta
        if not self._has_chunk:
            message, text = choice.get("message"), choice.get("text")
            if isinstance(message, dict):
                return message
            if isinstance(text, str):
                return {"content": text}
        return {}

    def _parts(self, content: object) -> Content:
        self._is_null = False
        try:
            return parts_of(content, "delta.content")
        except ShapeError as error:
            raise malformed(str(error), self._head, self._secrets) from None

    def _others_of(
        self, choice: Mapping[str, Any], delta: Mapping[str, Any], content: object
    ) -> dict[str, Any]:
        """Return the members of a chunk beside its content."""
        others: dict[str, Any] = {}
        if calls := delta.get("tool_calls"):
            others["raw_tool_calls"] = self._calls.placed(calls)
        if refusal := refusal_of(delta, content):
            others["refusal"] = refusal
        if reasoning := reasoning_of(delta, content):
            others["reasoning"] = reasoning
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict) and logprobs:
            others["logprobs"] = logprobs
        if reason := self._ended(choice):
            others["finish_reason"] = reason
        return others
