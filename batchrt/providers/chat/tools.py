"""Tools that a model may call: functions, classes and schemas in the API's form."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Final,
    NotRequired,
    Required,
    TypeAlias,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pydantic import BaseModel, Field, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from batchrt.providers.chat.json_schema import SchemaError, check_schema
from batchrt.providers.chat.strict_schema import strict_schema

__all__ = ["ToolChoice", "ToolLike", "tool_choice_of", "tool_of", "typed_dict_schema"]

ToolLike: TypeAlias = "Mapping[str, Any] | type[Any] | Callable[..., Any] | Any"
"""A function, a pydantic model, a TypedDict, a JSON schema, a tool of LangChain, or the API's own dict."""

ToolChoice: TypeAlias = "str | bool | Mapping[str, Any] | None"
"""`"auto"`, `"none"`, `"required"` (also `"any"` and `True`), a tool's name, or the API's own dict."""

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Names that OpenAI accepts (https://platform.openai.com/docs/api-reference/chat/create, tools)."""
_CHOICES: Final = {"auto": "auto", "none": "none", "required": "required", "any": "required"}


def tool_of(thing: ToolLike, *, strict: bool | None = None) -> dict[str, Any]:
    """Return a tool as it is sent.

    Args:
        thing: see `ToolLike`. A function's parameters and their types are the tool's; its docstring, up to
            the first blank line, is the description, and `Annotated[int, Field(description=…)]` describes
            a parameter.
        strict: have the server enforce the schema, which is rewritten as OpenAI requires.

    Raises:
        TypeError: `thing` is no tool, or a parameter has no type that JSON has.
        ValueError: the schema is wrong, cannot be rewritten, or the name is none that the API accepts.
    """
    if isinstance(thing, Mapping) and "type" in thing and "properties" not in thing:
        return dict(thing)  # the API's form already, or a tool of the server
    name, description, parameters = _parts_of(thing)
    if not _NAME.fullmatch(name):
        raise ValueError(f"a tool's name has letters, digits, - and _, 64 at most, and is not {name[:80]!r}")
    try:
        check_schema(parameters)
    except SchemaError as error:
        raise ValueError(f"the schema of the tool {name} {error}") from error
    function: dict[str, Any] = {"name": name}
    if description:
        function["description"] = description
    function["parameters"] = strict_schema(parameters) if strict else parameters
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def tool_choice_of(choice: ToolChoice, tools: Sequence[Mapping[str, Any]]) -> Any:
    """Return the request's `tool_choice`; `None` if it is left to the server.

    Raises:
        ValueError: none of `tools` has that name.
    """
    if choice is None or choice is False:
        return None
    if choice is True:
        return "required"
    if isinstance(choice, Mapping):
        return dict(choice)
    if choice in _CHOICES:
        return _CHOICES[choice]
    names = [_name_of(tool) for tool in tools]
    if choice not in names:
        known = ", ".join([*_CHOICES, *filter(None, names)])
        raise ValueError(f"tool_choice {choice!r} is none of {known}")
    if tools[names.index(choice)].get("type") != "function":
        return {"type": choice}
    return {"type": "function", "function": {"name": choice}}


def _name_of(tool: Mapping[str, Any]) -> str | None:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else tool.get("type")
    return name if isinstance(name, str) else None


def _parts_of(thing: Any) -> tuple[str, str, dict[str, Any]]:
    """Return the name, the description and the schema of the parameters."""
    if isinstance(thing, Mapping):
        return _of_schema(thing)
    if isinstance(thing, type):
        if is_typeddict(thing):
            return thing.__name__, _summary(thing.__doc__), _bare(typed_dict_schema(thing))
        if not issubclass(thing, BaseModel):
            raise TypeError(f"a class that is a tool is a pydantic model or a TypedDict, not {thing!r}")
        schema = thing.model_json_schema(schema_generator=_Untitled)
        return thing.__name__, _summary(thing.__doc__), _bare(schema)
    arguments = getattr(thing, "tool_call_schema", None)  # of a tool of LangChain's
    if arguments is not None:
        plain = arguments if isinstance(arguments, Mapping) else arguments.model_json_schema()
        return thing.name, thing.description, _bare(plain)
    if callable(thing):
        return _of_function(thing)
    raise TypeError(f"a tool is a function, a class, a schema or a dict, not {type(thing).__name__}")


def _of_schema(schema: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Return the parts of a dict: OpenAI's function, Anthropic's tool, or a JSON schema with a title."""
    name = schema.get("name") or schema.get("title")
    if not isinstance(name, str):
        raise TypeError(f"a tool's dict needs a name or a title; it has {', '.join(map(repr, schema))}")
    parameters = schema.get("parameters") or schema.get("input_schema")
    if parameters is None:
        parameters = schema if "properties" in schema else {"type": "object", "properties": {}}
    return name, str(schema.get("description") or ""), _bare(parameters)


def _of_function(function: Callable[..., Any]) -> tuple[str, str, dict[str, Any]]:
    name = getattr(function, "__name__", type(function).__name__)
    doc = inspect.getdoc(function)
    try:
        parameters = inspect.signature(function).parameters.values()
        hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise TypeError(f"{name} cannot be a tool: {error}") from error
    fields: dict[str, tuple[Any, Any]] = {}
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{name} cannot be a tool: {parameter} cannot be passed by name")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = hints.get(parameter.name, Any), default
    return name, _summary(doc), _schema_of(name, fields)


def typed_dict_schema(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a TypedDict, with its name as title.

    Raises:
        TypeError: a value has a type that JSON does not have.
    """
    fields: dict[str, tuple[Any, Any]] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        # With annotations that are strings, Python takes NotRequired keys for required ones.
        marker = get_origin(hint)
        required = marker is Required or (marker is not NotRequired and name in kind.__required_keys__)
        plain = get_args(hint)[0] if marker in (Required, NotRequired) else hint
        fields[name] = plain, ... if required else None
    schema = {**_schema_of(kind.__name__, fields), "title": kind.__name__}
    summary = _summary(kind.__doc__)
    return {**schema, "description": summary} if summary else schema


def _schema_of(name: str, fields: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    described = {
        field: (_described(hint), _optional() if default is None else default)
        for field, (hint, default) in fields.items()
    }
    try:
        return _bare(create_model(name, **described).model_json_schema(schema_generator=_Untitled))  # type: ignore[call-overload]
    except (PydanticUserError, TypeError, ValueError) as error:
        raise TypeError(f"{name} cannot be a tool: {str(error).splitlines()[0]}") from error


def _optional() -> Any:
    """Return a field whose default of `None` is not shown to the model: it says nothing."""

    def hide(schema: dict[str, Any]) -> None:
        schema.pop("default", None)

    return Field(default=None, json_schema_extra=hide)


def _described(hint: Any) -> Any:
    """Return a type with a text among its `Annotated` metadata as the description, as LangChain has it."""
    if get_origin(hint) is not Annotated:
        return hint
    kind, *notes = get_args(hint)
    texts = [Field(description=note) for note in notes if isinstance(note, str)]
    return Annotated[
        (kind, *(note for note in notes if not isinstance(note, str) and note is not ...), *texts)
    ]


class _Untitled(GenerateJsonSchema):
    """Leave out the titles of properties, which are their names once more."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def _bare(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without the title and description that the tool has itself."""
    bare = {key: value for key, value in schema.items() if key not in ("title", "description", "name")}
    return {"type": "object", "properties": {}, **bare}


def _summary(doc: str | None) -> str:
    return inspect.cleandoc(doc or "").partition("\n\n")[0]
