"""Vectors as matrices: all at once, or block by block."""

from __future__ import annotations

import json
import sys
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import (
    BadRequestError,
    DeadlineExceededError,
    ItemTimeoutError,
    MalformedResponseError,
)
from batchrt.messages import Usage
from batchrt.providers.embeddings.arrays import EmbeddingBlock
from batchrt.providers.embeddings.model import OpenAIEmbeddings
from batchrt.runnables.lambdas import RunnableLambda
from batchrt.testing import Fault, FaultPlan, MockProvider
from tests import virtual
from tests.providers.embeddings.embedding import WIDTH, mock, model, on_mock_clock, vectors, words

pytestmark = pytest.mark.anyio


def matrix(provider: MockProvider, texts: Any, **options: Any) -> Any:
    """Return what `texts` must get."""
    return np.array(vectors(provider, list(texts), **options), dtype=np.float32)


async def arriving(texts: Any) -> AsyncIterator[str]:
    for text in texts:
        await anyio.lowlevel.checkpoint()
        yield text


@pytest.mark.parametrize("kind", [list, tuple, iter, arriving], ids=lambda kind: kind.__name__)
async def test_arrays_texts_become_a_matrix(kind: Any) -> None:
    """A row for each, float32, in order, out of any iterable; equal texts are sent once."""
    provider = mock()
    texts = [*words(300), *words(20)]
    got = await model(provider, max_batch_size=50).aembed_array(kind(texts))
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert got.flags.writeable
    np.testing.assert_array_equal(got, matrix(provider, texts))
    log = provider.log.snapshot()
    assert (log.requests, log.items) == (6, 300)


def test_arrays_a_matrix_in_sync_code() -> None:
    """An iterator is pulled in the calling thread."""
    provider = mock()
    threads: set[int] = set()

    def texts() -> Iterator[str]:
        threads.add(threading.get_ident())
        yield from words(5)

    embeddings = model(provider)
    np.testing.assert_array_equal(embeddings.embed_array(texts()), matrix(provider, words(5)))
    assert threads == {threading.get_ident()}
    got, errors = embeddings.embed_array(["a", ""], return_exceptions=True)
    assert list(errors) == [1]
    np.testing.assert_array_equal(got[:1], matrix(provider, ["a"]))


@given(st.lists(st.sampled_from("abcdefg"), max_size=30), st.integers(1, 5), st.sampled_from("abcdefgz"))
def test_arrays_every_text_has_its_own_row(texts: list[str], size: int, guilty: str) -> None:
    """For any repetition, cut of the lists and failing text."""
    provider = mock(reject=lambda text: text == guilty)

    async def main() -> Any:
        return await model(provider, max_batch_size=size).aembed_array(texts, return_exceptions=True)

    got, errors = anyio.run(main)
    assert set(errors) == {row for row, text in enumerate(texts) if text == guilty}
    assert got.shape[0] == len(texts)
    for row, text in enumerate(texts):
        if text == guilty:
            assert np.isnan(got[row]).all()
        else:
            np.testing.assert_array_equal(got[row], matrix(provider, [text])[0])


async def test_arrays_no_texts_give_an_empty_matrix() -> None:
    """No request is sent; the matrix is as wide as was asked for."""
    provider = mock()
    assert (await model(provider).aembed_array([])).shape == (0, 0)
    assert (await model(provider, dimensions=3).aembed_array(iter(()))).shape == (0, 3)
    assert provider.log.snapshot().requests == 0


async def test_arrays_dimensions_go_along() -> None:
    """From the constructor or with the call."""
    provider = mock()
    right = matrix(provider, words(3), dimensions=3)
    np.testing.assert_array_equal(await model(provider, dimensions=3).aembed_array(words(3)), right)
    np.testing.assert_array_equal(await model(provider).aembed_array(words(3), dimensions=3), right)


async def test_arrays_the_first_error_is_raised_before_anything_is_sent_if_it_can_be() -> None:
    """It says which text it was."""
    provider = mock()
    with pytest.raises(BadRequestError, match="the text is empty") as caught:
        await model(provider, max_batch_size=2).aembed_array([*words(7), "", ""])
    assert caught.value.__notes__ == ["batchrt: text 7 failed; the rest was cancelled"]
    assert provider.log.snapshot().requests == 0


async def test_arrays_an_error_of_the_servers_is_raised() -> None:
    """With the place among all texts, equal ones counted too."""
    provider = mock(reject=lambda text: text == "no")
    with pytest.raises(BadRequestError) as caught:
        await model(provider, max_batch_size=2).aembed_array(["a", "a", "a", "b", "c", "no", "d"])
    assert "batchrt: text 5 failed; the rest was cancelled" in caught.value.__notes__


@pytest.mark.parametrize("fault", [Fault.NAN_IN_VECTOR, Fault.NULL_VECTOR, Fault.TORN_BASE64])
async def test_arrays_a_broken_vector_is_that_rows_error(fault: Fault) -> None:
    """The row is NaN, all others are right."""
    provider = mock(faults=FaultPlan(rates={fault: 1.0}))
    got, errors = await model(provider, max_batch_size=5).aembed_array(words(10), return_exceptions=True)
    assert list(errors) == [4, 9]
    assert all(isinstance(error, MalformedResponseError) for error in errors.values())
    assert np.isnan(got[[4, 9]]).all()
    rest = [row for row in range(10) if row not in errors]
    np.testing.assert_array_equal(got[rest], matrix(provider, words(10))[rest])


def test_arrays_lists_run_under_the_configuration() -> None:
    """Four at a time unless it says otherwise."""
    for config, seconds in ((None, 3), ({"max_concurrency": 10}, 1), ({"max_concurrency": None}, 1)):
        provider = mock(latency=1.0)
        embeddings: Any = model(provider, max_batch_size=5)
        _, took = on_mock_clock(lambda: embeddings.aembed_array(words(50), config))  # noqa: B023
        assert took == pytest.approx(seconds)


def test_arrays_a_deadline_leaves_what_was_there() -> None:
    """With `return_exceptions`; else it is raised."""
    provider = mock(latency=1.0)
    embeddings: Any = model(provider, max_batch_size=1)
    config = {"max_concurrency": 1, "deadline": 2.5}
    (got, errors), _ = on_mock_clock(
        lambda: embeddings.aembed_array(["a", "b", "a", "c", "d", "c"], config, return_exceptions=True)
    )
    assert sorted(errors) == [3, 4, 5]
    assert all(isinstance(error, DeadlineExceededError) for error in errors.values())
    np.testing.assert_array_equal(got[:3], matrix(provider, "aba"))
    with pytest.raises(DeadlineExceededError):
        on_mock_clock(lambda: embeddings.aembed_array(["a", "b", "c"], config))


def test_arrays_a_timeout_is_a_lists() -> None:
    """The others go on."""
    provider = mock(faults=FaultPlan(script=[Fault.STALL(seconds=60)]))
    embeddings: Any = model(provider, max_batch_size=2)
    (got, errors), _ = on_mock_clock(
        lambda: embeddings.aembed_array(
            words(4), {"max_concurrency": 1, "timeout": 5}, return_exceptions=True
        )
    )
    assert sorted(errors) == [0, 1]
    assert all(isinstance(error, ItemTimeoutError) for error in errors.values())
    np.testing.assert_array_equal(got[2:], matrix(provider, words(4))[2:])


async def test_arrays_inside_a_run_the_outer_cap_holds() -> None:
    """And its items are billed."""
    provider = mock(latency=0.001)
    embeddings = model(provider, max_batch_size=5)

    async def shape(texts: list[str]) -> tuple[int, ...]:
        got = await embeddings.aembed_array(texts)
        return got.shape

    result = await RunnableLambda(shape).arun([words(20)] * 3, {"max_concurrency": 2})
    assert result.outputs == [(20, WIDTH)] * 3
    assert provider.log.snapshot().peak_in_flight == 2
    assert all(outcome.usage == Usage(80, 0, 80) for outcome in result)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.SHUFFLED_INDEX,
        Fault.MISSING_INDEX,
        Fault.REPEATED_INDEX,
        Fault.MERGED_LIST,
        Fault.IGNORED_BASE64,
        Fault.REJECTED_BASE64,
        Fault.WRONG_WIDTH,
        Fault.TORN_BASE64,
        Fault.SHORT_LIST,
        Fault.LONG_LIST,
        Fault.NESTED_VECTORS,
        Fault.MALFORMED_JSON,
        Fault.TRUNCATED_JSON,
    ],
    ids=lambda fault: fault.name,
)
async def test_arrays_rows_that_were_filled_too_early_are_mended(fault: Fault) -> None:
    """A vector is written to where it should belong before it is known whether it does."""
    provider = mock(faults=FaultPlan(script=[fault, None, fault]))
    embeddings = model(provider, max_batch_size=20, max_retries=0)
    got = await embeddings.aembed_array(words(50), {"max_concurrency": 1})
    np.testing.assert_array_equal(got, matrix(provider, words(50)))


async def test_arrays_the_first_vector_of_all_may_be_of_another_width() -> None:
    """The matrix is as wide as the others."""

    def handle(request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        texts = texts if isinstance(texts, list) else [texts]
        vectors = [[float(len(text))] * (3 if text == "odd" else 2) for text in texts]
        data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        return httpx.Response(200, json={"data": data})

    embeddings = OpenAIEmbeddings("m", base_url="http://mock/v1", transport=httpx.MockTransport(handle))
    got, errors = await embeddings.aembed_array(["odd", "a", "bb"], return_exceptions=True)
    assert list(errors) == [0]
    assert "has 3 numbers, and others have 2" in str(errors[0])
    np.testing.assert_array_equal(got[1:], [[1, 1], [2, 2]])
    assert np.isnan(got[0]).all()


@given(st.permutations(range(9)), st.booleans())
def test_arrays_vectors_in_any_order_come_to_their_rows(order: list[int], coded: bool) -> None:
    """None is overwritten on the way."""

    def handle(request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        vectors = [np.array([float(text), 1.0], dtype="<f4") for text in texts]
        written = [b64encode(v.tobytes()).decode() if coded else v.tolist() for v in vectors]
        return httpx.Response(200, json={"data": [{"index": i, "embedding": written[i]} for i in order]})

    embeddings = OpenAIEmbeddings("m", base_url="http://mock/v1", transport=httpx.MockTransport(handle))
    got = embeddings.embed_array([str(number) for number in range(9)])
    np.testing.assert_array_equal(got, [[number, 1] for number in range(9)])


# Blocks


async def test_arrays_texts_become_blocks() -> None:
    """A matrix for each list, in order, with what it was billed."""
    provider = mock()
    blocks = [block async for block in model(provider, max_batch_size=4).aembed_blocks(iter(words(10)))]
    assert [block.start for block in blocks] == [0, 4, 8]
    assert all(type(block) is EmbeddingBlock and not block.errors for block in blocks)
    np.testing.assert_array_equal(np.concatenate([b.matrix for b in blocks]), matrix(provider, words(10)))
    assert blocks[2].usage == Usage(8, 0, 8)


@given(
    st.lists(st.sampled_from(["a", "b", "c", "no", "", None]), max_size=25),
    st.integers(1, 6),
    st.sampled_from([iter, arriving]),
)
def test_arrays_every_text_has_its_place_in_a_block(texts: list[Any], size: int, kind: Any) -> None:
    """Whatever repeats and whatever fails; equal texts of a list are sent once."""
    provider = mock(reject=lambda text: text == "no")

    async def main() -> list[EmbeddingBlock]:
        embeddings = model(provider, max_batch_size=size)
        async with embeddings.aembed_blocks(kind(texts), return_exceptions=True) as blocks:
            return [block async for block in blocks]

    blocks = anyio.run(main)
    assert [block.start for block in blocks] == list(range(0, len(texts), size))
    errors = {place: error for block in blocks for place, error in block.errors.items()}
    assert set(errors) == {place for place, text in enumerate(texts) if text in {"no", "", None}}
    for block in blocks:
        for row, text in enumerate(texts[block.start : block.start + size]):
            if block.start + row in errors:
                assert np.isnan(block.matrix[row]).all()
            else:
                np.testing.assert_array_equal(block.matrix[row], matrix(provider, [text])[0])


async def test_arrays_a_block_without_any_vector_is_as_wide_as_the_others() -> None:
    """As far as that is known."""
    embeddings = model(mock(), max_batch_size=2)
    config: Any = {"max_concurrency": 1}
    stream = embeddings.aembed_blocks(["a", "b", "", ""], config, return_exceptions=True)
    assert [block.matrix.shape async for block in stream] == [(2, WIDTH)] * 2
    stream = embeddings.aembed_blocks([""], return_exceptions=True)
    assert [block.matrix.shape async for block in stream] == [(1, 0)]


async def test_arrays_blocks_stop_at_an_error() -> None:
    """It says which text it was; what came before has been handed out."""
    embeddings = model(mock(), max_batch_size=2)
    starts = []
    with pytest.raises(BadRequestError) as caught:
        async for block in embeddings.aembed_blocks([*words(5), ""], {"max_concurrency": 1}):
            starts.append(block.start)
    assert starts == [0, 2]
    assert "batchrt: text 5 failed; the rest was cancelled" in caught.value.__notes__


@pytest.mark.parametrize(
    ("config", "most"),
    [(None, 6), ({"max_concurrency": 2}, 4), ({"max_concurrency": None}, 16), ({"window": 30}, 3)],
    ids=str,
)
async def test_arrays_blocks_are_bounded_by_the_window(config: Any, most: int) -> None:
    """A slow consumer stops the source; so many lists are pulled beyond what it took, and one to come."""
    pulled = 0

    def texts() -> Iterator[str]:
        nonlocal pulled
        for text in words(1000):
            pulled += 1
            yield text

    taken = 0
    async with model(mock(), max_batch_size=10).aembed_blocks(texts(), config) as blocks:
        async for block in blocks:
            taken += len(block.matrix)
            await anyio.wait_all_tasks_blocked()
            assert pulled - taken <= (most + 1) * 10 + 1
            if taken >= 80:
                break


async def test_arrays_an_endless_source_is_pulled_as_it_goes() -> None:
    """Async ones too; the packing is the same."""
    provider = mock()

    async def texts() -> AsyncIterator[str]:
        count = 0
        while True:
            yield f"text number {count}"
            count += 1

    async with model(provider, max_batch_size=3, max_batch_tokens=10).aembed_blocks(texts()) as blocks:
        first = await anext(blocks)
    assert first.matrix.shape == (1, WIDTH)
    async with model(provider, max_batch_size=3).aembed_blocks(texts()) as blocks:
        first = await anext(blocks)
    np.testing.assert_array_equal(first.matrix, matrix(provider, words(3)))


def test_arrays_blocks_in_sync_code() -> None:
    """An iterator is pulled in the calling thread, and closing ends the run."""
    provider = mock()
    threads: set[int] = set()
    pulled = 0

    def texts() -> Iterator[str]:
        nonlocal pulled
        for text in words(1000):
            threads.add(threading.get_ident())
            pulled += 1
            yield text

    blocks: Any = model(provider, max_batch_size=5).embed_blocks(texts())
    first, second = next(blocks), next(blocks)
    assert (first.start, second.start) == (0, 5)
    np.testing.assert_array_equal(second.matrix, matrix(provider, words(10))[5:])
    blocks.close()
    assert threads == {threading.get_ident()}
    assert pulled < 100
    assert provider.log.snapshot().in_flight == 0
    assert len(list(model(provider, max_batch_size=5).embed_blocks(iter(words(12))))) == 3


async def test_arrays_without_numpy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra; lists need none of it."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    embeddings = model(mock())
    with pytest.raises(ImportError, match=r"batchrt\[numpy\]"):
        await embeddings.aembed_array(["a"])
    with pytest.raises(ImportError, match=r"batchrt\[numpy\]"):
        embeddings.aembed_blocks(["a"])
    assert len(await embeddings.aembed_documents(["a"])) == 1


def test_arrays_the_deadline_counts_while_the_texts_are_pulled() -> None:
    """A source that is slow does not stretch it."""

    async def source() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(500)
        yield "b"

    async def main() -> None:
        embeddings = OpenAIEmbeddings(
            "m", base_url="http://mock/v1", api_key="k", transport=MockProvider(dimensions=4).transport()
        )
        started = anyio.current_time()
        with pytest.raises(DeadlineExceededError, match="while the texts were pulled"):
            await embeddings.aembed_array(source(), {"deadline": 5})
        assert anyio.current_time() - started == pytest.approx(5)

    virtual.run(main)
