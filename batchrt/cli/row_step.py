"""The step that a row goes through: from its fields to its answer, with its counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from batchrt.cli.abort import WithdrawnError
from batchrt.cli.counts import Counts, cut_off_reason
from batchrt.cli.job import JobState
from batchrt.cli.pipeline import Entry, Load
from batchrt.errors import (
    OutputParserError,
    SpendingLimitError,
)
from batchrt.files import BadRow, Row, Source
from batchrt.files.cells import cell, listed
from batchrt.messages import AIMessage
from batchrt.runnables.base import Runnable
from batchrt.runnables.parsers import StrOutputParser
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["Answer", "Answers", "RowStep", "fields_of"]

_WHOLE: Final = frozenset(
    ("stop", "tool_calls", "function_call", "tool_use", "end_turn", "stop_sequence", "eos", "eos_token")
)
"""Finish reasons of a whole answer: OpenAI's, and those of Anthropic and of TGI, which proxies pass on."""


class Answer(NamedTuple):
    """Hold the columns of an answer.

    Attributes:
        output: the text, or the object; `None` if it could not be parsed.
        finish_reason: as the provider named it, or `None`.
        error: why the answer is not good, or `None`.
    """

    output: Any
    finish_reason: str | None
    error: Exception | None


class Answers(Runnable[Any, Answer]):
    """Take a model's messages apart, and count those that were cut off.

    Args:
        counts: where they are counted.
        structured: the messages come from `with_structured_output(…, include_raw=True)`.
        fail_cut_off: an answer that was cut off has an error beside its text.
    """

    def __init__(self, counts: Counts, *, structured: bool, fail_cut_off: bool) -> None:
        self._counts = counts
        self._parse = _answer_of_object if structured else _answer_of_text
        self._fails = fail_cut_off

    def _build(self, kwargs: Mapping[str, Any]) -> Step:  # noqa: ARG002  there is nothing to tell it
        parse, counts, fails = self._parse, self._counts, self._fails

        def call(value: Any, _strand: Strand) -> Answer:
            answer = parse(value)
            reason = answer.finish_reason
            if reason is None or reason in _WHOLE or reason.lower() in _WHOLE or answer.error is not None:
                return answer
            counts.add_cut_off(reason)
            return answer._replace(error=_cut_off_error(answer)) if fails else answer

        return Step(call, inline=True)


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


Fields: TypeAlias = "Mapping[str, Any]"


class RowStep(Runnable[Entry, Entry]):
    """Run `chain` on each entry's row; return the entry with its outcome, and never raise.

    Args:
        chain: from a row's fields to its `Answer`.
        fields: makes the fields of a row, or raises the row's error.
        state: the objects shared with the job.
        load: bytes of the rows that are not written yet.
    """

    def __init__(
        self,
        chain: Runnable[Fields, Any],
        fields: Callable[[Row | BadRow], Fields],
        state: JobState,
        load: Load,
    ) -> None:
        self._load = load
        self._chain = chain
        self._fields = fields
        self._state = state

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        ask = self._chain._step(kwargs).call
        fields, load, state = self._fields, self._load, self._state
        counts, abort_policy, withdrawals = state.counts, state.abort_policy, state.withdrawals
        budget = state.budget

        async def call(entry: Entry, strand: Strand) -> Entry:
            counts.started += 1
            budget.watch(strand)
            ended = True
            try:
                with withdrawals.guard(strand):
                    answer: Answer = await ask(fields(entry.row), strand)
                entry.output, entry.finish_reason, entry.error = answer
                counts.answered += 1
                if entry.error is not None:
                    raise entry.error
            except (WithdrawnError, SpendingLimitError):
                ended = False
            except Exception as error:  # noqa: BLE001  this row's outcome
                ended = abort_policy.record_failure(error)
                entry.fail(error)
                if ended:
                    counts.add_failure(entry.row.number, error)
            else:
                counts.done += 1
                abort_policy.record_success()
            entry.ended = ended
            counts.left_out += not ended
            item = strand.item
            counts.retries += item.retries
            if item.usage is not None:
                counts.add_usage(item.usage)
            if load.is_heavy:
                await load.lessened(strand)
            return entry

        return Step(call)


def fields_of(source: Source, names: tuple[str, ...]) -> Callable[[Row | BadRow], Fields]:
    """Return a function from a row of `source` to a prompt's fields `names`."""
    if source.is_table:
        return _table_fields

    def fields(row: Row | BadRow) -> Fields:
        values = _table_fields(row)
        if isinstance(row, Row) and row.faults is not None:
            for name in names:
                if name in row.faults:
                    raise row.faults[name]
        changed: dict[str, Any] = {}
        for name in names:
            if name not in values:
                problem = f"the row does not have it (it has: {listed(values)})"
                raise source.row_error(row, problem, column=name)
            value = values[name]
            if value is None or isinstance(value, bool | list | dict):
                # As it stands in the file, and not as Python would say it.
                changed[name] = cell(value)
        return {**values, **changed} if changed else values

    return fields


def _table_fields(row: Row | BadRow) -> Fields:
    if isinstance(row, BadRow):
        raise row.error
    return row.values
