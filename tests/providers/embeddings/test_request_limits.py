"""What is known of a server's limits, and what its answers teach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.batching.list_call import Limits
from batchrt.errors import BadRequestError, ContextLengthError
from batchrt.providers.embeddings.request_limits import Capacity
from batchrt.providers.embeddings.server_families import Family, family_of
from batchrt.providers.embeddings.tokenizer import Estimate, estimate

TEXTS = ["some text of a usual length, as they come along"] * 1000


def capacity(size: int | None = None, tokens: int | None = None, family: Family = Family()) -> Capacity:  # noqa: B008
    return Capacity(family, Estimate(), size=size, tokens=tokens)


def refused(message: str) -> BadRequestError:
    return BadRequestError(message, status=400)


@pytest.mark.parametrize(
    ("host", "text_tokens"),
    [
        ("api.openai.com", 8192),
        ("eu.api.openai.com", 8192),
        ("my.openai.azure.com", 8192),
        ("localhost", None),
        ("notapi.openai.com", None),
    ],
)
def test_request_limits_the_address_names_the_family(host: str, text_tokens: int | None) -> None:
    """Anybody else is tried with OpenAI's lists."""
    family = family_of(None, host)
    assert family[:3] == (2048, 300_000, text_tokens)


def test_request_limits_a_family_can_be_said() -> None:
    """It wins over the address."""
    assert family_of("tei", "api.openai.com").size == 32
    with pytest.raises(ValueError, match="server must be one of openai, azure, tei"):
        family_of("gpt", "")  # type: ignore[arg-type]


def test_request_limits_the_users_limits_win_over_the_family() -> None:
    """Both limits."""
    known = capacity(10, 100, Family(32, 300_000))
    assert known.limits().size == 10
    assert known.limits().cost == pytest.approx(100 / 1.25 * 0.9)


def test_request_limits_without_limits_there_are_none() -> None:
    """`None` is not a number."""
    assert capacity().limits() == Limits(None, None)


def test_request_limits_a_maximum_of_texts_is_taken_over() -> None:
    """And the list has to be packed again."""
    known = capacity(2048)
    assert known.learn_refusal(refused("batch size 1000 > maximum allowed batch size 32"), TEXTS)
    assert known.limits().size == 32
    # A list that was on its way meanwhile is too long by now as well.
    assert known.learn_refusal(refused("batch size 1000 > maximum allowed batch size 32"), TEXTS)


def test_request_limits_a_maximum_of_tokens_is_taken_over() -> None:
    """With the estimate corrected where the true number is told."""
    known = capacity(None, 300_000)
    counted = known.cost(TEXTS)
    said = f"Requested {round(counted * 2)} tokens, max 5000 tokens per request"
    assert known.learn_refusal(refused(said), TEXTS)
    assert known.tokens == 5000
    assert known.factor == pytest.approx(2, rel=0.01)


def test_request_limits_a_list_that_should_have_fit_is_made_shorter() -> None:
    """Where the server names a limit that was known, the estimate was wrong."""
    known = capacity(None, 20_000)
    counted = known.cost(TEXTS)
    known.factor = 0.5
    assert known.limits().cost == pytest.approx(36_000)
    assert known.learn_refusal(refused("maximum request size is 20000 tokens per request"), TEXTS)
    assert known.limits().cost == pytest.approx(counted * 0.75)


@given(st.text() | st.from_regex(r"max [0-9]{1,7} (tokens per request|texts|tokens)"), st.integers(0, 3000))
def test_request_limits_limits_never_rise_and_never_vanish(message: str, count: int) -> None:
    """Whatever a server says."""
    known = capacity(100, 10_000, Family(text_tokens=500))
    for kind in (BadRequestError, ContextLengthError):
        known.learn_refusal(kind(message, status=400), ["word"] * count)
        size, cost = known.limits()
        assert size is not None
        assert 1 <= size <= 100
        assert cost is not None
        assert 0 < cost <= 10_000 / 1.25 * 0.9 + 1e-9
        assert known.text_tokens is not None
        assert 1 <= known.text_tokens <= 500


def test_request_limits_a_single_text_is_never_too_many() -> None:
    """There is nothing to pack again."""
    known = capacity(10)
    assert not known.learn_refusal(refused("Requested 900 tokens, max 10 tokens per request"), TEXTS[:1])
    assert not known.learn_refusal(refused("at most 0 texts"), TEXTS[:1])


def test_request_limits_the_estimate_follows_the_bill() -> None:
    """At once upward, where a mistake costs a refusal, and slowly downward."""
    known = capacity()
    counted = known.cost(TEXTS)
    known.learn_usage(round(counted * 2), TEXTS)
    assert known.factor == pytest.approx(2, rel=0.01)
    for _ in range(30):
        known.learn_usage(round(counted * 0.8), TEXTS)
    assert known.factor == pytest.approx(0.8, rel=0.01)


def test_request_limits_few_texts_teach_little() -> None:
    """A single number has three times the tokens of a word."""
    known = capacity()
    known.learn_usage(60, ["1234567890" * 8])
    assert known.factor < 1.3


@pytest.mark.parametrize(
    "billed", [0, 999, sum(map(len, TEXTS)), 10**9, 1100], ids=["none", "one", "characters", "absurd", "few"]
)
def test_request_limits_a_bill_that_counts_something_else_teaches_nothing(billed: int) -> None:
    """Infinity counts characters, llama-server's completions one text of many."""
    known = capacity()
    known.learn_usage(billed, TEXTS)
    assert known.factor == 1.25


def test_request_limits_an_exact_count_is_not_corrected() -> None:
    """By a bill; a refusal is believed."""

    class Exact(Estimate):
        exact = True  # type: ignore[misc]

    known = Capacity(Family(None, 1000), Exact())
    known.learn_usage(50_000, TEXTS)
    assert known.factor == 1.0
    assert known.limits().cost == 1000


def test_request_limits_expected_tokens_of_a_text() -> None:
    """In the server's tokens."""
    known = capacity()
    known.factor = 2.0
    assert known.expected("abcd" * 10) == 2 * estimate("abcd" * 10)


def test_request_limits_disorder_is_remembered() -> None:
    """With proof at once, else at the second list, unless lists were in order before."""
    known = capacity()
    assert not known.learn_disorder(1, proof=True)
    assert not known.learn_disorder(50, proof=False)
    assert known.learn_disorder(25, proof=False)
    assert known.size == 1
    known = capacity()
    assert known.learn_disorder(50, proof=True)
    known = capacity()
    known.ordered = True
    assert not any(known.learn_disorder(50, proof=False) for _ in range(9))
    assert known.size != 1
