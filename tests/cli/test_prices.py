"""The price of a job's model, and the cost that follows from it, on the command line."""

from __future__ import annotations

import importlib.metadata
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batchrt import published_prices
from batchrt.cli.console import money
from batchrt.testing import MockProvider
from tests.cli.conftest import Command
from tests.cli.priced import in_the_place_of_openai, new_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return new_source(tmp_path)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> MockProvider:
    return in_the_place_of_openai(monkeypatch)


def tokens_of(text: str) -> tuple[int, int]:
    found = re.search(r"^tokens: ([\d,]+) in, ([\d,]+) out$", text, re.MULTILINE)
    assert found is not None
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


@pytest.mark.usefixtures("provider")
def test_published_price_is_used_by_default(command: Command, source: Path, tmp_path: Path) -> None:
    """The summary, the journal and each of its rows have the cost, with its currency and origin."""
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.journal"
    result = command("run", source, "-p", "{n}", "-m", "gpt-5-mini", "-o", out, "--journal", journal)
    assert result.code == 0
    given, taken = tokens_of(result.err)
    cost = published_prices("gpt-5-mini")["gpt-5-mini"].of(given, taken)
    version = importlib.metadata.version("genai-prices")
    assert f"\ncost: {money(cost)} US dollars, by genai-prices {version}\n" in result.err
    with closing(sqlite3.connect(journal)) as database:
        ((total, without),) = database.execute("SELECT sum(cost), sum(cost IS NULL) FROM rows")
    assert total == pytest.approx(cost)
    assert not without
    assert f"cost {cost:.4g}" in command("report", journal).out


@pytest.mark.usefixtures("provider")
def test_published_price_of_vectors_is_used(command: Command, source: Path) -> None:
    """Embedding models have a price of input alone."""
    result = command("embed", source, "--column", "n", "-m", "text-embedding-3-small")
    assert result.code == 0
    assert " US dollars, by genai-prices " in result.err


@pytest.mark.usefixtures("provider")
def test_price_by_hand_goes_before_the_published_one(command: Command, source: Path) -> None:
    """Its currency is the user's."""
    prices = ["--price-input", 1e6, "--price-output", 2e6]
    result = command("run", source, "-p", "{n}", "-m", "gpt-5-mini", *prices)
    given, taken = tokens_of(result.err)
    assert f"\ncost: {given + 2 * taken:,}.00\n" in result.err
    assert "genai-prices" not in result.err


@pytest.mark.usefixtures("provider")
@pytest.mark.parametrize("options", [["-m", "no-such-model"], ["--no-published-prices"]])
def test_unknown_price_leaves_the_cost_out(command: Command, source: Path, options: list[Any]) -> None:
    """The cost of an unknown model is not zero."""
    result = command("run", source, "-p", "{n}", *options)
    assert result.code == 0
    assert "cost" not in result.err


def test_published_price_limits_the_spending(command: Command, source: Path, provider: MockProvider) -> None:
    """`--max-cost` needs no price by hand."""
    price = published_prices("gpt-5-mini")["gpt-5-mini"]
    one = price.of(8, 10)
    options = ["-m", "gpt-5-mini", "--max-cost", 5 * one, "--max-tokens", 10, "-c", 1]
    result = command("run", source, "-p", "{n}", *options)
    assert result.code == 3
    assert 1 <= provider.log.snapshot().requests <= 6


@pytest.mark.usefixtures("provider")
def test_spending_limit_without_a_price_says_why(
    command: Command, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is unknown, or the package is not there."""
    limited = ["run", source, "-p", "{n}", "-m", "no-such-model", "--max-cost", 5]
    needed = "--max-cost needs --price-input and --price-output, in money per million tokens"
    version = importlib.metadata.version("genai-prices")
    assert command(*limited).complaint == f"{needed}: genai-prices {version} has no price of no-such-model"
    assert command(*limited, "--base-url", "http://127.0.0.1:9/v1").complaint.endswith(" at that --base-url")
    assert command(*limited, "--price-input", 1).complaint == needed
    assert command(*limited, "--no-published-prices").complaint == needed
    monkeypatch.setattr("batchrt.cli.prices.price_source", lambda: None)
    assert "; or install batchrt[prices]" in command(*limited).complaint


@pytest.mark.usefixtures("provider")
def test_cost_is_in_the_progress_line(
    command: Command, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without a limit."""
    monkeypatch.setattr("batchrt.cli.progress._LOG_SECONDS", 0.001)
    prices = ["--price-input", 1e6, "--price-output", 1e6]
    result = command("run", source, "-p", "{n}", "-c", 1, *prices, "-o", source.with_name("o.jsonl"))
    assert ", cost " in result.err.split("\n20 rows")[0]
