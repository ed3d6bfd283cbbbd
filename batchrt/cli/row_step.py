"""The step that a row goes through: from its fields to its answer, with its counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from batchrt.cli.abort import Brake, Gatekeeper, LeftOutError
from batchrt.cli.budget import Purse
from batchrt.cli.counts import Tally, cut_off_reason
from batchrt.cli.pipeline import Entry, Load
from batchrt.errors import (
    OutputParserError,
    SpendingLimitError,
)
from batchrt.files import BadRow, Row, Source
from batchrt.files.cells import cell, listed
from batchrt.files.rows import bad_row
from batchrt.messages import AIMessage
from batchrt.runnables.base import Runnable
from batchrt.runnables.parsers import StrOutputParser
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["Answer", "Answers", "Booked", "fields_of"]

_WHOLE: Final = frozenset(
    ("stop", "tool_calls", "function_call", "tool_use", "end_turn", "stop_sequence", "eos", "eos_token")
)
"""Reasons that tell of a whole answer: OpenAI's, and those of Anthropic and of TGI, which proxies pass on."""


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
        self._parse = _answer_of_object if structured else _answer_of_text
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


class Booked(Runnable[Entry, Entry]):
    """Run `chain` on each entry's row; give the entry back with what became of it, never an error.

    Args:
        chain: from a row's fields to its `Answer`.
        fields: makes the fields of a row, or raises the row's error.
        tally: where rows are counted.
        gate: is told of each row's end.
        brake: gives rows up that wait when the job is stopped.
        purse: what may be spent.
        load: what rows weigh that are not written yet.
    """

    def __init__(
        self,
        chain: Runnable[Fields, Any],
        fields: Callable[[Row | BadRow], Fields],
        *,
        tally: Tally,
        gate: Gatekeeper,
        brake: Brake,
        purse: Purse,
        load: Load,
    ) -> None:
        self._load = load
        self._chain = chain
        self._fields = fields
        self._tally = tally
        self._gate = gate
        self._brake = brake
        self._purse = purse

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        ask = self._chain._step(kwargs).call
        fields, tally, gate, brake = self._fields, self._tally, self._gate, self._brake
        load = self._load
        purse = self._purse

        async def call(entry: Entry, strand: Strand) -> Entry:
            tally.started += 1
            purse.watch(strand)
            ended = True
            try:
                with brake.over(strand):
                    answer: Answer = await ask(fields(entry.row), strand)
                entry.output, entry.finish_reason, entry.error = answer
                tally.answered += 1
                if entry.error is not None:
                    raise entry.error
            except (LeftOutError, SpendingLimitError):
                ended = False
            except Exception as error:  # noqa: BLE001  this row's outcome
                ended = gate.refused(error)
                entry.fail(error)
                if ended:
                    tally.add_failure(entry.row.number, error)
            else:
                tally.done += 1
                gate.passed()
            entry.ended = ended
            tally.left_out += not ended
            item = strand.item
            tally.retries += item.retries
            if item.usage is not None:
                tally.add_usage(item.usage)
            if load.is_heavy:
                await load.lessened(strand)
            return entry

        return Step(call)


def fields_of(source: Source, names: tuple[str, ...]) -> Callable[[Row | BadRow], Fields]:
    """Return what makes a prompt's fields `names` of a row of `source`."""
    if source.format != "jsonl":
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
                raise bad_row(source.path, row.number, row.line, problem, column=name).error
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
