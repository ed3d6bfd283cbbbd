"""The dry run and the question before a dear job: both send nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchrt.testing import MockProvider
from tests.cli.conftest import Command
from tests.cli.priced import ROWS, in_the_place_of_openai, new_source

PRICES = ["--price-input", 1e6, "--price-output", 2e6]
"""A token of a prompt costs 1, one of an answer 2."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return new_source(tmp_path)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> MockProvider:
    return in_the_place_of_openai(monkeypatch)


def sent(provider: MockProvider) -> int:
    return provider.log.snapshot().requests


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_dry_run_shows_the_job_and_sends_nothing(
    command: Command, source: Path, provider: MockProvider
) -> None:
    """Prompts, parameters, rows, tokens, cost and time; no file is made."""
    before = files(source.parent)
    result = command(
        *("run", source, "-p", "Say {n}", "--system", "Be brief", "-m", "gpt-5-mini", "--dry-run"),
        *("--temperature", 0.5, "--max-tokens", 10, "--rpm", 60, "-o", source.with_name("out.jsonl")),
    )
    assert result.code == 0
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[:3] == ["row 1:", "  system: Be brief", "  user: Say 0000"]
    assert lines[6:9] == ["row 3:", "  system: Be brief", "  user: Say 0002"]
    assert lines[9] == "model: gpt-5-mini, temperature 0.5, max_tokens 10, at https://api.openai.com/v1"
    assert lines[10] == "rows: 20, of which 20 would be sent"
    assert re.fullmatch(
        r"tokens: about \d+ in \(an estimate; --tokenizer tiktoken counts them\), at most 200 out", lines[11]
    )
    assert re.fullmatch(r"cost: 0\.000\d+ to 0\.000\d+ US dollars, by genai-prices [\d.]+", lines[12])
    assert lines[13] == "time: at least 19 s, at 60 requests per minute"
    assert lines[14:] == ["dry run: nothing was sent"]
    assert sent(provider) == 0
    assert files(source.parent) == before


def test_dry_run_needs_no_key(command: Command, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The price is known before there is one; the run itself says how to give it."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    job = ("run", source, "-p", "{n}", "-m", "gpt-5-mini", "-o", source.with_name("out.jsonl"))
    assert command(*job, "--dry-run").code == 0
    refused = command(*job)
    assert refused.code == 2
    assert "there is no API key" in refused.complaint


def test_dry_run_cost_is_that_of_the_run(command: Command, source: Path, provider: MockProvider) -> None:
    """Within the range, for as many rows."""
    options = ["run", source, "-p", "Say {n}", "-m", "m", "--max-tokens", 10, *PRICES, "-o"]
    told = command(*options, source.with_name("a.jsonl"), "--dry-run").out
    found = re.search(r"^cost: ([\d,.]+) to ([\d,.]+)$", told, re.MULTILINE)
    assert found is not None
    least, most = (float(each.replace(",", "")) for each in found.groups())
    spent = re.search(r"^cost: ([\d,.]+)$", command(*options, source.with_name("a.jsonl")).err, re.MULTILINE)
    assert spent is not None
    assert 0.5 * least < float(spent[1].replace(",", "")) <= most
    assert sent(provider) == ROWS


@pytest.mark.usefixtures("provider")
def test_dry_run_counts_the_rows_that_are_selected(command: Command, source: Path) -> None:
    """`--limit` and `--sample`, and as many requests are shown as `--show` says."""
    dry = ["run", source, "-p", "{n}", "--dry-run", "--show", 1]
    limited = command(*dry, "--limit", 7)
    assert "rows: 7, of which 7 would be sent" in limited.out
    assert limited.out.count("\n  user: ") == 1
    assert "rows: 5, of which 5 would be sent" in command(*dry, "--sample", 5).out
    assert "row 1:" not in command(*dry, "--show", 0).out


@pytest.mark.usefixtures("provider")
def test_dry_run_of_a_resumed_job_counts_the_rest(
    command: Command, source: Path, provider: MockProvider
) -> None:
    """Rows in the journal are not sent; the journal is not changed."""
    out, journal = source.with_name("out.jsonl"), source.with_name("out.journal")
    resumed = ["run", source, "-p", "{n}", "-o", out, "--journal", journal]
    assert command(*resumed, "--limit", 8).code == 0
    before, requests = files(source.parent), sent(provider)
    told = command(*resumed, "--dry-run")
    assert told.code == 0
    assert "rows: 20, of which 12 would be sent (by the journal: 8 done, 12 new)" in told.out
    assert told.out.startswith("row 9:\n  user: 0008\n")
    changed = command(*resumed, "--dry-run", "--temperature", 0.5).out
    assert "of which 20 would be sent (by the journal: 8 changed, 12 new)" in changed
    assert "rows: 20, of which 20 would be sent\n" in command(*resumed, "--dry-run", "--fresh").out
    assert files(source.parent) == before
    assert sent(provider) == requests


def test_dry_run_of_vectors_counts_texts(command: Command, source: Path, provider: MockProvider) -> None:
    """With the price of input alone, and the rows that the journal beside the output lacks."""
    vectors = ["embed", source, "--text", "Say {n}", "-o", source.with_name("out.npy")]
    told = command(*vectors, "--dry-run", "--show", 1)
    assert told.code == 0
    assert told.out.startswith("row 1:\n  text: Say 0000\nmodel: text-embedding-3-small, at https://")
    assert "rows: 20, of which 20 would be sent\n" in told.out
    assert re.search(r"\ncost: 0\.0000\d+ US dollars, by genai-prices", told.out)
    assert list(source.parent.iterdir()) == [source]
    assert sent(provider) == 0
    assert command(*vectors, "--limit", 5).code == 0
    resumed = command(*vectors, "--dry-run").out
    assert "rows: 20, of which 15 would be sent (by the journal: 5 done, 15 new)" in resumed
    limited = ["--price-input", 1e6, "--confirm-above", 1]
    assert "the job may cost " in command(*vectors, *limited).complaint


@pytest.mark.usefixtures("provider")
def test_dry_run_reads_stdin(command: Command) -> None:
    """There is nothing to read it twice for."""
    result = command("run", "-", "--format", "jsonl", "-p", "{n}", "--dry-run", stdin=b'{"n": "a"}\n')
    assert result.out.startswith("row 1:\n  user: a\n")


@pytest.mark.usefixtures("provider")
def test_dry_run_shows_hostile_rows_harmlessly(command: Command, tmp_path: Path) -> None:
    """Control characters are escaped, long texts shortened, bad rows counted with the first one's reason."""
    path = tmp_path / "in.jsonl"
    rows = [{"n": "\x1b[31mred\a"}, {"n": "a\nb"}, {"x": 1}, {"n": "z" * 9000}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    result = command("run", path, "-p", "{n}", "--dry-run")
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "  user: \\x1b[31mred\\x07\n" in result.out
    assert "  user: a\n    b\n" in result.out
    assert max(map(len, result.out.splitlines())) < 2100
    assert "rows: 5, of which 3 would be sent" in result.out
    assert "2 rows cannot be sent, as row 3: " in result.out


@pytest.mark.usefixtures("provider")
def test_dry_run_without_a_price_or_a_bound_says_so(command: Command, source: Path) -> None:
    """An unknown cost is not zero."""
    dry = ["run", source, "-p", "{n}", "--dry-run"]
    unknown = command(*dry, "-m", "no-such-model").out
    assert "cost: not known, as the model's price is not" in unknown
    assert "time: not known" in unknown
    assert "; out: without a bound (--max-tokens sets one)" in unknown
    priced = command(*dry, *PRICES).out
    assert re.search(
        r"^cost: [\d,.]+ for the input; [\d,.]+ in all with answers of 256", priced, re.MULTILINE
    )


@pytest.mark.usefixtures("provider")
def test_dry_run_names_the_option_of_the_tokenizer(
    command: Command, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tiktoken."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    result = command("run", source, "-p", "{n}", "--dry-run", "--tokenizer", "tiktoken")
    assert result.code == 2
    assert "--tokenizer tiktoken needs tiktoken: install batchrt[tiktoken]" in result.complaint


def test_confirm_above_asks_before_a_dear_job(
    command: Command, source: Path, provider: MockProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cheaper job and one with `--yes` are run; without a terminal there is an error."""
    job = ["run", source, "-p", "{n}", "--max-tokens", 10, *PRICES]
    refused = command(*job, "--confirm-above", 100)
    assert refused.code == 2
    assert re.search(
        r"^the job may cost [\d,.]+, more than --confirm-above 100; add --yes", refused.complaint
    )
    assert sent(provider) == 0
    unbounded = command(*job[:4], *PRICES, "--confirm-above", 100).complaint
    assert " with answers of 256 tokens, which --max-tokens would bound, more than " in unbounded
    assert command(*job, "--confirm-above", 1e6).code == 0
    assert sent(provider) == ROWS
    assert command(*job, "--confirm-above", 100, "--yes").code == 0
    assert sent(provider) == 2 * ROWS


@pytest.mark.usefixtures("provider")
def test_confirm_above_needs_a_price_and_a_file(command: Command, source: Path) -> None:
    """And a number that is one."""
    job = ["run", source, "-p", "{n}"]
    lacking = command(*job, "-m", "no-such-model", "--confirm-above", 1)
    assert "--confirm-above needs --price-input and --price-output" in lacking.complaint
    assert (
        "--confirm-above must be a number, 0 or more, not -1"
        in command(*job, *PRICES, "--confirm-above", -1).complaint
    )
    piped = command(
        "run", "-", "--format", "jsonl", *job[2:], *PRICES, "--confirm-above", 1, stdin=b'{"n": 1}\n'
    )
    assert "--confirm-above reads the input twice, and stdin can be read once only" in piped.complaint


@pytest.mark.parametrize(("answer", "code"), [("n", 2), ("", 2), ("y", 0)])
def test_confirm_above_takes_the_answer_of_a_terminal(source: Path, answer: str, code: int) -> None:
    """Nothing is sent, and no file made, unless it is yes."""
    out = source.with_name("out.jsonl")
    mine, theirs = pty.openpty()
    options = ["-m", "mock", "--confirm-above", "1", *map(str, PRICES), "-q", "-o", str(out)]
    arguments = ["run", str(source), "-p", "{n}", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "batchrt", *arguments], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(mine, 1000)
    os.write(mine, answer.encode() + b"\n")
    with contextlib.suppress(OSError):  # the terminal's end, once the process has ended
        while os.read(mine, 1000):
            pass
    assert process.wait(60) == code
    os.close(mine)
    assert b"Send 20 rows?" in shown
    assert b"cost: " in shown
    assert out.exists() == (code == 0)
