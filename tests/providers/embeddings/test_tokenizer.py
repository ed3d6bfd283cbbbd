"""How many tokens a text has."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import TokenizerError
from batchrt.providers.embeddings.model import OpenAIEmbeddings
from batchrt.providers.embeddings.tokenizer import Estimate, Tiktoken, estimate, tokenizer_of

# cl100k_base's counts.
COUNTED = {
    "occurring at the time of death; as long as the world shall stand": 15,
    "Künstliche Intelligenz ist ein Teilgebiet der Informatik": 16,
    "Съешь же ещё этих мягких французских булок, да выпей чаю.": 36,
    "人工智能是计算机科学的一个分支、它企图了解智能的实质": 29,
    "인공지능은 인간의 학습능력, 추론능력을 인공적으로 구현하려는": 31,
    "कृत्रिम बुद्धिमत्ता कंप्यूटर विज्ञान की एक शाखा है": 51,
}


@pytest.mark.parametrize("text", COUNTED)
def test_tokenizer_an_estimate_is_near(text: str) -> None:
    """In any script, without a download: within a quarter."""
    assert 0.75 <= COUNTED[text] / estimate(text) <= 1.25


@given(st.text())
def test_tokenizer_every_text_has_an_estimate(text: str) -> None:
    """Half characters and nothing at all too: at least one, at most three a character."""
    assert 1 <= estimate(text) <= 1 + 2 * len(text)


@given(st.text(), st.integers(1, 50), st.floats(0.2, 4.5))
def test_tokenizer_a_cut_text_fits_and_is_a_beginning(text: str, most: int, factor: float) -> None:
    """Down to one character; what fits is left as it is."""
    cut = Estimate().cut(text, most, factor)
    assert text.startswith(cut)
    assert len(cut) <= 1 or estimate(cut) * factor <= most
    if estimate(text) * factor <= most:
        assert cut == text


def test_tokenizer_least_tokens_of_a_text() -> None:
    """A token for each word, and no token is longer than the longest."""
    assert Estimate().at_least("a bc  d") == 3
    assert Estimate().at_least("x" * 1280) == 10
    assert Estimate().at_least("") == 0


def bytes_encoding(*more: bytes) -> tiktoken.Encoding:
    """Return an encoding with a token for each byte and those given, which no file is needed for."""
    tokens = [bytes([n]) for n in range(256)] + list(more)
    return tiktoken.Encoding(
        "bytes",
        pat_str=r"\s?\S+|\s+",
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={},
    )


@pytest.fixture
def encoding(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have tiktoken use that encoding; give the names it was asked for."""
    asked: list[str] = []

    def get(name: str) -> tiktoken.Encoding:
        asked.append(name)
        return bytes_encoding(b"ab")

    def of_model(name: str) -> tiktoken.Encoding:
        asked.append(name)
        if name == "strange":
            raise KeyError(name)
        return bytes_encoding(b"ab")

    monkeypatch.setattr(tiktoken, "get_encoding", get)
    monkeypatch.setattr(tiktoken, "encoding_for_model", of_model)
    return asked


def test_tokenizer_tiktoken_counts(encoding: list[str]) -> None:
    """Exactly, special tokens read as text."""
    counting = Tiktoken("text-embedding-3-small")
    assert counting.exact
    assert counting.cost("abab<|endoftext|>") == 2 + 13
    assert counting.at_least("abc") == 2
    assert encoding == ["text-embedding-3-small"]


def test_tokenizer_a_model_that_tiktoken_does_not_know_has_the_usual_encoding(encoding: list[str]) -> None:
    """All of OpenAI's embedding models have that."""
    Tiktoken("strange")
    assert encoding == ["strange", "cl100k_base"]


def test_tokenizer_tiktoken_cuts_after_the_last_token_that_fits(encoding: list[str]) -> None:
    """And leaves no half character."""
    counting = Tiktoken("m")
    assert counting.cut("ababab", 2, 1.0) == "abab"
    assert counting.cut("ababab", 3, 1.0) == "ababab"
    assert counting.cut("a", 3, 1.0) == "a"
    assert counting.cut("aé", 2, 1.0) == "a"  # é is two bytes
    assert counting.cut("ababab", 2, 2.0) == "ab"


def test_tokenizer_without_tiktoken_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ImportError, match=r"batchrt\[tiktoken\]"):
        tokenizer_of("tiktoken", "m")


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionError("Max retries exceeded with url: /encodings/cl100k_base.tiktoken"),
        ValueError("Hash mismatch for data downloaded"),
        TimeoutError("timed out"),
        PermissionError(13, "Permission denied", "/tmp/data-gym-cache"),
        RuntimeError("proxy"),
    ],
)
@pytest.mark.parametrize("model", ["text-embedding-3-small", "strange"])
def test_tokenizer_tiktoken_without_its_encoding_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, model: str
) -> None:
    """Without a network, say: when the model is made, before anything is sent."""

    def fail(name: str) -> tiktoken.Encoding:
        raise KeyError(name) if name == "strange" else failure

    monkeypatch.setattr(tiktoken, "encoding_for_model", fail)
    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(TokenizerError, match=r"TIKTOKEN_CACHE_DIR.*an estimate") as caught:
        OpenAIEmbeddings(model, base_url="http://h/v1", tokenizer="tiktoken")
    assert caught.value.__cause__ is failure


def test_tokenizer_another_tokenizer_is_an_error() -> None:
    """There are two."""
    name: Any = "words"
    with pytest.raises(ValueError, match='"estimate" or "tiktoken"'):
        tokenizer_of(name, "m")
