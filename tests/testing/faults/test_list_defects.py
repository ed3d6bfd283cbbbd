from __future__ import annotations

import json
import math
from typing import Any

import pytest

from batchrt.testing import Fault, FaultPlan, MockProvider
from tests.testing.direct import Answer, ask, embed, floats

pytestmark = pytest.mark.anyio

TEXTS = ["one", "two", "three", "four"]
WIDTH = 5
ROUTES = ["/v1/embeddings", "/v1/completions", "/v1/chat/completions/batch"]


def meeting(fault: Fault) -> MockProvider:
    """Make a provider whose first valid request meets `fault`."""
    return MockProvider(faults=FaultPlan(script=[fault]), dimensions=WIDTH, server="vllm")


def vectors_of(provider: MockProvider) -> list[list[float]]:
    return [provider.vector_of(text, model="m") for text in TEXTS]


def send(provider: MockProvider, path: str, texts: list[str]) -> Answer:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/embeddings": {"input": texts},
        "/v1/completions": {"prompt": texts},
        "/v1/chat/completions/batch": {"messages": [[{"role": "user", "content": text}] for text in texts]},
    }
    return ask(provider, path, {"model": "m", **bodies[path]})


def entries_of(document: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["data" if "data" in document else "choices"]
    return found


def without_index(entry: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in entry.items() if name != "index"})


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("count", [2, 3, 4, 7])
async def test_list_defect_shuffled_entries_keep_their_index(path: str, count: int) -> None:
    """Another order, neither forwards nor, if there are more than two, backwards."""
    texts = [f"text {number}" for number in range(count)]
    provider = meeting(Fault.SHUFFLED_INDEX)
    shuffled, proper = (entries_of(send(provider, path, texts).document) for _ in range(2))
    order = [entry["index"] for entry in shuffled]
    assert sorted(order) == list(range(count))
    assert order != sorted(order)
    assert count == 2 or order != sorted(order, reverse=True)
    assert sorted(shuffled, key=lambda entry: int(entry["index"])) == proper


@pytest.mark.parametrize("path", ROUTES)
async def test_list_defect_index_is_missing_a_text_or_repeated(path: str) -> None:
    """The order is right, and nothing else has changed."""
    for fault, found in [
        (Fault.MISSING_INDEX, [None] * 4),
        (Fault.TEXT_INDEX, ["0", "1", "2", "3"]),
        (Fault.REPEATED_INDEX, [0] * 4),
    ]:
        provider = meeting(fault)
        spoiled, proper = (entries_of(send(provider, path, TEXTS).document) for _ in range(2))
        assert [entry.get("index") for entry in spoiled] == found
        assert list(map(without_index, spoiled)) == list(map(without_index, proper))


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("fault", "count"),
    [(Fault.EMPTY_CHOICES, 0), (Fault.MERGED_LIST, 1), (Fault.SHORT_LIST, 3), (Fault.LONG_LIST, 5)],
)
async def test_list_defect_list_is_short_or_long(path: str, fault: Fault, count: int) -> None:
    """Each entry has its own index."""
    answer = send(meeting(fault), path, TEXTS)
    assert answer.status == 200
    assert [entry["index"] for entry in entries_of(answer.document)] == list(range(count))


async def test_list_defect_merged_prompts_get_one_text() -> None:
    """It contains a part of each, so that only the count shows it."""
    provider = meeting(Fault.MERGED_LIST)
    [choice] = send(provider, "/v1/completions", TEXTS).document["choices"]
    assert all(provider.completion_to(text) in choice["text"] for text in TEXTS)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(("fault", "status"), [(Fault.FAILED_LIST, 500), (Fault.REJECTED_LIST, 400)])
async def test_list_defect_refuses_lists_even_of_one(path: str, fault: Fault, status: int) -> None:
    """As a server does that accepts single texts only."""
    assert send(meeting(fault), path, ["one"]).status == status


@pytest.mark.parametrize("fault", [Fault.FAILED_LIST, Fault.REJECTED_LIST])
async def test_list_defect_spares_single_inputs(fault: Fault) -> None:
    """A text that is no list, for embeddings and completions."""
    assert embed(meeting(fault), "one").status == 200
    assert ask(meeting(fault), "/v1/completions", {"model": "m", "prompt": "one"}).status == 200


@pytest.mark.parametrize("path", ROUTES)
async def test_list_defect_usage_is_partial_or_missing(path: str) -> None:
    """The results are right."""
    provider = meeting(Fault.PARTIAL_USAGE)
    partial, proper = (send(provider, path, TEXTS).document for _ in range(2))
    assert partial["usage"]["total_tokens"] == proper["usage"]["total_tokens"] // 4
    missing = send(meeting(Fault.MISSING_USAGE), path, TEXTS).document
    assert "usage" not in missing
    assert entries_of(partial) == entries_of(proper)
    assert list(map(without_index, entries_of(missing))) == list(map(without_index, entries_of(proper)))


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_list_defect_last_vector_has_another_width(encoding: str) -> None:
    """In the requested encoding; the others are right."""
    provider = meeting(Fault.WRONG_WIDTH)
    data = embed(provider, TEXTS, encoding_format=encoding).document["data"]
    vectors = [floats(entry["embedding"]) for entry in data]
    assert [len(vector) for vector in vectors] == [WIDTH, WIDTH, WIDTH, WIDTH + 1]
    assert vectors[:3] == vectors_of(provider)[:3]


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_list_defect_vectors_are_nested(encoding: str) -> None:
    """One for each token, and numbers in any encoding."""
    provider = meeting(Fault.NESTED_VECTORS)
    data = embed(provider, TEXTS, encoding_format=encoding).document["data"]
    assert [entry["embedding"] for entry in data] == [[vector] * 2 for vector in vectors_of(provider)]


async def test_list_defect_vector_contains_null_or_nan() -> None:
    """As JSON writers encode such numbers; in base64 both are NaN."""
    for fault, encoding in [
        (Fault.NULL_IN_VECTOR, "float"),
        (Fault.NAN_IN_VECTOR, "float"),
        (Fault.NULL_IN_VECTOR, "base64"),
        (Fault.NAN_IN_VECTOR, "base64"),
    ]:
        provider = meeting(fault)
        data = embed(provider, TEXTS, encoding_format=encoding).document["data"]
        *right, wrong = (floats(entry["embedding"]) for entry in data)
        assert right == vectors_of(provider)[:3]
        assert wrong[1:] == vectors_of(provider)[3][1:]
        if (fault, encoding) == (Fault.NULL_IN_VECTOR, "float"):
            assert wrong[0] is None
        else:
            assert math.isnan(wrong[0])


async def test_list_defect_vector_is_null() -> None:
    """The last one."""
    data = embed(meeting(Fault.NULL_VECTOR), TEXTS).document["data"]
    assert [entry["embedding"] is None for entry in data] == [False, False, False, True]


async def test_list_defect_base64_is_ignored_refused_or_torn() -> None:
    """Floats in its place, a 400 that names the parameter, or bytes that are no float32."""
    provider = meeting(Fault.IGNORED_BASE64)
    data = embed(provider, TEXTS, encoding_format="base64").document["data"]
    assert [entry["embedding"] for entry in data] == vectors_of(provider)
    status, document, _ = embed(meeting(Fault.REJECTED_BASE64), TEXTS, encoding_format="base64")
    assert (status, document["error"]["param"]) == (400, "encoding_format")
    data = embed(meeting(Fault.TORN_BASE64), TEXTS, encoding_format="base64").document["data"]
    with pytest.raises(Exception, match="requires a buffer"):
        floats(data[3]["embedding"])


async def test_list_defect_that_does_not_apply_is_not_counted() -> None:
    """A chat meets no list fault; a list of one is not shuffled; floats are no base64."""
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 2}
    for fault in Fault:
        if fault.of_lists:
            provider = meeting(fault)
            assert len(ask(provider, "/v1/chat/completions", chat).document["choices"]) == 2
            assert provider.log.snapshot().by_fault == {}
            assert provider.log.records()[0].fault is None
    for fault in (Fault.SHUFFLED_INDEX, Fault.REPEATED_INDEX, Fault.MERGED_LIST, Fault.PARTIAL_USAGE):
        provider = meeting(fault)
        assert embed(provider, ["one"]).document == embed(provider, ["one"]).document
        assert provider.log.snapshot().by_fault == {}
    for fault in (Fault.IGNORED_BASE64, Fault.REJECTED_BASE64, Fault.TORN_BASE64):
        assert embed(meeting(fault), TEXTS, encoding_format="float").status == 200


async def test_list_defect_of_vectors_spares_completions() -> None:
    """They have no vectors."""
    for fault in (Fault.WRONG_WIDTH, Fault.NESTED_VECTORS, Fault.NULL_VECTOR, Fault.NAN_IN_VECTOR):
        provider = meeting(fault)
        assert send(provider, "/v1/completions", TEXTS).status == 200
        assert provider.log.snapshot().by_fault == {}


async def test_list_defect_keeps_the_latency() -> None:
    """The latency is that of the request."""
    plan = FaultPlan(script=[Fault.SHORT_LIST])
    provider = MockProvider(latency=2, latency_per_input=1, faults=plan)
    assert embed(provider, TEXTS).delay == 6


async def test_list_defects_are_drawn_at_their_rate() -> None:
    """The same in every run, and never more than two in a row for a body."""
    plan = FaultPlan({Fault.SHORT_LIST: 0.5})
    counts = []
    for _ in range(2):
        provider = MockProvider(faults=plan, dimensions=2)
        for number in range(200):
            embed(provider, [f"{number}", "b"])
        counts.append(provider.log.snapshot().by_fault[Fault.SHORT_LIST])
    assert counts[0] == counts[1]
    assert 60 < counts[0] < 140
    always = MockProvider(faults=FaultPlan({Fault.SHORT_LIST: 1.0}), dimensions=2)
    assert [len(embed(always, ["a", "b"]).document["data"]) for _ in range(3)] == [1, 1, 2]
