"""Options: parsed, refused in one line, and as they reach the API."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from batchrt.cli import models
from batchrt.cli.budget import Budget
from batchrt.cli.counts import Counts, Kind
from batchrt.cli.errors import UsageError
from batchrt.cli.models import url_hint
from batchrt.cli.option_values import (
    check_text,
    read_concurrency,
    read_delimiter,
    read_headers,
    read_options,
    read_whole,
)
from batchrt.cli.prices import KnownPrice
from batchrt.limits.adaptive_concurrency import MOST_AT_ONCE
from batchrt.messages import Usage
from batchrt.prices import Price
from batchrt.testing import MockProvider
from tests.cli.conftest import Command


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 19, str(sys.maxsize + 1), "0" * 9 + "9" * 30])
def test_options_may_be_huge_numbers(text: str) -> None:
    """More than a machine counts to is as much as it counts to."""
    assert read_whole(text) == read_concurrency(text) == sys.maxsize


@pytest.mark.parametrize("text", ["0", "000", "", "-1", "1.5", "²", "1e3", "+1", " 1"])
def test_options_that_are_no_whole_number(text: str) -> None:
    """Are none."""
    assert read_whole(text) is None
    with pytest.raises(UsageError, match="positive whole number or auto"):
        read_concurrency(text)


@pytest.mark.parametrize("limit", ["99999999999999999999", str(2**63), str(2**200), str(2**63 - 1)])
def test_options_limit_rows_to_all_of_them(command: Command, tmp_path: Path, limit: str) -> None:
    """If the number is larger than there are."""
    path = tmp_path / "in.csv"
    path.write_text("text\na\n")
    for name in ("run", "embed"):
        asked = ["-p", "{text}"] if name == "run" else ["--column", "text"]
        result = command(name, path, *asked, "-m", "mock", "-n", limit, "-q")
        assert (result.code, len(result.out.splitlines())) == (0, 1)


def test_options_of_the_api_reach_it(command: Command, tmp_path: Path) -> None:
    """As JSON, or as text where that is none; and so do headers."""
    path = tmp_path / "in.csv"
    path.write_text("text\na\n")
    bodies: list[dict[str, Any]] = []

    def reply(body: Any) -> str:
        bodies.append(dict(body))
        return "ok"

    given = ["top_p=0.5", 'stop=["END"]', "user=a=b", 'metadata={"a": null}', "service_tier=flex", "seed=7"]
    options = [part for option in given for part in ("--option", option)]
    with MockProvider(answer=reply, api_key="k").serve() as server:
        where = ["--base-url", server.base_url, "--header", "Authorization: Bearer k"]
        result = command("run", path, "-p", "{text}", "-q", *where, *options)
    assert result.code == 0
    sent = {"top_p": 0.5, "stop": ["END"], "user": "a=b", "metadata": {"a": None}, "seed": 7}
    assert bodies[0].items() >= (sent | {"service_tier": "flex"}).items()


@pytest.mark.parametrize(
    "option",
    ["a", "=1", "", "x=NaN", "x=[Infinity]", "n=2", "messages=[]", "temperature=9", "seed=x", "api_key=k"],
)
def test_options_of_the_api_that_make_no_sense(command: Command, tmp_path: Path, option: str) -> None:
    """Are said before anything is sent."""
    path = tmp_path / "in.csv"
    path.write_text("text\na\n")
    result = command("run", path, "-p", "{text}", "-m", "mock", "--option", option)
    assert result.code == 2
    assert "--option" in result.complaint


@pytest.mark.parametrize(
    "header", ["sk-secret", ":sk-secret", " : sk-secret", "a b: sk-secret", "X: sk-secrét", "X: sk-secret\n"]
)
def test_options_headers_that_are_none_do_not_show(command: Command, tmp_path: Path, header: str) -> None:
    """A value may be a key."""
    path = tmp_path / "in.csv"
    path.write_text("text\na\n")
    where = ["--base-url", "http://127.0.0.1:9/v1"]
    try:
        parsed = read_headers([header])
    except UsageError:
        parsed = {}
    if header.startswith("X") and header.endswith("\n"):
        assert parsed == {"X": "sk-secret"}
        return
    result = command("run", path, "-p", "{text}", *where, "--header", header)
    assert result.code == 2
    assert "secr" not in result.err


def test_options_name_characters_in_words() -> None:
    """A tab is hard to type."""
    assert [read_delimiter(name) for name in ("tab", "\\t", "TAB", ";", None)] == [
        "\t",
        "\t",
        "\t",
        ";",
        None,
    ]
    assert read_options(None) == {}
    check_text(
        ["run", "caf\udce9.csv", "-o", "\udce9", "-p", "@\udce9", "--schema=\udce9", "--overwrite", "\udce9"]
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://host:8000", "--base-url has no /v1"),
        ("http://host/api/", "--base-url has no /v1"),
        ("http://host/v1/v1", "has /v1 twice"),
        ("http://host/v1/chat/completions", "ends with /chat/completions, which is added"),
        ("http://host/v1/embeddings/", "ends with /embeddings"),
        ("http://host/v1", ""),
        ("https://host/v1beta/openai", ""),
        ("https://x.openai.azure.com/openai/deployments/d?api-version=1", ""),
        ("http://[", ""),
        (None, ""),
    ],
)
def test_options_urls_that_nothing_came_from_are_looked_at(url: str | None, words: str) -> None:
    """Only then, and only if a path may be wrong."""
    counts = Counts(failed=1, kinds={"BadRequestError": Kind("404")})
    assert url_hint(url, counts).find(words) >= 0
    assert bool(url_hint(url, counts)) == bool(words)
    counts.answered = 1
    assert not url_hint(url, counts)
    assert not url_hint(url, Counts(failed=1, kinds={"ConnectionFailedError": Kind("no")}))


@pytest.mark.parametrize(
    "prompt", ['Like {"label": "x"} for {text}', "{ text }", "{\n{text}", "{'a': 1}", "[{[]}]"]
)
def test_options_braces_that_are_no_fields_are_explained(
    command: Command, tmp_path: Path, prompt: str
) -> None:
    """Those of JSON, mostly."""
    path = tmp_path / "in.csv"
    path.write_text("text\na\n")
    result = command("run", path, "-p", prompt, "-m", "mock")
    assert result.code == 2
    assert "{{ and }}" in result.complaint


def test_options_prices_without_a_limit_show_the_cost(command: Command, tmp_path: Path) -> None:
    """As far as there are prices."""
    path = tmp_path / "in.csv"
    path.write_text("text\n" + "a\n" * 9)
    run = ["run", path, "-p", "{text}", "-m", "mock"]
    both = command(*run, "--price-input", 1e6, "--price-output", 1e6)
    tokens = [int(part.split()[0]) for part in both.err.split("tokens: ")[1].split("\n")[0].split(", ")]
    assert f"\ncost: {sum(tokens):,}.00\n" in both.err
    one = command(*run, "--price-input", 1e6)
    assert f"\ncost: {tokens[0]:,}.00 (without what --price-output would tell)\n" in one.err
    embedded = command("embed", path, "--column", "text", "-m", "mock", "--price-input", 1e6)
    assert "\ncost: " in embedded.err
    assert json.loads(embedded.out.splitlines()[0])["error"] is None


def test_options_prices_without_a_limit_show_the_cost_as_a_limit_counts_it() -> None:
    """With a tenth for cached input, and half for the flex tier."""
    budget = Budget(known=KnownPrice(Price(1.0, 2.0)))
    counts = Counts(price=budget.price)
    counts.add_usage(Usage(1_000_000, 0, 1_000_000, cached_input_tokens=1_000_000))
    counts.add_usage(Usage(1_000_000, 0, 1_000_000, service_tier="flex"))
    counts.add_usage(Usage(0, 1_000_000, 1_000_000, service_tier="flex"))
    assert budget.cost_of(counts) == "cost: 1.60"
    counts.estimated_tokens = 1_000_000
    assert budget.cost_of(counts) == "cost: about 2.60"


def test_options_auto_needs_files_for_as_many_as_it_tries() -> None:
    """The library's own highest limit."""
    assert models._AUTO_AT_MOST == MOST_AT_ONCE
