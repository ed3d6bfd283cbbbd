"""Tool calls of a model: in the API's form, and parsed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

__all__ = ["InvalidToolCall", "ToolCall", "ToolCallChunk", "parse_tool_calls", "raw_tool_calls_of"]


class ToolCall(TypedDict):
    """A call with its arguments, in LangChain's form.

    Attributes:
        name: the tool's.
        args: the arguments.
        id: identifies the call; its result names it.
        type: `tool_call`.
    """

    name: str
    args: dict[str, Any]
    id: str | None
    type: str


class InvalidToolCall(TypedDict):
    """A call whose arguments are no JSON object.

    Attributes:
        name: the tool's.
        args: the text that the model wrote.
        id: identifies the call.
        error: what is wrong with it.
        type: `invalid_tool_call`.
    """

    name: str | None
    args: str
    id: str | None
    error: str
    type: str


class ToolCallChunk(TypedDict):
    """A part of a call in a stream.

    Attributes:
        name: the tool's, in the first part.
        args: a piece of the arguments' JSON.
        id: identifies the call, in the first part.
        index: the call's place among all calls.
        type: `tool_call_chunk`.
    """

    name: str | None
    args: str | None
    id: str | None
    index: int | None
    type: str


def parse_tool_calls(raw: Iterable[Mapping[str, Any]]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """Return the calls of functions among `raw`, parsed, and those that cannot be parsed."""
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in raw:
        function = call.get("function")
        if not isinstance(function, Mapping):
            continue  # a custom tool, whose input is no JSON
        name, text = function.get("name"), function.get("arguments")
        identifier = call.get("id")
        identifier = identifier if isinstance(identifier, str) else None
        args, error = _arguments(text)
        if error is None and isinstance(name, str):
            calls.append(ToolCall(name=name, args=args, id=identifier, type="tool_call"))
            continue
        invalid.append(
            InvalidToolCall(
                name=name if isinstance(name, str) else None,
                args=text if isinstance(text, str) else json.dumps(text),
                id=identifier,
                error=error or "the call has no name",
                type="invalid_tool_call",
            )
        )
    return calls, invalid


def _arguments(text: object) -> tuple[dict[str, Any], str | None]:
    """Return the arguments, and the reason if there are none."""
    if isinstance(text, dict):  # as an object, which some servers send
        return text, None
    if text is None or text == "":  # of a tool without parameters
        return {}, None
    try:
        # Not strict: models leave raw line breaks in strings.
        args = json.loads(text, strict=False) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        return {}, f"the arguments are not JSON: {error}"
    if not isinstance(args, dict):
        return {}, f"the arguments are no JSON object but a {type(args).__name__}"
    return args, None


def raw_tool_calls_of(calls: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return calls in the API's form; those that have it already stay as they are."""
    return [call if "args" not in call else _raw(call) for call in calls]


def _raw(call: Mapping[str, Any]) -> dict[str, Any]:
    args = call["args"]
    arguments = args if isinstance(args, str) else json.dumps(args, ensure_ascii=False)
    function = {"name": call.get("name"), "arguments": arguments}
    return {"id": call.get("id"), "type": "function", "function": function}
