"""The prompt of a job, its chat model, and the JSON schema of its answers."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import urlsplit

from batchrt import ChatOpenAI, ChatPromptTemplate, InputError
from batchrt.cli.errors import UsageError
from batchrt.cli.models import new_model
from batchrt.cli.options import RunSettings
from batchrt.files import Source, required_columns
from batchrt.providers.options import check_options

__all__ = [
    "Messages",
    "SchemaError",
    "chat_model",
    "check_schema",
    "load_schema",
    "prompt_of",
    "read_prompt",
    "read_schema",
    "read_template",
]

_DEEPEST: Final = 64
"""Levels of a schema. OpenAI takes ten of objects (platform.openai.com/docs/guides/structured-outputs, July
2025), each of which takes two here."""
_MOST_PARTS: Final = 100_000
"""Parts of a schema; providers take some thousand."""

_TYPES: Final = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_SCHEMAS_BY_NAME: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS_OF_SCHEMAS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS: Final = (
    "items",
    "additionalProperties",
    "additionalItems",
    "contains",
    "contentSchema",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
)
"""Keywords that hold schemas in JSON Schema 2020-12, and in draft 7, which generators still write."""


class SchemaError(Exception):
    """A mistake in a schema, and its place, in a few words."""


def load_schema(text: str) -> dict[str, Any]:
    """Return the JSON schema of an object that `text` holds.

    Raises:
        SchemaError: it is no such thing.
    """
    try:
        schema = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise SchemaError("is nested too deeply") from None
    except ValueError as error:
        raise SchemaError(f"is not JSON: {error}") from None
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise SchemaError('must be a JSON schema of an object, with "type": "object"')
    check_schema(schema)
    return schema


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise SchemaError if a keyword that holds schemas, names or types holds something else.

    A keyword that is not known here is not looked at, as JSON Schema wants it.
    """
    waiting: list[tuple[Any, str, int]] = [(schema, "the schema", 0)]
    seen = 0
    while waiting:
        part, place, depth = waiting.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST_PARTS:
            raise SchemaError(f"is nested too deeply, or too large: {depth} levels, {seen:,} parts")
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            raise SchemaError(f"{place[:200]} must be a schema, not {_kind(part)}")
        _check_words(part, place)
        waiting += [(child, f"{place}.{name}", depth + 1) for name, child in _children(part, place)]


def _children(part: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for keyword in _SCHEMAS_BY_NAME:
        if keyword in part:
            children = part[keyword]
            if not isinstance(children, dict):
                raise SchemaError(f"{place[:200]}: {keyword} must be an object, not {_kind(children)}")
            yield from children.items()
    for keyword in _LISTS_OF_SCHEMAS:
        if keyword in part:
            children = part[keyword]
            if not isinstance(children, list) or not children:
                raise SchemaError(f"{place[:200]}: {keyword} must be a list of schemas")
            yield from ((f"{keyword}[{number}]", child) for number, child in enumerate(children))
    for keyword in _SCHEMAS:
        if keyword in part:
            child = part[keyword]
            if keyword == "items" and isinstance(child, list):  # as draft 7 writes a tuple
                yield from ((f"items[{number}]", each) for number, each in enumerate(child))
            else:
                yield keyword, child


def _check_words(part: Mapping[str, Any], place: str) -> None:
    kind = part.get("type", "object")
    kinds = kind if isinstance(kind, list) else [kind]
    if not kinds or not all(isinstance(each, str) and each in _TYPES for each in kinds):
        raise SchemaError(
            f"{place[:200]}: type must be one of {', '.join(sorted(_TYPES))}, or a list of them"
        )
    required = part.get("required", [])
    # Draft 3 had a boolean here, which some generators still write; it demands nothing of the object.
    if not isinstance(required, bool) and not (
        isinstance(required, list) and all(isinstance(name, str) for name in required)
    ):
        raise SchemaError(f"{place[:200]}: required must be a list of names, not {_kind(required)}")
    for keyword in ("enum", "examples"):
        if keyword in part and not isinstance(part[keyword], list):
            raise SchemaError(f"{place[:200]}: {keyword} must be a list, not {_kind(part[keyword])}")
    for keyword in ("$ref", "$dynamicRef", "title", "description", "pattern", "format"):
        if keyword in part and not isinstance(part[keyword], str):
            raise SchemaError(f"{place[:200]}: {keyword} must be a string, not {_kind(part[keyword])}")


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "true or false", dict: "an object", list: "a list", str: "a string"}
    return names.get(type(value), "a number")


def _refuse(constant: str) -> NoReturn:
    raise SchemaError(f"has {constant}, which is no number that JSON can carry; leave that bound out")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        _refuse(text[:40])
    return value


_JSON_LIKE: Final = re.compile(r"[\s\"'{}\[\]]")
"""Matches the text between braces that are meant as braces: a quoted key, mostly."""
_NEWER_NAME: Final = (".openai.com", ".openai.azure.com")


Messages: TypeAlias = list[tuple[str, str]]


def read_prompt(settings: RunSettings) -> Messages:
    """Return the templates of `--system` and `--prompt`, with their roles.

    Raises:
        UsageError: a file cannot be read, or a template is empty.
    """
    messages = []
    for role, option in (("system", settings.system), ("user", settings.prompt)):
        if option is not None:
            messages.append((role, read_template(option, f"--{'prompt' if role == 'user' else role}")))
    return messages


def prompt_of(messages: Messages, source: Source, columns: Sequence[str]) -> ChatPromptTemplate:
    """Return the prompt of `messages` for the rows of `source`, which have `columns`.

    Raises:
        UsageError: a template is not one, names a column that is not there, or has a format that the
            values of a table, which are texts, cannot have.
        InputError: as `required_columns` has it.
    """
    try:
        prompt = ChatPromptTemplate.from_messages(messages, columns=columns)
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        required_columns(source, prompt.input_variables)
    except InputError as error:
        if error.column is None or not _JSON_LIKE.search(error.column):
            raise
        hint = "braces that are no field, as those of JSON, are written {{ and }}"
        raise UsageError(f"{error}; {hint}") from error
    if source.is_text:
        try:
            prompt.invoke(dict.fromkeys(prompt.input_variables, ""))
        except (TypeError, ValueError) as error:
            kind = source.format.upper()
            raise UsageError(f"{error}; the values of a {kind} are text: leave the format out") from None
    return prompt


def read_template(option: str, name: str) -> str:
    """Return the template that an option holds, or that is in the file it names.

    Raises:
        UsageError: the file cannot be read, or the template is empty.
    """
    if not option.startswith("@"):
        text = option
    elif option.startswith("@@"):
        text = option[1:]
    else:
        text = _read_file(option[1:], name).removesuffix("\n")
    if not text.strip():
        raise UsageError(f"{name} is empty; say what to ask, as 'Translate: {{text}}'")
    return text


def _read_file(path: str, name: str) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{name}: {path} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{name}: cannot read {path!r}: {reason}") from None


def read_schema(path: str) -> dict[str, Any]:
    """Return the JSON schema in `path`.

    Raises:
        UsageError: there is none, or it is not one of an object, or no schema at all.
    """
    try:
        return load_schema(_read_file(path, "--schema"))
    except SchemaError as problem:
        raise UsageError(f"--schema: {path} {problem}") from None


def chat_model(settings: RunSettings) -> ChatOpenAI:
    """Return the model of `--model`; raises as `new_model` does."""
    most = {_name_of_max_tokens(settings.base_url): settings.max_tokens}
    try:
        extra = check_options(settings.options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--option {error}") from error
    return new_model(ChatOpenAI, settings, temperature=settings.temperature, extra_body=extra, **most)


def _name_of_max_tokens(base_url: str | None) -> str:
    # OpenAI's reasoning models refuse the older name, and most other servers ignore the newer.
    url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com"
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # ChatOpenAI raises the same with a message
        host = ""
    return "max_completion_tokens" if f".{host}".endswith(_NEWER_NAME) else "max_tokens"
