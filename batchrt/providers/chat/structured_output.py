"""Structured output: a chat model whose answers are JSON of a schema, validated, and asked for again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypedDict, is_typeddict

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from batchrt.errors import BadRequestError, BatchError, MalformedResponseError, OutputParserError
from batchrt.limits.error_kinds import Failure
from batchrt.messages import AIMessage, HumanMessage, Message
from batchrt.providers.chat.json_schema import SchemaError, check_schema
from batchrt.providers.chat.messages_json import ChatInput, conversation
from batchrt.providers.chat.strict_schema import strict_schema
from batchrt.providers.chat.tools import tool_of, typed_dict_schema
from batchrt.runnables.base import Out, Runnable
from batchrt.runnables.description import Description, part
from batchrt.runnables.embedded_json import NotJSONError, first_fitting
from batchrt.runnables.parsers import json_value
from batchrt.runtime.step import Step, StepCall
from batchrt.runtime.strand import Strand

__all__ = ["Method", "RawAndParsed", "StructuredChat", "response_format"]

Method = Literal["json_schema", "function_calling", "json_mode"]

_LONGEST_NAME: Final = 64
_SHOWN: Final = 8_000
"""Characters of an invalid answer that are sent back to the model when it is asked again."""
_UNFINISHED: Final = {
    "length": "the answer was cut off at the token limit; raise max_completion_tokens",
    "max_tokens": "the answer was cut off at the token limit; raise max_completion_tokens",
    "content_filter": "the answer was cut off by the provider's content filter",
    "safety": "the answer was cut off by the provider's content filter",
}
"""Values of `finish_reason`, in lower case, after which the model is not asked again: it would be cut off
again."""


class RawAndParsed(TypedDict):
    """The output with `include_raw=True`: the message, and its parsed value or the error."""

    raw: AIMessage
    parsed: Any
    parsing_error: OutputParserError | None


class StructuredChat(Runnable[ChatInput, Out]):
    """Run `model` with a `response_format`, or a tool to call, and parse its answers by `schema`.

    After an answer that does not fit the model is asked again with the reason, `max_reasks` times at most,
    and as long as the retry budget of the model's quota allows it.
    """

    def __init__(
        self,
        model: Runnable[ChatInput, AIMessage],
        schema: type[Any] | Mapping[str, Any],
        *,
        method: Method,
        strict: bool | None,
        include_raw: bool,
        max_reasks: int = 1,
    ) -> None:
        if isinstance(max_reasks, bool) or not isinstance(max_reasks, int):
            raise TypeError(f"max_reasks must be a whole number, not {max_reasks!r}")
        if max_reasks < 0:
            raise ValueError(f"max_reasks must be 0 or more, not {max_reasks}")
        if isinstance(schema, Mapping):
            try:
                check_schema(schema)
            except SchemaError as error:
                raise ValueError(f"the schema {error}") from error
        self._model = model
        self._schema = schema
        self.OutputType: Any = schema if _is_model(schema) and not include_raw else dict[str, Any]
        self._format = _request_options(schema, method=method, strict=strict)
        # In strict mode a server may refuse more than `strict_schema` knows.
        self._loose = (
            _request_options(schema, method=method, strict=False)
            if strict is None and _is_strict(self._format)
            else None
        )
        self._name = _name_of(_plain_schema(schema))
        self._calls = method == "function_calling"
        self._include_raw = include_raw
        self._wanted = self._format  # `_format` may become the loose one
        self._max_reasks = max_reasks

    def __repr__(self) -> str:
        schema = self._schema
        name = schema.__name__ if isinstance(schema, type) else "dict"
        return f"{self._model!r}.with_structured_output({name})"

    def _takes(self, keyword: str) -> bool:
        return self._model._takes(keyword)

    def _keyword_hint(self, keyword: str) -> str:
        return self._model._keyword_hint(keyword)

    def describe(self, kwargs: Mapping[str, Any] | None = None) -> Description:
        """Return what the outputs depend on; see `Runnable.describe`."""
        described = self._model.describe({**(kwargs or {}), **self._wanted})
        form = part("output", (self._include_raw, self._max_reasks, self._schema))
        kind: Any = self._schema if _is_model(self._schema) and not self._include_raw else None
        return described._replace(parts=(*described.parts, form), output_type=kind)

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        ask = self._caller(kwargs)
        finish = self._finished if self._include_raw else _raise_or_parsed

        async def call(value: Any, strand: Strand) -> Any:
            message = await ask(value, strand)
            try:
                return finish(message, self._parse(message), None)
            except OutputParserError as error:
                misfit = error
            self._forget(value, strand, kwargs)
            if self._max_reasks and _is_worth_asking_again(message):
                return finish(*await self._ask_again(ask, value, strand, message, misfit))
            return finish(message, None, misfit)

        return Step(call)

    def _forget(self, value: Any, strand: Strand, kwargs: Mapping[str, Any]) -> None:
        """Remove an answer that does not fit from the response cache, so that the next run asks anew."""
        forget = getattr(self._model, "forget", None)
        for form in (self._format, self._loose):
            if form is not None and forget is not None:
                forget(value, strand, {**kwargs, **form})

    def _caller(self, kwargs: Mapping[str, Any]) -> StepCall:
        """Return the model's call, which leaves strict mode once the server has refused the schema in it."""
        ask = self._model._step({**kwargs, **self._format}).call
        if self._loose is None:
            return ask
        ask_loosely = self._model._step({**kwargs, **self._loose}).call

        async def either(value: Any, strand: Strand) -> Any:
            if self._format is self._loose:
                return await ask_loosely(value, strand)
            try:
                return await ask(value, strand)
            except BadRequestError as error:
                if not _blames_schema(error):
                    raise
            message = await ask_loosely(value, strand)
            if self._loose is not None:
                self._format = self._loose  # the refused schema is not sent again
            return message

        return either

    async def _ask_again(
        self, ask: StepCall, value: Any, strand: Strand, message: AIMessage, misfit: OutputParserError
    ) -> tuple[AIMessage, Any, OutputParserError | None]:
        """Return the last answer, its parsed value, and the error if it could not be parsed."""
        for _ in range(self._max_reasks):
            if not self._affords(misfit):
                break
            strand.count_retry()
            again = [*conversation(value), *_correction(self._text_of(message), misfit)]
            try:
                message = await ask(again, strand)
            except BatchError as error:
                misfit.add_note(f"asked again, the model gave no answer: {error}")
                break
            try:
                return message, self._parse(message), None
            except OutputParserError as error:
                misfit = error
            if not _is_worth_asking_again(message):
                break
        return message, None, misfit

    def _affords(self, misfit: OutputParserError) -> bool:
        quota = getattr(self._model, "quota", None)
        if quota is None:
            return True
        if quota.retries.afford(Failure.of(MalformedResponseError(str(misfit)))):
            return True
        misfit.add_note(f"not asked again: {quota.retries.words()}")
        return False

    def _finished(self, message: AIMessage, parsed: Any, misfit: OutputParserError | None) -> RawAndParsed:
        return {"raw": message, "parsed": parsed, "parsing_error": misfit}

    def _text_of(self, message: AIMessage) -> str:
        """Return the text of an answer, or the arguments of the call of the tool that the schema is.

        Some servers answer in text where a call was asked for, and others the other way round. Where the
        call was asked for, a text beside it is the model's thoughts about it.
        """
        text = message.text
        if text.strip() and not (self._calls and message.raw_tool_calls):
            return text
        for call in message.raw_tool_calls:
            function = call.get("function")
            if isinstance(function, Mapping) and function.get("name") in (self._name, None, ""):
                arguments = function.get("arguments")
                return arguments if isinstance(arguments, str) else json.dumps(arguments)
        return text

    def _parse(self, message: AIMessage) -> Any:
        text = self._text_of(message)
        try:
            return first_fitting(text, self._validate)
        except ValueError as error:
            raise OutputParserError(self._misfit_of(message, text, error), text=text) from error

    def _misfit_of(self, message: AIMessage, text: str, error: ValueError) -> str:
        """Return the reason why an answer could not be parsed."""
        if message.refusal:
            return f"the model refused: {message.refusal}"
        unfinished = _UNFINISHED.get((message.finish_reason or "").lower())
        if unfinished:
            return unfinished
        names = [call["name"] for call in (*message.tool_calls, *message.invalid_tool_calls)]
        if names and self._name not in names and (self._calls or not text.strip()):
            return f"the model called {' and '.join(map(repr, names))}, and not {self._name!r}"
        return f"the answer does not fit the schema: {_reasons(error)}"

    def _validate(self, text: str) -> Any:
        schema: Any = self._schema
        if _is_model(schema):
            return _validate_model(schema, text)
        try:
            value = from_json(text)
        except ValueError as error:
            value = _lenient_json(text, error)
        if not isinstance(value, dict):
            raise ValueError(f"it is no JSON object but a {type(value).__name__}")  # noqa: TRY004
        return value


def _raise_or_parsed(_message: AIMessage, parsed: Any, misfit: OutputParserError | None) -> Any:
    if misfit is not None:
        raise misfit
    return parsed


def _validate_model(schema: type[BaseModel], text: str) -> BaseModel:
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False, include_context=False, include_input=False)
        if first["type"] != "json_invalid":
            raise
        value = _lenient_json(text, error)
    return schema.model_validate_json(json.dumps(value))


def _lenient_json(text: str, error: ValueError) -> Any:
    """Return the value of JSON `text` in which strings may hold line breaks.

    Raises:
        NotJSONError: it is not JSON; the message is that of `error`.
    """
    try:
        return json_value(text)
    except NotJSONError:
        raise NotJSONError(_reasons(error)) from error


def _is_worth_asking_again(message: AIMessage) -> bool:
    """Whether another answer may fit: this one is complete, and not a refusal."""
    return not message.refusal and (message.finish_reason or "").lower() not in _UNFINISHED


def _correction(text: str, misfit: OutputParserError) -> list[Message]:
    """Return the messages that ask the model again."""
    words = f"{misfit}. Answer again: with the whole JSON, corrected, and nothing else."
    asking = HumanMessage(words[:1].upper() + words[1:])
    return [AIMessage(text[:_SHOWN]), asking] if text.strip() else [asking]


def _blames_schema(error: BadRequestError) -> bool:
    """Whether a request was refused for its schema."""
    said = f"{error.param} {error.message[:2_000]}".lower()
    return any(word in said for word in ("response_format", "schema", "tools", "strict"))


def _reasons(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"]))) for each in found[:5]]
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""  # noqa: PLR2004
    return "; ".join(lines) + more


def _request_options(
    schema: type[Any] | Mapping[str, Any], *, method: Method, strict: bool | None
) -> dict[str, Any]:
    """Return the options of a request that make the answer follow `schema`; see `response_format`."""
    if method != "function_calling":
        return {"response_format": response_format(schema, method=method, strict=strict)}
    plain = _plain_schema(schema)
    named = {**plain, "title": _name_of(plain)}
    try:
        tool = tool_of(named, strict=strict is not False)
    except ValueError:
        if strict:
            raise
        tool = tool_of(named, strict=False)
    choice = {"type": "function", "function": {"name": tool["function"]["name"]}}
    return {"tools": [tool], "tool_choice": choice, "parallel_tool_calls": False}


def _is_strict(options: Mapping[str, Any]) -> bool:
    """Whether options have the server enforce their schema."""
    if "tools" in options:
        return bool(options["tools"][0]["function"].get("strict"))
    return options["response_format"].get("json_schema", {}).get("strict") is True


def response_format(
    schema: type[Any] | Mapping[str, Any], *, method: Method, strict: bool | None
) -> dict[str, Any]:
    """Return the request's `response_format`.

    Args:
        schema: a pydantic model, or a JSON schema whose `title` names it.
        method: `json_mode` asks for any JSON object, for servers that do not support schemas.
        strict: have the server enforce the schema, which is rewritten as OpenAI requires;
            `None` does so if the schema can be rewritten.

    Raises:
        ValueError: `strict` is true, and the schema cannot be rewritten.
        TypeError: `schema` is neither a model nor a dict.
    """
    if method == "json_mode":
        _plain_schema(schema)
        return {"type": "json_object"}
    if method != "json_schema":
        raise ValueError(f"method must be 'json_schema', 'function_calling' or 'json_mode', not {method!r}")
    plain = _plain_schema(schema)
    described: dict[str, Any] = {"name": _name_of(plain), "schema": plain, "strict": False}
    if strict is not False:
        try:
            described |= {"schema": strict_schema(plain), "strict": True}
        except ValueError:
            if strict:
                raise
    return {"type": "json_schema", "json_schema": described}


def _name_of(schema: Mapping[str, Any]) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "_", str(schema.get("title") or "answer"))[:_LONGEST_NAME]


def _is_model(schema: object) -> bool:
    return isinstance(schema, type) and issubclass(schema, BaseModel)


def _plain_schema(schema: object) -> dict[str, Any]:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_json_schema()
    if is_typeddict(schema):
        return typed_dict_schema(schema)
    if isinstance(schema, Mapping):
        return dict(schema)
    raise TypeError(
        f"with_structured_output takes a pydantic model, a TypedDict or a JSON schema, not {schema!r}"
    )
