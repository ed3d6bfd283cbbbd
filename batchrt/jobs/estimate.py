"""The estimate of a job: rows, tokens, cost and time, before any request is sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from batchrt.jobs.identity import Identity
from batchrt.jobs.journal import Journal
from batchrt.jobs.journal_file import copy_journal
from batchrt.jobs.matching import Matcher, Matches
from batchrt.jobs.records import decode_json, encode_input
from batchrt.jobs.request_tokens import RequestTokens, count_request
from batchrt.jobs.rows import Given, JobSource, open_rows, read_rows
from batchrt.prices import Price
from batchrt.providers.embeddings.tokenizer import Tokenizer, TokenizerName, tokenizer_of
from batchrt.runnables.base import RunnableLike, coerce
from batchrt.runnables.description import Description

__all__ = ["ExampleRequest", "JobEstimate", "estimate_job"]

_GUESSED_OUTPUT: Final = 256
"""Tokens of an answer whose length nothing bounds; `max_cost` reserves as many before the first answer."""
_OF_CHATS: Final = "o200k_base"
"""The encoding of OpenAI's chat models since GPT-4o, also of those that tiktoken does not know yet."""
_PER: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}


class ExampleRequest(NamedTuple):
    """Show a request that the job would send.

    Attributes:
        position: the row's place in the source, from 0.
        body: its JSON; of an embedding model the text.
    """

    position: int
    body: Any


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """Estimate a job; nothing was sent.

    Each row counts as one request. Retries, repeated questions of structured outputs and further requests
    of a chain are not known beforehand, nor are tokens that the provider has in its cache.

    Attributes:
        rows: rows of the source.
        to_send: rows that a request would be sent for.
        invalid: rows that would fail without a request, since they cannot be read or rendered.
        invalid_example: the position of the first of these and its error, or `None`.
        matches: the counts of rows by how they match the journal; `None` without a journal.
        input_tokens: tokens of the prompts; `None` if a function stands before the model, so that the
            requests are not known without calling it.
        max_output_tokens: the most tokens of the answers; `None` if nothing bounds them.
        answers: how many answers are asked for; 0 for vectors.
        tokenizer: what counted the tokens: `estimate`, or tiktoken's name of the encoding.
        uncounted: rows with images, audio or files, whose tokens are not counted.
        input_cost: the price of the input tokens; `None` if the model's price is not known.
        max_cost: the price of these and of `max_output_tokens`; `None` if either is not known.
        guessed_cost: the price of these with at most 256 tokens for each answer, which `max_cost` reserves
            before the first answer, too; `None` if the model's price is not known.
        model: the model's name.
        examples: the first requests.
    """

    rows: int = 0
    to_send: int = 0
    invalid: int = 0
    invalid_example: tuple[int, Exception] | None = None
    matches: Matches | None = None
    input_tokens: int | None = None
    max_output_tokens: int | None = None
    answers: int = 0
    tokenizer: str = "estimate"
    uncounted: int = 0
    input_cost: float | None = None
    max_cost: float | None = None
    guessed_cost: float | None = None
    model: str | None = None
    examples: tuple[ExampleRequest, ...] = ()

    def least_seconds(self, limits: Mapping[str, float]) -> float | None:
        """Return the least time that the job takes under rate limits; `None` if none of them says.

        Args:
            limits: by name, as in `QuotaStatistics.limits`: `requests_per_minute`, `tokens_per_day` …
        """
        # The first request need not wait, and lists of texts are fewer requests than rows.
        requests = max(0, self.to_send - 1) if self.answers else None
        amounts = {"requests": requests, "tokens": self.input_tokens}
        times = []
        for name, limit in limits.items():
            unit, _, period = name.partition("_per_")
            amount = amounts.get(unit)
            if amount is not None and period in _PER and limit > 0:
                # The limit of a day may be used up at once.
                beyond = amount if period != "day" else max(0.0, amount - limit)
                times.append(beyond * _PER[period] / limit)
        return max(times, default=None)


def estimate_job(
    chain: RunnableLike[Any, Any],
    source: JobSource,
    *,
    prices: Price | Mapping[str, Price] | None = None,
    tokenizer: TokenizerName = "estimate",
    examples: int = 3,
    limit: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    reuse_any: bool = False,
    retry_failed: bool = False,
    version: str | None = None,
    check: Callable[[], object] = lambda: None,
) -> JobEstimate:
    """Return the estimate of a chain over the rows of `source`; nothing is sent, and no file is changed.

    With a journal, rows that have an outcome in it are not counted as sent. It is copied to a temporary
    folder (`TMPDIR`), for which there must be room.

    Args:
        chain: the chain.
        source: as for `Job`; an iterator is used up, and an async iterable is refused.
        prices: as in `RunConfig`.
        tokenizer: `estimate`, or `tiktoken` for exact counts of OpenAI's models (`batchrt[tiktoken]`; it
            downloads an encoding when it is first used).
        examples: how many of the first requests to keep.
        limit: the most rows to read.
        journal: the path of the job's journal; one that does not exist is empty.
        reuse_any: use outcomes of other chains with the same input, as `reuse="any"` of `Job` does.
        retry_failed: count rows that failed before as sent.
        version: stands for the code of the chain's functions; needed as for `Job`, with a journal.
        check: called before each row; an exception of it ends the estimate.

    Raises:
        InputError: the source cannot be read.
        JournalError: the journal cannot be read.
        ImportError, TokenizerError: tiktoken is not installed, or cannot load its encoding.
        TypeError: the source is an async iterable, or a row cannot be kept in a journal.
        ValueError: a function of the chain cannot be compared, and there is no version.
    """
    runnable = coerce(chain)
    described = runnable.describe()
    sums = _Sums(described, prices, tokenizer, examples)
    with ExitStack() as stack:
        rows = stack.enter_context(open_rows(source))
        if not hasattr(rows, "__iter__"):
            raise TypeError("an async iterable cannot be read for an estimate; give a list or a file")
        given = _checked(read_rows(rows, limit), check)
        matcher = None
        if journal is None:
            _add_all(sums, given)
        else:
            copy = stack.enter_context(_copied(os.fspath(journal)))
            identity = Identity(runnable, version)
            matcher = Matcher(copy, identity, reuse_any=reuse_any, retry_failed=retry_failed)
            _add_matched(sums, given, matcher)
        return sums.estimate(None if matcher is None else matcher.matches)


def _checked(given: Iterator[Given], check: Callable[[], object]) -> Iterator[Given]:
    for row in given:
        check()
        yield row


@contextmanager
def _copied(path: str) -> Iterator[Journal]:
    """Open a copy of a journal, since matching rows with it changes it."""
    with TemporaryDirectory(prefix="batchrt-") as folder:
        copy = str(Path(folder) / "journal")
        if Path(path).exists():
            copy_journal(path, copy)
        with Journal(copy) as journal:
            yield journal


def _add_all(sums: _Sums, given: Iterator[Given]) -> None:
    for position, (value, _, error) in enumerate(given):
        sums.rows += 1
        sums.add(position, value, error)


def _add_matched(sums: _Sums, given: Iterator[Given], matcher: Matcher) -> None:
    for value, recorded, error in given:
        sums.rows += 1
        for row in matcher.match(value, encode_input(recorded), error):
            sums.add(row.position, row.value, row.error)
    for row in matcher.finish():
        sums.add(row.position, row.value, row.error)


@dataclass(slots=True)
class _Sums:
    """Add up the requests of rows."""

    described: Description
    prices: Price | Mapping[str, Price] | None
    tokenizer: TokenizerName
    most_examples: int
    rows: int = 0
    to_send: int = 0
    invalid: int = 0
    invalid_example: tuple[int, Exception] | None = None
    uncounted: int = 0
    answers: int = 0
    unbounded: int = 0
    input: float = 0.0
    output: float = 0.0
    costs: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    examples: list[ExampleRequest] = field(default_factory=list)
    _counter: Tokenizer | None = None

    @property
    def is_rendered(self) -> bool:
        """Whether the requests are known."""
        return self.described.asks and self.described.render is not None

    @property
    def price(self) -> Price | None:
        """The price of the model."""
        prices, model = self.prices, self.described.model
        return (prices.get(model) if model else None) if isinstance(prices, Mapping) else prices

    def add(self, position: int, value: Any, error: Exception | None) -> None:
        """Add the request of a row."""
        if error is not None:
            self._add_invalid(position, error)
            return
        if not self.is_rendered:
            self.to_send += 1
            return
        assert self.described.render is not None
        try:
            body = decode_json(self.described.render(value).decode())
        except Exception as problem:  # noqa: BLE001  the run raises it again, as the row's error
            self._add_invalid(position, problem)
            return
        self.to_send += 1
        if len(self.examples) < self.most_examples:
            self.examples.append(ExampleRequest(position, body))
        self._count(body)

    def _add_invalid(self, position: int, error: Exception) -> None:
        self.invalid += 1
        if self.invalid_example is None:
            self.invalid_example = (position, error)

    def _count(self, body: Any) -> None:
        if self._counter is None:
            is_chat = isinstance(body, Mapping)
            others = {"otherwise": _OF_CHATS} if is_chat else {}
            self._counter = tokenizer_of(self.tokenizer, self.described.model or "", **others)
        tokens = count_request(body, self._counter.cost)
        self.input += tokens.input
        self.answers += tokens.answers
        self.uncounted += tokens.is_partial
        if tokens.output is None:
            self.unbounded += 1
        else:
            self.output += tokens.output
        if self.price is not None:
            tier = body.get("service_tier") if isinstance(body, Mapping) else None
            self._add_cost(self.price, tokens, tier if isinstance(tier, str) else None)

    def _add_cost(self, price: Price, tokens: RequestTokens, tier: str | None) -> None:
        most = tokens.output
        guess = _GUESSED_OUTPUT * tokens.answers
        outputs = (0.0, most or 0.0, guess if most is None else min(most, guess))
        for place, output in enumerate(outputs):
            self.costs[place] += price.of(tokens.input, output, 0.0, tier)

    def estimate(self, matches: Matches | None) -> JobEstimate:
        """Return the sums."""
        is_known = self.is_rendered or not self.to_send
        is_priced = is_known and self.price is not None
        is_bounded = is_known and not self.unbounded
        return JobEstimate(
            rows=self.rows,
            to_send=self.to_send,
            invalid=self.invalid,
            invalid_example=self.invalid_example,
            matches=matches,
            input_tokens=round(self.input) if is_known else None,
            max_output_tokens=round(self.output) if is_bounded else None,
            answers=self.answers,
            tokenizer="estimate" if self._counter is None else self._counter.name,
            uncounted=self.uncounted,
            input_cost=self.costs[0] if is_priced else None,
            max_cost=self.costs[1] if is_priced and is_bounded else None,
            guessed_cost=self.costs[2] if is_priced else None,
            model=self.described.model,
            examples=tuple(self.examples),
        )
