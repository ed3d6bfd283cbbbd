"""Limits that servers name when they refuse a list, in their own words."""

from __future__ import annotations

import time

import pytest

from batchrt.providers.limit_messages import Named, named_limits

SAID = [
    ("batch size 66 > maximum allowed batch size 32", ("texts", 32)),
    ("input: List should have at most 2048 items after validation, not 2049", ("texts", 2048)),
    (
        "Expected an array with maximum length 2048, but got an array with length 2049 instead.",
        ("texts", 2048),
    ),
    ("Too many inputs. The max number of inputs is 1. Please ask for more per request", ("texts", 1)),
    ("batch size is invalid, it should not be larger than 10.: input.contents", ("texts", 10)),
    ("at most 100 requests can be in one batch", ("texts", 100)),
    ("250 instance(s) is allowed per prediction. Actual: 300", ("texts", 250)),
    ("total number of texts must be at most 96 - received 100", ("texts", 96)),
    ("The batch size limit is 1,000. Your batch size is 1,200.", ("texts", 1000)),
    ("maximum batch size exceeded: 66 > 32", ("texts", 32)),
    ("Requested 426381 tokens, max 300000 tokens per request", ("tokens of a request", 300_000)),
    ("Invalid 'input': maximum request size is 300000 tokens per request", ("tokens of a request", 300_000)),
    (
        "'voyage-3': The max allowed tokens per submitted batch is 120000. Your batch has 136323 tokens",
        ("tokens of a request", 120_000),
    ),
    ("Input validation error: 650 tokens > maximum allowed tokens 512", ("tokens of a request", 512)),
    ("`inputs` must have less than 512 tokens. Given: 823", ("tokens of a text", 512)),
    (
        "This model's maximum context length is 8192 tokens, however you requested 9000 tokens (9000 in your",
        ("tokens of a text", 8192),
    ),
    ("Requested tokens (823) exceed context window of 512", ("tokens of a text", 512)),
]


@pytest.mark.parametrize(("message", "limit"), SAID, ids=[message[:40] for message, _ in SAID])
def test_limit_messages_messages_of_servers_are_understood(message: str, limit: tuple[str, int]) -> None:
    """The limit is among what may be meant, with its unit, whatever the words."""
    assert limit in [(named.unit, named.most) for named in named_limits(message)]


def test_limit_messages_how_much_it_was_is_told_where_it_is_said() -> None:
    """So that the next guess is a good one."""
    (named,) = named_limits("Requested 426381 tokens, max 300000 tokens per request")
    assert named == Named("tokens of a request", 300_000, 426_381)
    (named,) = named_limits("maximum request size is 300000 tokens per request.")
    assert named.given is None


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Bad Request",
        "The model `text-embedding-3-large` does not exist",
        "Failed to buffer the request body: length limit exceeded",
        "The request is larger than 2000000 bytes.",
        "payload exceeds the limit of 2 MB",
        "at most 0 texts",
        "Too many inputs in request, split into more batches.",
    ],
)
def test_limit_messages_where_nothing_is_named_nothing_is_found(message: str) -> None:
    """No limit of zero, of bytes, or out of a model's name."""
    assert not list(named_limits(message))


@pytest.mark.parametrize("text", ["max 1", "exceeds ", "1 ", "> ", "limit limit 9" * 3])
def test_limit_messages_a_long_message_takes_no_long_time(text: str) -> None:
    """A server that says the whole input back costs milliseconds."""
    began = time.process_time()
    list(named_limits(text * 2_000_000))
    assert time.process_time() - began < 5  # a tenth of a second here; quadratic it would take hours
