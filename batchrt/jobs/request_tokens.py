"""The tokens of a request: those of its prompt, and the most that its answers can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic_core import to_json

__all__ = ["RequestTokens", "count_request"]

_A_MESSAGE: Final = 3
"""Tokens around the role and the text of a message, and before an answer."""
_A_NAME: Final = 1
"""Both as in OpenAI's cookbook, "How to count tokens with tiktoken", for GPT-3.5 and later models."""
_SENT_ALONG: Final = ("tools", "functions", "response_format")
"""Members that are put into the prompt in a form that providers do not publish; counted as JSON."""


class RequestTokens(NamedTuple):
    """Count the tokens of a request.

    Attributes:
        input: tokens of the prompt.
        output: the most tokens of all answers together; `None` if nothing bounds them.
        answers: how many answers it asks for; 0 for vectors.
        is_partial: whether the prompt has images, audio or files, whose tokens are not counted.
    """

    input: float
    output: float | None
    answers: int
    is_partial: bool = False


def count_request(body: Any, cost: Callable[[str], float]) -> RequestTokens:
    """Return the tokens of a request.

    Args:
        body: its JSON: of a chat or of completions, or a text to embed.
        cost: returns the number of tokens of a text.
    """
    if not isinstance(body, Mapping):
        return RequestTokens(_of_prompt(body, cost), 0, 0)
    messages = body.get("messages")
    is_partial = False
    if messages is None:
        tokens = _of_prompt(body.get("prompt", body.get("input")), cost)
    else:
        tokens = float(_A_MESSAGE)
        for message in messages:
            more, partial = _of_message(message, cost)
            tokens += more
            is_partial |= partial
    for name in _SENT_ALONG:
        if body.get(name):
            tokens += cost(to_json(body[name]).decode())
    answers = int(body.get("n") or 1)
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    return RequestTokens(tokens, None if most is None else most * answers, answers, is_partial)


def _of_message(message: Mapping[str, Any], cost: Callable[[str], float]) -> tuple[float, bool]:
    """Return the tokens of a message, and whether it has parts that are not counted."""
    tokens, content = float(_A_MESSAGE), message.get("content")
    if message.get("name"):
        tokens += _A_NAME + cost(str(message["name"]))
    if message.get("tool_calls"):
        tokens += cost(to_json(message["tool_calls"]).decode())
    if isinstance(content, str):
        return tokens + cost(content), False
    texts = [part["text"] for part in content or () if isinstance(part.get("text"), str)]
    return tokens + sum(map(cost, texts)), len(texts) < len(content or ())


def _of_prompt(prompt: Any, cost: Callable[[str], float]) -> float:
    """Return the tokens of a text, of a list of token ids, or of a list of either."""
    if isinstance(prompt, str):
        return cost(prompt)
    if isinstance(prompt, Sequence):
        return sum(1 if isinstance(each, int) else _of_prompt(each, cost) for each in prompt)
    return 0.0
