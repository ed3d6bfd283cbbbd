"""The prompt of a job, its chat model, and the JSON schema of its answers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from batchrt import ChatOpenAI, ChatPromptTemplate, InputError
from batchrt.cli.errors import UsageError
from batchrt.cli.models import new_model
from batchrt.cli.options import RunSettings
from batchrt.files import Source, required_columns
from batchrt.providers.chat.json_schema import SchemaError, load_schema
from batchrt.providers.options import check_options

__all__ = ["Messages", "chat_model", "prompt_of", "read_prompt", "read_schema", "read_template"]

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
