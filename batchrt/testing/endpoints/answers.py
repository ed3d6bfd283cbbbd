"""Answer texts of the mock, derived from the seed and the messages alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from batchrt.messages import AIMessage
from batchrt.testing.endpoints.json_schema import instance_of
from batchrt.testing.faults.seeded import SeededDice, digest_of

__all__ = [
    "Answer",
    "Messages",
    "as_messages",
    "compose_answer",
    "count_text",
    "count_tokens",
    "custom_answer",
    "text_of",
    "truncate",
]

Answer: TypeAlias = Callable[[Mapping[str, Any]], str | AIMessage]
Messages: TypeAlias = Sequence[Mapping[str, Any]]

_CHARACTERS_A_TOKEN = 4
_TOKENS_A_MESSAGE = 3
_ADJECTIVES = (
    *("amber", "brisk", "calm", "distant", "early", "faint", "gentle", "hollow"),
    *("idle", "jolly", "keen", "lucid", "mellow", "narrow", "open", "patient"),
)
_NOUNS = (
    *("anchor", "bridge", "candle", "dune", "engine", "feather", "garden", "harbour"),
    *("island", "jacket", "kettle", "lantern", "meadow", "needle", "orchard", "piano"),
)


def as_messages(messages: str | Messages) -> Messages:
    """Return `messages`; a string becomes one user message."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def compose_answer(
    seed: int,
    messages: Messages,
    response_format: Mapping[str, Any] | None = None,
    index: int = 0,
) -> str:
    """Write the answer to `messages`, choice number `index`.

    Text by default: two words and 48 bits of a hash, so that different messages get different answers. With a
    `response_format` a JSON document that fits it. Raises UnsupportedSchemaError for a schema that the mock
    cannot satisfy.
    """
    digest = digest_of(b"%d/%d/" % (seed, index) + _canonical(messages))
    kind = response_format["type"] if response_format else "text"
    if response_format is None or kind == "text":
        return f"{_ADJECTIVES[digest & 15]} {_NOUNS[digest >> 4 & 15]} {digest >> 16:012x}"
    if kind == "json_object":
        return json.dumps({"answer": f"{digest >> 16:012x}"})
    return json.dumps(instance_of(response_format["json_schema"]["schema"], SeededDice(digest)))


def custom_answer(answer: Answer, body: Mapping[str, Any]) -> str | AIMessage:
    """Return the answer of a user's function; TypeError if it is neither a text nor a message."""
    said = answer(body)
    if isinstance(said, str | AIMessage):
        return said
    raise TypeError(
        f"answer must return a str or an AIMessage, and returned {type(said).__name__}: {said!r:.80}"
    )


def text_of(answer: str | AIMessage) -> str:
    """Return the text of an answer."""
    return answer if isinstance(answer, str) else answer.text


def _canonical(messages: Messages) -> bytes:
    """Serialise messages independently of the order of keys and of nulls."""
    return "\0".join(map(_canonical_message, messages)).encode("utf-8", "surrogatepass")


def _canonical_message(message: Mapping[str, Any]) -> str:
    # Nearly all messages have this form; sorting the keys of the others costs five times as much.
    content = message.get("content")
    if len(message) == 2 and isinstance(content, str):  # noqa: PLR2004  role and content
        return f"{message['role']}\1{content}"
    kept = {key: value for key, value in message.items() if value is not None}
    if kept.keys() == {"role", "content"} and isinstance(content, str):
        return f"{kept['role']}\1{content}"
    return json.dumps(kept, sort_keys=True)


def count_tokens(messages: Messages) -> int:
    """Count a prompt's tokens: a quarter of the characters, and three for each message."""
    return sum(_TOKENS_A_MESSAGE + _tokens_of(_length(message)) for message in messages)


def count_text(text: str) -> int:
    """Count the tokens of a text: a quarter of its characters, rounded up."""
    return _tokens_of(len(text))


def _length(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    return sum(len(str(part.get("text", ""))) for part in content or ())


def _tokens_of(characters: int) -> int:
    return -(-characters // _CHARACTERS_A_TOKEN)


def truncate(text: str, max_tokens: int | None) -> tuple[str, int, str]:
    """Return the part of `text` within `max_tokens`, its tokens and the finish reason."""
    tokens = max(1, _tokens_of(len(text)))
    if max_tokens is None or tokens <= max_tokens:
        return text, tokens, "stop"
    return text[: max_tokens * _CHARACTERS_A_TOKEN], max_tokens, "length"
