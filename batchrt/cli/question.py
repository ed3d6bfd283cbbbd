"""What each row is asked: the prompt, the model and the form of the answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from batchrt.cli.models import new_model
from batchrt.cli.settings import Settings
from batchrt.cli.usage import UsageProblem
from batchrt.providers.chat import ChatOpenAI
from batchrt.runnables.prompts import ChatPromptTemplate

__all__ = ["chat_model", "prompt_template", "read_schema"]

_NEWER_NAME: Final = (".openai.com", ".openai.azure.com")


def prompt_template(settings: Settings) -> ChatPromptTemplate:
    """Return the prompt of `--system` and `--prompt`.

    Raises:
        UsageProblem: a file cannot be read, or a template is not one.
    """
    messages = []
    for role, option in (("system", settings.system), ("user", settings.prompt)):
        if option is not None:
            messages.append((role, _text(option, f"--{'prompt' if role == 'user' else role}")))
    try:
        return ChatPromptTemplate.from_messages(messages)
    except ValueError as error:
        raise UsageProblem(str(error)) from error


def _text(option: str, name: str) -> str:
    if not option.startswith("@"):
        text = option
    elif option.startswith("@@"):
        text = option[1:]
    else:
        text = _read(option[1:], name).removesuffix("\n")
    if not text.strip():
        raise UsageProblem(f"{name} is empty; say what to ask, as 'Translate: {{text}}'")
    return text


def _read(path: str, name: str) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageProblem(f"{name}: {path} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageProblem(f"{name}: cannot read {path!r}: {reason}") from None


def read_schema(path: str) -> dict[str, Any]:
    """Return the JSON schema in `path`.

    Raises:
        UsageProblem: there is none, or it is not one of an object.
    """
    try:
        schema = json.loads(_read(path, "--schema"))
    except ValueError as error:
        raise UsageProblem(f"--schema: {path} is not JSON: {error}") from None
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise UsageProblem(f'--schema: {path} must be a JSON schema of an object, with "type": "object"')
    return schema


def chat_model(settings: Settings) -> ChatOpenAI:
    """Return the model of `--model`; raises as `new_model` does."""
    most = {_name_of_max_tokens(settings.base_url): settings.max_tokens}
    return new_model(ChatOpenAI, settings, temperature=settings.temperature, **most)


def _name_of_max_tokens(base_url: str | None) -> str:
    # OpenAI's reasoning models refuse the older name, and most other servers ignore the newer.
    url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com"
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # ChatOpenAI says what is wrong with it
        host = ""
    return "max_completion_tokens" if f".{host}".endswith(_NEWER_NAME) else "max_tokens"
