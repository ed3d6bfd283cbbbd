"""Jobs that may spend so much and no more; in virtual time."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchrt.cli.console import money
from batchrt.testing import MockProvider
from tests.cli.conftest import Command, Result

pytestmark = pytest.mark.usefixtures("virtual_time")

COUNT = 200
TOKENS = {"run": 16, "embed": 3}
"""Of a row: a prompt of six with an answer of ten, and a text of three."""
COSTS = {"run": 26, "embed": 3}
"""Of a row, by `PRICES`."""
GUESS = 60
"""More than is expected of a request before there was an answer."""
COMMANDS: dict[str, list[Any]] = {
    "run": ["run", "--prompt", "{n}", "--max-tokens", "10"],
    "embed": ["embed", "--column", "n", "--id", "n", "--max-batch-size", "1"],
}
PRICES: dict[str, list[Any]] = {
    "run": ["--price-input", 1e6, "--price-output", 2e6],
    "embed": ["--price-input", 1e6],
}
"""A token of a prompt costs 1, one of an answer 2."""


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Hold rows that say which they are, in eleven characters."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"n": "{number:011}"}}\n' for number in range(COUNT)))
    return path


@pytest.fixture(params=COMMANDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def job(name: str, numbers: Path) -> list[Any]:
    """Be either command, of requests for one row each, all of one size."""
    return job_of(name, numbers)


def job_of(name: str, source: object) -> list[Any]:
    command, *options = COMMANDS[name]
    return [command, source, "--model", "mock", *options, "--max-concurrency", 10]


def put_in_place(monkeypatch: pytest.MonkeyPatch, **options: Any) -> MockProvider:
    """Have the built-in model be one of a provider with these options."""
    given = {"latency": 1.0, "dimensions": 2, "answer": lambda _body: "x" * 40, **options}
    provider = MockProvider(**given)
    monkeypatch.setattr("batchrt.testing.MockProvider", lambda: provider)
    return provider


def rows(result: Result) -> Iterator[int]:
    """Give the rows that were written, none of which failed."""
    for line in result.out.splitlines():
        row = json.loads(line)
        assert row["error"] is None
        yield int(row.get("n", row.get("id")))


def line(result: Result, start: str) -> str:
    [found] = [line for line in result.err.splitlines() if line.startswith(start)]
    return found


def sent(provider: MockProvider) -> int:
    return provider.log.snapshot().requests


@pytest.mark.parametrize("limit", [75, 300, 1000])
def test_budget_limit_of_tokens_ends_the_job(
    command: Command, name: str, job: list[Any], monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """In good order: nothing beyond it is sent, what was sent is written, and the code and a line say so."""
    provider = put_in_place(monkeypatch)
    result = command(*job, "--max-tokens-total", limit)
    done = list(rows(result))
    if TOKENS[name] * COUNT <= limit:
        assert (result.code, len(done)) == (0, COUNT)
        return
    assert result.code == 3
    assert sorted(set(done)) == done
    assert sent(provider) == len(done)
    spent = TOKENS[name] * len(done)
    assert limit - GUESS < spent <= limit
    told = line(result, "stopped at ")
    start = f"stopped at --max-tokens-total {limit}: {spent:,} tokens spent; {len(done)} done, "
    assert told.startswith(start)
    cancelled, rest = map(int, re.findall(r"(\d+) cancelled, not started: (\d+) rows$", told)[0])
    assert len(done) + cancelled + rest == COUNT
    assert line(result, f"{len(done)} rows in ").endswith(f": {len(done)} done, 0 failed")


def test_budget_limit_of_money_ends_the_job(
    command: Command, name: str, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the prices of both kinds of tokens, where there are answers to pay for."""
    put_in_place(monkeypatch)
    each = COSTS[name]
    result = command(*job, "--max-cost", 50 * each + 1, *PRICES[name])
    assert result.code == 3
    done = len(list(rows(result)))
    assert 50 - GUESS / 3 < done <= 50
    told = line(result, f"stopped at --max-cost {50 * each + 1}: ")
    assert f": {money(done * each)} spent; {done} done, " in told


def test_budget_limit_that_is_not_reached_changes_nothing(
    command: Command, name: str, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the rows, not the code, not the summary."""
    put_in_place(monkeypatch)
    result = command(*job, "--max-tokens-total", 10**6, "--max-cost", 1e6, *PRICES[name])
    assert result.code == 0
    assert list(rows(result)) == [*range(COUNT)]
    assert "stopped" not in result.err


@pytest.mark.parametrize("tokens", [60, 10**6])
def test_budget_of_two_limits_the_one_that_was_reached_is_told(
    command: Command, name: str, job: list[Any], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    """The message names the option to raise."""
    put_in_place(monkeypatch)
    cost = 1e6 if tokens == 60 else 100
    result = command(*job, "--max-tokens-total", tokens, "--max-cost", cost, *PRICES[name])
    assert result.code == 3
    told = line(result, "stopped at ")
    assert ("--max-tokens-total" in told) == (tokens == 60)
    assert ("--max-cost" in told) == (tokens != 60)


def test_budget_limit_that_the_last_row_reaches_leaves_no_rest(
    command: Command, name: str, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows were begun, and the last ones are cancelled."""
    put_in_place(monkeypatch)
    each = TOKENS[name]
    result = command(*job, "-n", 10, "--max-tokens-total", 9 * each + each - 1)
    assert result.code == 3
    told = line(result, "stopped at ")
    assert told.endswith(f"{len(list(rows(result)))} done, {10 - len(list(rows(result)))} cancelled")


def test_budget_quiet_leaves_the_reason(
    command: Command, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for every other job that does not come to the end of its input."""
    put_in_place(monkeypatch)
    result = command(*job, "--max-tokens-total", 1, "-q")
    assert (result.code, result.out) == (3, "")
    start = "stopped at --max-tokens-total 1: nothing was sent, as the first request may take "
    assert re.match(start + r"\d\d tokens; 0 done, 1 cancelled, not started: 199 rows$", result.complaint)


def test_budget_first_request_beyond_the_limit_is_told_with_its_estimate(
    command: Command, name: str, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In money as well: the number to set the limit by."""
    provider = put_in_place(monkeypatch)
    result = command(*job, "--max-cost", 2, *PRICES[name])
    assert (result.code, sent(provider)) == (3, 0)
    told = line(result, "stopped at --max-cost 2: nothing was sent, as the first request may cost ")
    assert float(told.split("may cost ")[1].split(";")[0]) > 2


def test_budget_failures_are_not_paid_and_are_told(
    command: Command, name: str, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that failed are written with their errors; the code is that of the limit."""
    put_in_place(monkeypatch, reject=lambda text: str(text).endswith(("3", "5")))
    result = command(*job, "--max-tokens-total", 40 * TOKENS[name])
    assert result.code == 3
    written = [json.loads(text) for text in result.out.splitlines()]
    failed = sum(row["error"] is not None for row in written)
    done = len(written) - failed
    assert failed
    assert 40 - GUESS / 3 < done <= 40
    told = line(result, "stopped at ")
    assert f": {done * TOKENS[name]:,} tokens spent; {done} done, {failed} failed, " in told


def test_budget_spending_is_shown_in_progress_lines(
    command: Command, name: str, job: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside how much may be; in lines every five seconds where there is no terminal."""
    put_in_place(monkeypatch, latency=1.1)
    result = command(*job, "--max-tokens-total", 10**6, "--max-cost", 1e6, *PRICES[name])
    shown = line(result, "batchrt: 40 of 200 done")
    each = COSTS[name]
    spent = f"{money(40 * each)} of 1,000,000.00 spent, {40 * TOKENS[name]} of 1M tokens spent"
    assert f", ETA 20 s, {spent}, " in shown


def test_budget_rows_of_a_pipe_are_not_waited_for(
    command: Command, name: str, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the input is left where it is."""
    put_in_place(monkeypatch)
    result = command(
        *job_of(name, "-"), "--format", "jsonl", "--max-tokens-total", 150, stdin=numbers.read_bytes()
    )
    assert result.code == 3
    done = list(rows(result))
    assert sorted(set(done)) == done
    assert TOKENS[name] * len(done) <= 150
    assert line(result, "stopped at ").endswith(" cancelled, not started: the rest of the input")


def test_budget_list_is_sent_as_a_whole_or_not_at_all(
    command: Command, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not fit is not tried in parts, and its rows are told as cancelled."""
    provider = put_in_place(monkeypatch)
    options = ["--max-batch-size", 8, "--max-tokens-total", 70, "--max-concurrency", 1]
    result = command("embed", numbers, "--model", "mock", "--column", "n", *options)
    assert result.code == 3
    assert len(list(rows(result))) == 16
    assert sent(provider) == 2
    told = "stopped at --max-tokens-total 70: 48 tokens spent; 16 done, 8 cancelled, "
    assert line(result, "stopped at ").startswith(told)
    assert line(result, "2 lists sent") == "2 lists sent, of 8 texts on average"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--max-cost", 5], "--max-cost needs --price-input"),
        (["--max-cost", 0, "--price-input", 1], "--max-cost must be a number above 0, not 0"),
        (["--max-cost", -1, "--price-input", 1], "--max-cost must be a number above 0, not -1"),
        (["--max-cost", math.inf, "--price-input", 1], "--max-cost must be a number above 0, not inf"),
        (["--max-cost", math.nan, "--price-input", 1], "--max-cost must be a number above 0, not nan"),
        (["--max-cost", 5, "--price-input", -1], "--price-input must be a number, 0 or more, not -1"),
        (["--max-cost", 5, "--price-input", math.nan], "--price-input must be a number, 0 or more, not nan"),
        (["--price-input", -1], "--price-input must be a number, 0 or more, not -1"),
        (["--price-input", math.inf], "--price-input must be a number, 0 or more, not inf"),
        (["--max-tokens-total", 0], "'--max-tokens-total'"),
        (["--max-tokens-total", "1.5"], "'--max-tokens-total'"),
    ],
)
def test_budget_limits_that_make_no_sense(
    command: Command, job: list[Any], options: list[Any], problem: str
) -> None:
    """Nothing is sent and nothing written before they are put right."""
    result = command(*job, *options)
    assert result.code == 2
    assert problem in result.complaint


def test_budget_answers_have_a_price_of_their_own(command: Command, numbers: Path) -> None:
    """Of which `embed` knows nothing, for it has none."""
    priced = ["--max-cost", 5, "--price-input", 1]
    result = command(*job_of("run", numbers), *priced)
    assert result.code == 2
    wanted = "--max-cost needs --price-input and --price-output, in money per million tokens"
    assert result.complaint == wanted
    result = command(*job_of("embed", numbers), *priced, "--price-output", 2)
    assert result.code == 2
    assert "--price-output" in result.complaint


def test_budget_help_tells_the_code(command: Command, name: str) -> None:
    """With the others."""
    assert " 3 stopped at a limit of spending," in " ".join(command(name, "--help").out.split())


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0.00"),
        (4.98, "4.98"),
        (1250, "1,250.00"),
        (1, "1.00"),
        (0.5, "0.500"),
        (0.00312, "0.00312"),
        (1.234e-7, "0.000000123"),
    ],
)
def test_budget_money_is_told_as_people_do(amount: float, text: str) -> None:
    """Without exponents, and exact enough to see it grow."""
    assert money(amount) == text
