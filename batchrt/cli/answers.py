"""A model's answers as rows want them: what was asked for, and why the answer ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from batchrt.cli.tally import Tally
from batchrt.errors import OutputParserError
from batchrt.messages import AIMessage
from batchrt.runnables.base import Runnable
from batchrt.runnables.parsers import StrOutputParser
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["Answer", "Answers", "cut_off_reason"]

_WHOLE: Final = frozenset(
    ("stop", "tool_calls", "function_call", "tool_use", "end_turn", "stop_sequence", "eos", "eos_token")
)
"""Reasons that tell of a whole answer: OpenAI's, and those of Anthropic and of TGI, which proxies pass on."""
_CUT_OFF: Final = {
    "length": "cut off at the token limit",
    "max_tokens": "cut off at the token limit",
    "content_filter": "cut off by the provider's content filter",
    "safety": "cut off by the provider's content filter",
}


def cut_off_reason(finish_reason: str) -> str:
    """Return in words how an answer with this `finish_reason` ended."""
    return _CUT_OFF.get(finish_reason.lower(), f"ended for the reason {finish_reason[:40]!r}")


class Answer(NamedTuple):
    """Hold what is written of an answer.

    Attributes:
        output: the text, or the object; `None` for what could not be read.
        finish_reason: as the provider named it, or `None`.
        error: why the answer is not good, or `None`.
    """

    output: Any
    finish_reason: str | None
    error: Exception | None


class Answers(Runnable[Any, Answer]):
    """Take a model's messages apart, and count those that were cut off.

    Args:
        tally: where they are counted.
        structured: the messages come from `with_structured_output(…, include_raw=True)`.
        fail_cut_off: an answer that was cut off has an error, beside what there is of it.
    """

    def __init__(self, tally: Tally, *, structured: bool, fail_cut_off: bool) -> None:
        self._tally = tally
        self._parse = _parsed if structured else _text
        self._fails = fail_cut_off

    def _build(self, kwargs: Mapping[str, Any]) -> Step:  # noqa: ARG002  there is nothing to tell it
        parse, tally, fails = self._parse, self._tally, self._fails

        def call(value: Any, _strand: Strand) -> Answer:
            answer = parse(value)
            reason = answer.finish_reason
            if reason is None or reason in _WHOLE or reason.lower() in _WHOLE or answer.error is not None:
                return answer
            tally.add_cut_off(reason)
            return answer._replace(error=_cut_off_error(answer)) if fails else answer

        return Step(call, inline=True)


def _cut_off_error(answer: Answer) -> OutputParserError:
    reason = answer.finish_reason or ""
    hint = "; raise --max-tokens" if reason.lower() in ("length", "max_tokens") else ""
    return OutputParserError(f"the answer was {cut_off_reason(reason)}{hint}", text=str(answer.output))


def _text(message: AIMessage) -> Answer:
    reason = _reason_of(message)
    try:
        return Answer(_PARSER.parse_output(message), reason, None)
    except OutputParserError as error:
        return Answer(None, reason, error)


def _parsed(both: Mapping[str, Any]) -> Answer:
    return Answer(both["parsed"], _reason_of(both["raw"]), both["parsing_error"])


def _reason_of(message: AIMessage) -> str | None:
    reason = message.finish_reason
    return reason if reason is None or isinstance(reason, str) else str(reason)


_PARSER: Final = StrOutputParser()
