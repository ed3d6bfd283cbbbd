"""The estimate of a job: what a run would send, and the cost of it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from batchrt import (
    InputError,
    Job,
    JobEstimate,
    JournalError,
    OpenAI,
    OpenAIEmbeddings,
    Price,
    RunnableLambda,
    estimate_job,
)
from batchrt.jobs.request_tokens import count_request
from batchrt.providers.embeddings.tokenizer import estimate as estimated
from batchrt.testing import MockProvider
from tests.jobs.chains import Answers, questions

pytestmark = pytest.mark.anyio

PRICE = Price(1e6, 2e6)
"""A token of a prompt costs 1, one of an answer 2."""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def copied(journal: Path) -> Path:
    copy = journal.with_name("copy") / "job.journal"
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir()
    shutil.copy(journal, copy)
    return copy


def tokens_of(bodies: list[Any]) -> int:
    return round(sum(count_request(body, estimated).input for body in bodies))


async def test_estimate_counts_what_the_run_sends(answers: Answers, journal: Path) -> None:
    """The examples are the first bodies, and the tokens those of all bodies; none is sent before the run."""
    chain, rows = answers.chain(max_tokens=10), questions(20)
    job = Job(chain, rows, journal=journal, config={"prices": PRICE})
    told = await job.aestimate(examples=2)
    assert answers.bodies == []
    assert contents(journal.parent) == {}
    await job.arun()
    assert (told.rows, told.to_send, told.invalid, told.answers) == (20, 20, 0, 20)
    by_text = sorted(answers.bodies, key=lambda body: int(body["messages"][0]["content"][5:]))
    assert [example.body for example in told.examples] == by_text[:2]
    assert [example.position for example in told.examples] == [0, 1]
    assert told.input_tokens == tokens_of(answers.bodies)
    assert told.max_output_tokens == 200
    assert told.model == "m"
    assert told.tokenizer == "estimate"
    assert told.input_cost == pytest.approx(told.input_tokens, abs=1)
    assert told.input_cost is not None
    assert told.max_cost == pytest.approx(told.input_cost + 400)
    assert told.guessed_cost == pytest.approx(told.input_cost + 400)


async def test_estimate_counts_rows_that_the_journal_lacks(answers: Answers, journal: Path) -> None:
    """Added, removed, changed and failed rows are counted as the next run counts them; nothing is changed."""

    def respond(text: str) -> httpx.Response:
        if text == "say q3":
            return httpx.Response(400, json={"error": {"message": "no"}})
        return answers.answered(text)

    answers.respond = respond
    rows = questions(10)
    await Job(answers.chain(), rows, journal=journal).arun()
    moved = [*rows[5:], *questions(14)[10:], *rows[:5]]
    for chain, options in (
        (answers.chain(), {}),
        (answers.chain(), {"retry_failed": True}),
        (answers.chain(temperature=0.5), {}),
        (answers.chain(temperature=0.5), {"reuse": "any"}),
    ):
        answers.bodies.clear()
        before = contents(journal.parent)
        told = Job(chain, moved, journal=journal, **options).estimate()
        assert contents(journal.parent) == before
        assert answers.bodies == []
        await Job(chain, moved, journal=copied(journal), **options).arun()
        shutil.rmtree(journal.with_name("copy"))
        assert told.rows == 14
        assert told.to_send == len(answers.bodies)
        assert told.input_tokens == tokens_of(answers.bodies)
    assert told.matches is not None
    assert told.matches.kept == 9
    fresh = Job(answers.chain(), moved, journal=journal, fresh=True).estimate()
    assert fresh.to_send == 14


async def test_estimate_reads_the_journal_of_a_running_job(answers: Answers, journal: Path) -> None:
    """Another process may write it."""
    job = Job(answers.chain(), questions(5), journal=journal)
    told: list[JobEstimate] = []

    def respond(text: str) -> httpx.Response:
        if text == "say q4":
            told.append(Job(answers.chain(), questions(8), journal=journal).estimate())
        return answers.answered(text)

    answers.respond = respond
    await job.arun()
    assert [each.rows for each in told] == [8]


def test_estimate_without_a_bound_on_answers_is_open(answers: Answers) -> None:
    """The guess is 256 tokens an answer; with a lower bound, that."""
    rows = questions(4)
    told = estimate_job(answers.chain(), rows, prices={"m": PRICE})
    assert told.max_output_tokens is told.max_cost is None
    assert told.input_cost is not None
    assert told.guessed_cost == pytest.approx(told.input_cost + 4 * 256 * 2)
    long = estimate_job(answers.chain(max_tokens=1000), rows, prices={"m": PRICE})
    assert long.max_cost == pytest.approx(told.input_cost + 4 * 1000 * 2)
    assert long.guessed_cost == told.guessed_cost


def test_estimate_uses_the_price_of_the_tier_and_of_the_length(answers: Answers) -> None:
    """Each request is priced by itself."""
    price = Price(1e6, 2e6, long_context={20: Price(10e6)}, tiers={"flex": 0.5})
    chain = answers.chain(max_tokens=1, extra_body={"service_tier": "flex"})
    short = estimate_job(chain, [{"q": "a"}], prices=price)
    assert short.input_tokens is not None
    assert short.max_cost == pytest.approx(0.5 * (short.input_tokens + 2), abs=0.5)
    both = estimate_job(chain, [{"q": "a"}, {"q": "a" * 400}], prices=price)
    assert both.input_cost is not None
    assert both.input_cost > 400


@pytest.mark.parametrize("prices", [None, {}, {"other": PRICE}])
def test_estimate_of_an_unknown_price_has_no_cost(answers: Answers, prices: Any) -> None:
    """It is not zero."""
    told = estimate_job(answers.chain(max_tokens=5), questions(2), prices=prices)
    assert told.input_cost is told.max_cost is told.guessed_cost is None
    assert told.max_output_tokens == 10


def test_estimate_of_a_chain_with_a_function_first_counts_rows(answers: Answers) -> None:
    """Its requests are known only by calling it, which may be slow or cost money."""
    called: list[object] = []

    def shorten(row: dict[str, Any]) -> dict[str, Any]:
        called.append(row)
        return row

    told = estimate_job(RunnableLambda(shorten) | answers.chain(), questions(6), prices=PRICE)
    assert (told.rows, told.to_send, told.input_tokens, told.input_cost) == (6, 6, None, None)
    assert called == []


def test_estimate_counts_rows_that_cannot_be_sent(answers: Answers, tmp_path: Path) -> None:
    """Rows that cannot be read or lack a field fail without a request."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"q": "a"}\nnot json\n{"x": 1}\n{"q": "b"}\n')
    told = estimate_job(answers.chain(), path)
    assert (told.rows, told.to_send, told.invalid) == (4, 2, 2)
    assert [example.position for example in told.examples] == [0, 3]
    assert told.invalid_example is not None
    assert told.invalid_example[0] == 1
    assert isinstance(told.invalid_example[1], InputError)
    assert estimate_job(answers.chain(), path, limit=1).rows == 1


def test_estimate_counts_rows_that_the_model_refuses_to_send(answers: Answers) -> None:
    """Half a surrogate pair, which UTF-8 cannot carry."""
    told = estimate_job(answers.chain(), [{"q": "a\ud83d"}])
    assert (told.to_send, told.invalid) == (0, 1)
    assert told.invalid_example is not None
    assert "surrogate" in str(told.invalid_example[1])


def test_estimate_of_no_rows_is_zero(answers: Answers) -> None:
    """Nothing would be spent."""
    told = estimate_job(answers.chain(), [], prices=PRICE)
    assert (told.rows, told.input_tokens, told.max_output_tokens) == (0, 0, 0)
    assert told.max_cost == 0.0


def test_estimate_of_vectors_has_no_answers() -> None:
    """Their cost is known but for the count of tokens."""
    provider = MockProvider()
    model = OpenAIEmbeddings("e", base_url="http://mock/v1", transport=provider.transport())
    told = estimate_job(model, ["some text", "more"], prices={"e": PRICE})
    assert (told.to_send, told.answers, told.max_output_tokens) == (2, 0, 0)
    assert told.input_tokens is not None
    assert told.max_cost == told.input_cost == pytest.approx(told.input_tokens, abs=1)
    assert told.least_seconds({"requests_per_minute": 1}) is None
    assert [example.body for example in told.examples] == ["some text", "more"]
    assert provider.log.snapshot().requests == 0


def test_estimate_of_completions_counts_the_prompt() -> None:
    """With the model's limit of tokens."""
    provider = MockProvider()
    model = OpenAI("c", base_url="http://mock/v1", transport=provider.transport(), max_tokens=7)
    told = estimate_job(model, ["some text", "more"])
    assert (told.to_send, told.answers, told.max_output_tokens) == (2, 2, 14)
    assert told.input_tokens == round(estimated("some text") + estimated("more"))
    assert provider.log.snapshot().requests == 0


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({}, None),
        ({"max_in_flight": 3}, None),
        ({"requests_per_minute": 6}, 90.0),
        ({"requests_per_second": 5}, 1.8),
        ({"requests_per_day": 20}, 0.0),
        ({"requests_per_day": 3}, 2 * 86400.0),
        ({"tokens_per_minute": 120}, 500.0),
        ({"requests_per_minute": 6, "tokens_per_minute": 120}, 500.0),
    ],
)
def test_estimate_of_time_is_that_of_the_slowest_limit(
    limits: dict[str, float], seconds: float | None
) -> None:
    """The first request need not wait, and a day's limit may be used at once."""
    told = JobEstimate(rows=10, to_send=10, answers=10, input_tokens=1000)
    assert told.least_seconds(limits) == seconds


def test_estimate_names_the_encoding(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoding of chat models stands in for that of an unknown one; one of vectors for vectors."""
    wanted: list[str] = []

    class Encoding:
        def __init__(self, name: str) -> None:
            self.name = name

        def encode_ordinary(self, text: str) -> list[int]:
            return [0] * len(text)

    def get_encoding(name: str) -> Encoding:
        wanted.append(name)
        return Encoding(name)

    monkeypatch.setattr("tiktoken.get_encoding", get_encoding)
    monkeypatch.setattr("tiktoken.model.get_encoding", get_encoding)
    told = estimate_job(answers.chain(), [{"q": "a"}], tokenizer="tiktoken")
    assert told.tokenizer == "o200k_base"
    assert told.input_tokens == 6 + len("say a")
    model = OpenAIEmbeddings("e", base_url="http://127.0.0.1:9/v1")
    assert estimate_job(model, ["a"], tokenizer="tiktoken").tokenizer == "cl100k_base"


async def test_estimate_refuses_sources_that_it_would_use_up(answers: Answers, journal: Path) -> None:
    """The run would find nothing."""

    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield {"q": "a"}

    for source in (iter(questions(2)), rows()):
        with pytest.raises(TypeError, match="an iterator, which an estimate would use up"):
            Job(answers.chain(), source, journal=journal).estimate()
    with pytest.raises(TypeError, match="an async iterable cannot be read for an estimate"):
        estimate_job(answers.chain(), rows())


def test_estimate_errors_are_those_of_a_run(answers: Answers, tmp_path: Path, journal: Path) -> None:
    """A file that is not there, and a journal that is none."""
    with pytest.raises(InputError):
        estimate_job(answers.chain(), tmp_path / "none.csv")
    journal.write_text("no database")
    with pytest.raises(JournalError) as caught:
        Job(answers.chain(), questions(1), journal=journal).estimate()
    assert str(journal) in str(caught.value)


async def test_estimate_ends_when_cancelled(answers: Answers, journal: Path) -> None:
    """Its thread ends with it."""
    pulled: list[int] = []

    class Many:
        def __iter__(self) -> Any:
            for number in range(200_000):  # many seconds' worth, but an end
                pulled.append(number)
                yield {"q": "a"}

    with anyio.move_on_after(0.05) as scope:
        await Job(answers.chain(), Many(), journal=journal).aestimate()
    assert scope.cancelled_caught
    before = len(pulled)
    await anyio.sleep(0.02)
    assert len(pulled) == before < 200_000
