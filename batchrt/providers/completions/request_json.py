"""The shapes of a completion request and its answer; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from pydantic_core import PydanticSerializationError, to_json

from batchrt.errors import ProviderError
from batchrt.messages import Message, MessageLike, Usage
from batchrt.providers.choices import check_failure, explains_missing_text, ordered_choices
from batchrt.providers.http.error_mapping import error_from
from batchrt.providers.http.response import Reply
from batchrt.providers.http.secrets import Secrets
from batchrt.providers.request_body import bad_input, encode_members, half_surrogate, most_tokens
from batchrt.providers.response_body import ReportedError, ShapeError, malformed, read_answer, read_usage
from batchrt.runnables.prompt_values import ChatPromptValue

__all__ = ["TextInput", "TextLike", "TextRequest", "Texts", "encode_prompt", "read_texts"]


class TextLike(Protocol):
    """A prompt's value, or another object that turns into a text."""

    def to_string(self) -> str:
        """Return it as one text."""


TextInput: TypeAlias = "str | Message | Sequence[MessageLike] | TextLike"
"""The input of a completion model: a text, a prompt's value, or messages, which become lines of a text."""


class TextRequest:
    """Build bodies for `/completions` that differ in their prompts alone.

    Attributes:
        start: the beginning of them all: the rest of the body, encoded once.
        names: the model and the names of the other members.
        most: the most tokens of a text; `None` if nothing says.

    Raises:
        ValueError: for a field that JSON cannot carry.
    """

    __slots__ = ("most", "names", "start")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.names: tuple[str, ...] = (str(fields.get("model")), *sorted(fields))
        self.most: float | None = most_tokens(fields)
        self.start: bytes = encode_members(fields) + b'"prompt":'

    def body(self, prompts: Sequence[bytes]) -> bytes:
        """Return the body for encoded prompts.

        A single one is sent as a text: not every server takes a list, even of one.
        """
        if len(prompts) == 1:
            return self.start + prompts[0] + b"}"
        return self.start + b"[" + b",".join(prompts) + b"]}"


def encode_prompt(value: TextInput) -> bytes:
    """Return the prompt for one input, as JSON.

    Raises:
        BadRequestError: for an input without a text.
    """
    text = _text_of(value)
    try:
        return to_json(text)
    except (PydanticSerializationError, UnicodeError):
        pass
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise half_surrogate(error, text, "prompt") from None
    raise bad_input("prompt", "the prompt cannot be sent as JSON")


def _text_of(value: object) -> str:
    if isinstance(value, str):
        return value
    to_string = getattr(value, "to_string", None)
    if to_string is not None:
        text = to_string()
        if isinstance(text, str):
            return text
        raise bad_input("prompt", f"to_string() gave a {type(text).__name__}, not a str")
    if isinstance(value, Message):
        return ChatPromptValue((value,)).to_string()
    if isinstance(value, Sequence) and value and all(map(_is_message, value)):
        return ChatPromptValue(value).to_string()
    kind = type(value).__name__
    raise bad_input("prompt", f"a completion takes a str, a prompt's value or messages, not {kind}")


def _is_message(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and isinstance(value[0], str)  # noqa: PLR2004  a role and its content
    return isinstance(value, Message | Mapping)


class Texts(NamedTuple):
    """Hold the texts for a list of prompts, `n` for each, and the tokens of all of them.

    In place of the texts of a prompt that has one which is not as the API promises, or which failed,
    stands the error, unless it is the only prompt.
    """

    texts: list[list[str] | ProviderError]
    usage: Usage | None


def read_texts(reply: Reply, prompts: int, each: int, secrets: Secrets, wall: Callable[[], float]) -> Texts:
    """Return the texts in a successful `reply`, `each` for each of so many `prompts`, in their order.

    Counts of tokens that do not cover the whole answer are left out: llama-server gives those of the
    first choice alone.

    Raises:
        MalformedResponseError: if it is not JSON or not of the API's shape, or if there are more or
            fewer choices than asked for, or their indexes are no order.
        ProviderError: if the body holds an error instead, as some proxies have it.
    """

    def read(data: dict[str, Any]) -> Texts:
        choices = ordered_choices(data, prompts, each)
        texts: list[list[str] | ProviderError] = []
        for start in range(0, len(choices), each):
            try:
                texts.append([_text(choices[i], i) for i in range(start, start + each)])
            except ShapeError as error:
                if prompts == 1:
                    raise
                texts.append(malformed(str(error), reply, secrets))
            except ReportedError as error:
                if prompts == 1:
                    raise
                texts.append(error_from(reply, secrets, wall, error.said))
        usage = read_usage(data.get("usage"), data.get("service_tier"))
        said = sum(bool(choice.get("text")) for choice in choices)
        return Texts(texts, usage if usage is None or _covers(usage, said, data.get("timings")) else None)

    return read_answer(reply, secrets, wall, read)


def _text(choice: dict[str, Any], place: int) -> str:
    check_failure(choice)
    text = choice.get("text")
    if isinstance(text, str):
        return text
    message = choice.get("message")
    if text is None and isinstance(message, dict) and isinstance(message.get("content"), str):
        return str(message["content"])  # a chat's answer
    if text is None and explains_missing_text(choice):
        return ""  # cut off before the first word, by a filter or a limit
    raise ShapeError(f"has no choices[{place}].text", lasting=True)


def _covers(usage: Usage, texts: int, timings: object) -> bool:
    """Whether `usage` may be that of so many texts that are not empty.

    Each is a token at least. And llama-server says in its `timings` how many tokens the first one had.
    """
    if texts < 2:  # noqa: PLR2004  nothing to be left out
        return True
    of_first = timings.get("predicted_n") if isinstance(timings, dict) else None
    return usage.output_tokens >= texts and usage.output_tokens != of_first
