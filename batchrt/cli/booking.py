"""A chain that keeps the books of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from batchrt.cli.answers import Answer
from batchrt.cli.brake import Brake, LeftOutError
from batchrt.cli.entries import Entry
from batchrt.cli.load import Load
from batchrt.cli.purse import Purse
from batchrt.cli.tally import Tally
from batchrt.errors import (
    AuthenticationError,
    InputError,
    OutageError,
    ProviderError,
    QuotaExhaustedError,
    SpendingLimitError,
)
from batchrt.files import BadRow, Row, Source
from batchrt.files.cells import cell, listed
from batchrt.files.rows import bad_row
from batchrt.limits.error_kinds import kind_of
from batchrt.runnables.base import Runnable
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand

__all__ = ["Booked", "Gatekeeper", "fields_of"]

Fields: TypeAlias = "Mapping[str, Any]"

MOST_REFUSED: Final = 5
"""How many rows in a row may be refused for the key, the model or the credit, or given up for an outage,
before the job is stopped. One would do for a wrong key, but a proxy in front of several accounts may have a
bad one among them."""
MOST_FORBIDDEN: Final = 50
"""The same for 403, which some providers also say of a single text they do not like."""

_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404


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
                    tally.add_failure(entry, error)
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


class Gatekeeper:
    """Watch for a provider that lets nobody through: a wrong key or model, no credit left, or down for long.

    Args:
        max_wait: seconds for which the provider may ask to be left alone.
        patience: seconds for which a provider that is down is waited for. Without any, a job is not stopped
            for a wrong address either: all of its rows fail fast.

    Attributes:
        halt: called when that is so.
        refusal: the last such error, or `None` if somebody got through since.
        is_shut: whether it was so.
    """

    def __init__(self, *, max_wait: float, patience: float = math.inf) -> None:
        self.halt: Callable[[], None] = lambda: None
        self.refusal: Exception | None = None
        self.is_shut: bool = False
        self._max_wait = max_wait
        self._waits = patience > 0
        self._in_a_row = 0
        self._reached = False

    def passed(self) -> None:
        """Note a row that the provider did not turn away."""
        self._reached = True
        if not self.is_shut:
            self.refusal = None
            self._in_a_row = 0

    def refused(self, error: Exception) -> bool:
        """Note a row that failed; return whether it did by itself, and not along with the whole job."""
        most = self._most_in_a_row(error)
        if most is None:
            if not isinstance(error, InputError) and not kind_of(error).wrong_address:  # nothing was sent
                self.passed()
            return True
        if self.is_shut:
            return False
        self.refusal = error
        self._in_a_row += 1
        if self._in_a_row >= most:
            self.is_shut = True
            self.halt()
        return True

    def _most_in_a_row(self, error: Exception) -> int | None:
        """Return after how many errors like this the job is stopped; `None` if it is the row's own."""
        status = error.status if isinstance(error, ProviderError) else None
        if self._asks_too_much(error):
            return 1  # nobody sends until then, so that there would not be another one
        if self._has_wrong_address(error):
            return 1
        if isinstance(error, OutageError | AuthenticationError | QuotaExhaustedError):
            return MOST_FORBIDDEN if status == _FORBIDDEN else MOST_REFUSED
        # 404 is a model or a path that does not exist.
        return MOST_REFUSED if status == _NOT_FOUND else None

    def _has_wrong_address(self, error: Exception | None) -> bool:
        """Whether the address is wrong, as far as is known: nobody was reached there before."""
        return self._waits and not self._reached and kind_of(error).wrong_address

    def _asks_too_much(self, error: Exception | None) -> bool:
        """Whether the provider asks, for all that is sent, to wait for longer than that."""
        if not isinstance(error, ProviderError) or not kind_of(error).overloaded:
            return False
        return (error.retry_after or 0.0) > self._max_wait

    @property
    def is_wrong_address(self) -> bool:
        """Whether nobody was ever reached, and nobody can be: what is in flight is not worth waiting for."""
        return self._has_wrong_address(self.refusal)

    def reason(self) -> str:
        """Return why nobody is let through, in terms of the command."""
        error = self.refusal
        if isinstance(error, OutageError):
            return "the provider was down for longer than --patience"
        if isinstance(error, ProviderError) and self._asks_too_much(error):
            assert error.retry_after is not None
            return f"the provider asks to wait {_until(error.retry_after)}, which is more than --max-wait"
        if self.is_wrong_address:
            return "nobody can be reached at the provider's address"
        return "the provider lets no request through"


def _until(seconds: float) -> str:
    try:
        moment = datetime.now(UTC) + timedelta(seconds=seconds)
    except OverflowError:  # a time beyond what a calendar knows
        return f"{seconds:g} s"
    return f"until {moment:%Y-%m-%d %H:%M:%S} UTC"


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
