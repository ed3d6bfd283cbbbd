"""Outcomes: an item's output or error, with its attempts, seconds and tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar, cast, overload

from batchrt.errors import DeadlineExceededError, RunStoppedError, SpendingLimitError
from batchrt.messages import Usage
from batchrt.prices import Price
from batchrt.runtime.outcome_table import OutcomeTable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["BatchResult", "Outcome", "cost_of", "total"]

Out = TypeVar("Out")

Status: TypeAlias = Literal["done", "failed", "cancelled", "not started"]

_STATUSES: Final[tuple[Status, ...]] = ("done", "failed", "cancelled", "not started")


def total(bills: Mapping[str, Usage]) -> Usage:
    """Return the tokens of all models together."""
    return sum(bills.values(), Usage()) if len(bills) != 1 else next(iter(bills.values()))


def cost_of(bills: Mapping[str, Usage], prices: Price | Mapping[str, Price]) -> float | None:
    """Return the price of tokens by model; `None` if there is no price for one of the models."""
    cost = 0.0
    for model, usage in bills.items():
        price = prices.get(model) if isinstance(prices, Mapping) else prices
        if price is None:
            return None
        cost += price.of_usage(usage)
    return cost


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Out]):
    """Hold the output or the error of one input.

    Attributes:
        index: the input's place, from 0.
        output: its output, or `None` if it failed.
        error: why it failed, or `None`.
        attempts: 1 and one more for each retry of any of its steps.
        seconds: from its admission to its end.
        usage: the tokens it was billed, all its calls together; `None` if no server said.
        request_seconds: how long its requests took that were answered, from sending each to the end of its
            answer: without waits for a slot or a quota, without attempts that failed. Those of all its calls
            together, as for `usage`, and of a list the list's; `None` if it made none.
        usage_by_model: `usage` by the name of the model that was asked.
        waits: seconds in which its requests waited for a quota, by the reason: the name of a limit
            (`requests_per_minute`, `max_in_flight` …), `cool-down`, `outage` or `slow start`. `None` for no
            waits.
        cost: the price of `usage` by the run's `prices`; `None` without usage, or without a price for it.
        request_id: the provider's id of its last exchange that was answered, to quote to its support; `None`
            without one, and for inputs that shared a request.
    """

    index: int
    output: Out | None
    error: Exception | None
    attempts: int
    seconds: float
    usage: Usage | None
    request_seconds: float | None = None
    usage_by_model: Mapping[str, Usage] | None = None
    waits: Mapping[str, float] | None = None
    cost: float | None = None
    request_id: str | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an output."""
        return self.error is None

    @property
    def status(self) -> Status:
        """Its end in a word.

        `done` or `failed`; where the run ended early, `cancelled` for an item that was or may have been sent,
        and `not started` for one that is known not to have been.
        """
        if self.error is None:
            return "done"
        # By its type: an instance may answer anything when it is asked for its class.
        kind = type(self.error)
        if issubclass(kind, SpendingLimitError | RunStoppedError):
            error = cast("SpendingLimitError | RunStoppedError", self.error)
            return "cancelled" if error.started else "not started"
        return "cancelled" if issubclass(kind, DeadlineExceededError) else "failed"


@dataclass(frozen=True, slots=True, repr=False)
class BatchResult(Sequence[Outcome[Out]]):
    """Hold a run's outcomes, in input order.

    Attributes:
        outcomes: one for each input.
        seconds: the whole run, wall clock.
        ended: the limit of spending that ended it before all inputs were done; else `None`.
        prices: the run's, by which `cost` is counted.
    """

    outcomes: tuple[Outcome[Out], ...]
    seconds: float
    ended: SpendingLimitError | None = None
    prices: Price | Mapping[str, Price] | None = None

    def __repr__(self) -> str:
        counts = Counter(item.status for item in self.outcomes)
        told = ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])
        number = f"{len(self.outcomes)} item{'' if len(self.outcomes) == 1 else 's'}"
        return f"<BatchResult of {number} in {self.seconds:.2f} s: {told or 'nothing to do'}>"

    @overload
    def __getitem__(self, index: int) -> Outcome[Out]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome[Out]]: ...
    def __getitem__(self, index: int | slice) -> Outcome[Out] | Sequence[Outcome[Out]]:
        return self.outcomes[index]

    def __len__(self) -> int:
        return len(self.outcomes)

    def __iter__(self) -> Iterator[Outcome[Out]]:
        return iter(self.outcomes)

    @property
    def outputs(self) -> list[Out | None]:
        """The outputs in input order, `None` where an item failed."""
        return [outcome.output for outcome in self.outcomes]

    @property
    def errors(self) -> dict[int, Exception]:
        """The errors by input index."""
        return {item.index: item.error for item in self.outcomes if item.error is not None}

    @property
    def usage(self) -> Usage:
        """The tokens billed for all items together."""
        return sum((item.usage for item in self.outcomes if item.usage), Usage())

    @property
    def usage_by_model(self) -> dict[str, Usage]:
        """The tokens billed for all items together, by the name of the model that was asked."""
        totals: dict[str, Usage] = {}
        for item in self.outcomes:
            for model, usage in (item.usage_by_model or {}).items():
                known = totals.get(model)
                totals[model] = usage if known is None else known + usage
        return totals

    @property
    def cost(self) -> float | None:
        """The price of that by the run's `prices`; `None` without a price for each of the models."""
        prices = self.prices
        if prices is None:
            return None
        # Each for itself: their tiers may differ.
        costs = [cost_of(item.usage_by_model or {}, prices) for item in self.outcomes]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def summary(self) -> str:
        """Return one line: how many, how fast, how many tokens, and the commonest errors."""
        total, failed = len(self.outcomes), len(self.errors)
        rate = f"{total / self.seconds:.1f}/s" if self.seconds > 0 else "at once"
        parts = [f"{total - failed} of {total} items done in {self.seconds:.2f} s ({rate})"]
        retries = sum(item.attempts - 1 for item in self.outcomes)
        if retries:
            parts.append(f"{retries} retries")
        usage = self.usage
        if usage.total_tokens:
            parts.append(f"{usage.input_tokens} tokens in, {usage.output_tokens} out")
        cost = self.cost
        if cost:
            parts.append(f"cost {cost:.4g}")
        if self.ended is not None:
            counts = Counter(item.status for item in self.outcomes)
            told = ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])
            parts.append(f"ended early ({self.ended}): {told}")
        elif failed:
            parts.append(f"{failed} failed: {self._error_counts()}")
        return "; ".join(parts)

    def _error_counts(self) -> str:
        counts: dict[str, int] = {}
        for error in self.errors.values():
            name = type(error).__name__
            counts[name] = counts.get(name, 0) + 1
        ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return ", ".join(f"{count} {name}" for name, count in ranked)

    def to_arrow(self, inputs: Iterable[Any] | None = None) -> pa.Table:
        """Return the outcomes as an Arrow table, in input order; needs `batchrt[parquet]`.

        The columns: the fields of the inputs, if these are given (`input` for those without fields);
        `output`, or the fields of outputs that are models or dicts, of which lists and objects are JSON
        text; `error`, `attempts`, `seconds`, `request_seconds`, `input_tokens`, `output_tokens`, `cost`,
        `request_id`.

        Args:
            inputs: of the run, in their order.

        Raises:
            ImportError: pyarrow is not installed.
            ValueError: there is not one input for each outcome.
        """
        return OutcomeTable(self.outcomes, inputs).to_arrow()

    def to_pandas(self, inputs: Iterable[Any] | None = None) -> pd.DataFrame:
        """Return the outcomes as a data frame; needs `batchrt[pandas]`.

        The columns are those of `to_arrow`, with lists and objects as they are.

        Args:
            inputs: of the run, in their order.

        Raises:
            ImportError: pandas is not installed.
            ValueError: there is not one input for each outcome.
        """
        return OutcomeTable(self.outcomes, inputs).to_pandas()

    def raise_for_errors(self) -> None:
        """Raise nothing if every item has an output.

        Raises:
            ExceptionGroup: with the items' errors, in input order.
        """
        errors = list(self.errors.values())
        if errors:
            raise ExceptionGroup(f"{len(errors)} of {len(self)} items failed", errors)
