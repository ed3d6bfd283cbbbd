"""Answers of a given shape: a model asked for JSON of a schema, and held to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypedDict

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from batchrt.errors import OutputParserError
from batchrt.messages import AIMessage
from batchrt.providers.schemas import strict_schema
from batchrt.providers.wire import ChatInput
from batchrt.runnables.base import Out, Runnable
from batchrt.runtime.run import Step, Strand

__all__ = ["Method", "RawAndParsed", "StructuredChat", "response_format"]

Method = Literal["json_schema", "json_mode"]

_LONGEST_NAME: Final = 64
_FENCE: Final = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL | re.IGNORECASE)
_UNFINISHED: Final = {
    "length": "the answer was cut off at the token limit; raise max_completion_tokens",
    "content_filter": "the answer was cut off by the provider's content filter",
}


class RawAndParsed(TypedDict):
    """What `include_raw=True` gives: the message, and what could or could not be made of it."""

    raw: AIMessage
    parsed: Any
    parsing_error: OutputParserError | None


class StructuredChat(Runnable[ChatInput, Out]):
    """Run `model` with a `response_format` and give what `schema` makes of its answers."""

    def __init__(
        self,
        model: Runnable[ChatInput, AIMessage],
        schema: type[BaseModel] | Mapping[str, Any],
        *,
        method: Method,
        strict: bool | None,
        include_raw: bool,
    ) -> None:
        self._model = model
        self._schema = schema
        self._format = response_format(schema, method=method, strict=strict)
        self._include_raw = include_raw

    def __repr__(self) -> str:
        schema = self._schema
        name = schema.__name__ if isinstance(schema, type) else "dict"
        return f"{self._model!r}.with_structured_output({name})"

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        ask = self._model._step({**kwargs, "response_format": self._format}).call
        finish = self._both if self._include_raw else self._parse

        async def call(value: Any, strand: Strand) -> Any:
            return finish(await ask(value, strand))

        return Step(call)

    def _both(self, message: AIMessage) -> RawAndParsed:
        try:
            parsed = self._parse(message)
        except OutputParserError as error:
            return {"raw": message, "parsed": None, "parsing_error": error}
        return {"raw": message, "parsed": parsed, "parsing_error": None}

    def _parse(self, message: AIMessage) -> Any:
        text = message.text
        if message.refusal:
            raise OutputParserError(f"the model refused: {message.refusal}", text=text)
        fenced = _FENCE.fullmatch(text)
        try:
            return self._validate(fenced[1] if fenced else text)
        except ValueError as error:
            unfinished = _UNFINISHED.get(message.finish_reason or "")
            reason = unfinished or f"the answer does not fit the schema: {_reasons(error)}"
            raise OutputParserError(reason, text=text) from error

    def _validate(self, text: str) -> Any:
        schema = self._schema
        if isinstance(schema, type):
            return schema.model_validate_json(text)
        value = from_json(text)
        if not isinstance(value, dict):
            raise ValueError(f"it is no JSON object but a {type(value).__name__}")  # noqa: TRY004
        return value


def _reasons(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in found[:5]]
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""  # noqa: PLR2004
    return "; ".join(lines) + more


def response_format(
    schema: type[BaseModel] | Mapping[str, Any], *, method: Method, strict: bool | None
) -> dict[str, Any]:
    """Return the request's `response_format`.

    Args:
        schema: a pydantic model, or a JSON schema whose `title` names it.
        method: `json_mode` asks for any JSON object, for servers that know no schemas.
        strict: have the server enforce the schema, which is rewritten as OpenAI demands it;
            `None` does so where the schema can be rewritten.

    Raises:
        ValueError: `strict` was asked for, and the schema cannot be.
        TypeError: `schema` is neither a model nor a dict.
    """
    if method == "json_mode":
        _plain_schema(schema)
        return {"type": "json_object"}
    if method != "json_schema":
        raise ValueError(f"method must be 'json_schema' or 'json_mode', not {method!r}")
    plain = _plain_schema(schema)
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", str(plain.get("title") or "answer"))[:_LONGEST_NAME]
    described: dict[str, Any] = {"name": name, "schema": plain, "strict": False}
    if strict is not False:
        try:
            described |= {"schema": strict_schema(plain), "strict": True}
        except ValueError:
            if strict:
                raise
    return {"type": "json_schema", "json_schema": described}


def _plain_schema(schema: object) -> dict[str, Any]:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    if isinstance(schema, Mapping):
        return dict(schema)
    raise TypeError(
        f"with_structured_output takes a pydantic model or a dict with a JSON schema, not {schema!r}"
    )
