"""The answers of a model: its messages as columns of the output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from batchrt import AIMessage, OutputParserError, Runnable, RunnableLambda, StrOutputParser
from batchrt.cli.counts import cut_off_reason

__all__ = ["Answer", "answer_step"]

_WHOLE: Final = frozenset(
    ("stop", "tool_calls", "function_call", "tool_use", "end_turn", "stop_sequence", "eos", "eos_token")
)
"""Finish reasons of a whole answer: OpenAI's, and those of Anthropic and of TGI, which proxies pass on."""


class Answer(NamedTuple):
    """Hold the columns of an answer.

    Attributes:
        output: the text, the object, or the vector; `None` if there is none.
        finish_reason: as the provider named it, or `None`.
        error: why the answer is not good, or `None`.
        cut_off: whether the answer is not whole, by its finish reason.
    """

    output: Any
    finish_reason: str | None
    error: Exception | None
    cut_off: bool = False


def answer_step(*, structured: bool, fail_cut_off: bool) -> Runnable[Any, Answer]:
    """Return a step from a model's messages to answers.

    Args:
        structured: the messages come from `with_structured_output(…, include_raw=True)`.
        fail_cut_off: an answer that was cut off has an error beside its text.
    """
    parse = _answer_of_object if structured else _answer_of_text

    def call(value: Any) -> Answer:
        answer = parse(value)
        reason = answer.finish_reason
        if reason is None or reason in _WHOLE or reason.lower() in _WHOLE or answer.error is not None:
            return answer
        return answer._replace(cut_off=True, error=_cut_off_error(answer) if fail_cut_off else None)

    return RunnableLambda(call, inline=True)


def _cut_off_error(answer: Answer) -> OutputParserError:
    reason = answer.finish_reason or ""
    hint = "; raise --max-tokens" if reason.lower() in ("length", "max_tokens") else ""
    return OutputParserError(f"the answer was {cut_off_reason(reason)}{hint}", text=str(answer.output))


def _answer_of_text(message: AIMessage) -> Answer:
    reason = _reason_of(message)
    try:
        return Answer(_PARSER.parse_output(message), reason, None)
    except OutputParserError as error:
        return Answer(None, reason, error)


def _answer_of_object(both: Mapping[str, Any]) -> Answer:
    return Answer(both["parsed"], _reason_of(both["raw"]), both["parsing_error"])


def _reason_of(message: AIMessage) -> str | None:
    reason = message.finish_reason
    return reason if reason is None or isinstance(reason, str) else str(reason)


_PARSER: Final = StrOutputParser()
