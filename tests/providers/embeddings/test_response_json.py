"""The vectors in an answer: found without reading them as JSON, decoded, put in their places."""

from __future__ import annotations

import json
import math
import struct
import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import MalformedResponseError, ServerError
from batchrt.messages import Usage
from batchrt.providers.embeddings.response_json import (
    OneByOneError,
    VectorReader,
    Vectors,
    floats,
    read_vectors,
)
from batchrt.providers.http.response import Reply
from batchrt.providers.http.secrets import NO_SECRETS, Secrets
from tests.providers.http.replies import reply, wall

NUMBERS = [[0.5, -1.0, 2.0], [1.5, 0.25, -0.125], [3.0, 4.0, 5.0]]


def raw(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def base64(numbers: Sequence[float]) -> str:
    return b64encode(raw(numbers)).decode()


def item(value: Any, **more: Any) -> dict[str, Any]:
    return {"object": "embedding", **more, "embedding": value}


def answer(*values: Any, **more: Any) -> dict[str, Any]:
    data = [item(value, index=index) for index, value in enumerate(values)]
    return {"object": "list", "data": data, "model": "m", **more}


def read_text(text: str) -> Vectors:
    """Return what is read of an answer with `text`, escapes and all, where the one vector belongs."""
    return read(b'{"data":[{"index":0,"embedding":"%b"}]}' % text.encode(), 1)


def read(body: Any, count: int | None = None, secrets: Secrets = NO_SECRETS) -> Vectors:
    if count is None:
        count = len(body["data"])
    whole = reply(body)
    reader = VectorReader()
    reader.feed_all(whole.body)
    return read_vectors(Reply(whole.status, whole.headers, reader.end()), reader, count, secrets, wall)


@pytest.mark.parametrize("between", ["\\n", "\\r\\n", " ", "\\t", "\\u000a", "\\u000D\\u000A", "\\u0020"])
@pytest.mark.parametrize("width", [1, 7, 76])
def test_embedding_response_base64_in_lines_is_decoded(between: str, width: int) -> None:
    """As MIME writes it, and Python's base64 reads it."""
    numbers = [number / 7 for number in range(60)]
    text = b64encode(raw(numbers)).decode()
    lines = between.join(text[i : i + width] for i in range(0, len(text), width)) + between
    assert read_text(lines).vectors == [raw(numbers)]


def test_embedding_response_base64_with_escaped_slashes_is_decoded() -> None:
    """As PHP writes JSON."""
    numbers = [-1.9999998807907104, 255.99998474121094] * 8
    text = b64encode(raw(numbers)).decode()
    assert "/" in text
    assert read_text(text.replace("/", "\\/")).vectors == [raw(numbers)]


@pytest.mark.parametrize("text", ["A\\nB", "AAAA\\\\", "AA-_\\n", "====", "AAA\\n=A"])
def test_embedding_response_base64_that_is_none_has_an_error_of_ours(text: str) -> None:
    """In its place."""
    (error,) = read_text(text).vectors
    assert isinstance(error, MalformedResponseError)


def test_embedding_response_base64_is_decoded_to_the_bytes_that_it_stands_for() -> None:
    """Little-endian float32, and the tokens of all."""
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    vectors = read(answer(*map(base64, NUMBERS), usage=usage))
    assert vectors == Vectors([raw(numbers) for numbers in NUMBERS], Usage(7, 0, 7), in_base64=True)
    assert [floats(vector) for vector in vectors.vectors if isinstance(vector, bytes)] == NUMBERS


def test_embedding_response_numbers_are_read_the_same() -> None:
    """From a server that does not know base64."""
    vectors = read(answer(*NUMBERS))
    assert vectors == Vectors([raw(numbers) for numbers in NUMBERS], None, in_base64=False)


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), min_size=1),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
    st.randoms(),
)
def test_embedding_response_vectors_in_every_notation_are_read(
    numbers: list[list[float]], indent: Any, coded: bool, random: Any
) -> None:
    """Any spacing, any order of members and items, either form: the same vectors."""
    items = []
    for index, vector in enumerate(numbers):
        value = base64(vector) if coded else vector
        members = list(item(value, index=index, note='"embedding": "[').items())
        random.shuffle(members)
        items.append(dict(members))
    random.shuffle(items)
    body = json.dumps({"data": items}, indent=indent).encode()
    assert read(body, len(numbers)).vectors == [raw(vector) for vector in numbers]


def test_embedding_response_slashes_may_be_escaped() -> None:
    """As PHP does."""
    numbers = struct.unpack("<3f", b"\x3f\xff\x7e\x3f" * 3)
    text = base64(numbers)
    assert "/" in text
    body = json.dumps(answer(text)).replace("/", "\\/").encode()
    assert read(body, 1).vectors == [raw(numbers)]


def test_embedding_response_a_string_that_looks_like_a_vector_is_none() -> None:
    """A server may say the input back."""
    body = answer(base64(NUMBERS[0]), input=['{"embedding":"AAAA"}', '"embedding":[1]'])
    assert read(body).vectors == [raw(NUMBERS[0])]


@pytest.mark.parametrize("indexes", [[None] * 3, [0, 1, 2], ["0", "1", "2"]], ids=str)
def test_embedding_response_without_an_index_the_order_counts(indexes: list[Any]) -> None:
    """And an index that is text is an index."""
    data = [
        item(base64(n), **({} if i is None else {"index": i})) for n, i in zip(NUMBERS, indexes, strict=True)
    ]
    assert read({"data": data}).vectors == [raw(numbers) for numbers in NUMBERS]


@pytest.mark.parametrize(
    ("indexes", "places"),
    [
        ([None, 1, 2], [0, 1, 2]),
        ([2, None, 1], [2, 0, 1]),
        ([0, 1, None], [0, 1, 2]),
        ([1, 2, 3], [0, 1, 2]),
        (["3", "1", "2"], [2, 0, 1]),
        ([3, None, 1], [2, 1, 0]),
        ([0.0, 2.0, 1.0], [0, 2, 1]),
        ([None, 1, None], [0, 1, 2]),
        ([None, None, 3], [0, 1, 2]),
    ],
    ids=str,
)
def test_embedding_response_indexes_that_leave_no_doubt_are_understood(
    indexes: list[Any], places: list[int]
) -> None:
    """One that is missing has the free place, some count from 1, and what is in order may lack some."""
    data = [
        item(base64(NUMBERS[place]), **({} if i is None else {"index": i}))
        for i, place in zip(indexes, places, strict=True)
    ]
    assert read({"data": data}).vectors == [raw(numbers) for numbers in NUMBERS]


def test_embedding_response_vectors_are_placed_by_their_index() -> None:
    """Whatever order they come in."""
    data = [item(base64(NUMBERS[index]), index=index) for index in (2, 0, 1)]
    assert read({"data": data}).vectors == [raw(numbers) for numbers in NUMBERS]


def test_embedding_response_one_vector_of_one_text_may_say_any_index() -> None:
    """Some servers count on through all requests."""
    assert read({"data": [item(NUMBERS[0], index=17)]}).vectors == [raw(NUMBERS[0])]


@pytest.mark.parametrize(
    "indexes", [[0, 0, 1], [0, 1, 3], [0, 1, -1], [None, None, 0], [None, 3, 4], [0, 1, True], [0, 1, 1.5]]
)
def test_embedding_response_indexes_that_are_no_order_are_an_error(indexes: list[Any]) -> None:
    """None of the vectors can be trusted; the list is asked for in parts rather than again."""
    data = [item(NUMBERS[0], index=index) for index in indexes]
    with pytest.raises(MalformedResponseError, match="indexes are not 0 to 2, each once") as caught:
        read({"data": data})
    assert caught.value.retry_advised is False
    assert not isinstance(caught.value, OneByOneError)


@pytest.mark.parametrize(("vectors", "texts"), [(2, 3), (4, 3), (0, 1), (1, 2), (2, 1)])
def test_embedding_response_another_number_of_vectors_is_an_error(vectors: int, texts: int) -> None:
    """One of two may be an accident; a list's parts are asked for instead, a single text again."""
    with pytest.raises(MalformedResponseError, match=f"has {vectors} vectors? for {texts} text") as caught:
        read(answer(*[NUMBERS[0]] * vectors), texts)
    assert caught.value.retry_advised is (None if texts == 1 else False)
    assert not isinstance(caught.value, OneByOneError)


def test_embedding_response_a_server_that_knows_no_lists_is_found_out() -> None:
    """One vector for all, or all of the same index."""
    with pytest.raises(OneByOneError, match="has 1 vector for 3 texts"):
        read(answer(NUMBERS[0]), 3)
    with pytest.raises(OneByOneError, match="indexes"):
        read({"data": [item(NUMBERS[0], index=0)] * 3})


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "neither base64 nor numbers"),
        (5, "neither base64 nor numbers"),
        ({"a": 1}, "neither base64 nor numbers"),
        ([], "is empty"),
        ("", "is 0 bytes"),
        ([1.0, None], "no number"),
        ([1.0, "2"], "no number"),
        ([[1.0], [2.0]], "2 vectors, one for each token"),
        ([[]], "is empty"),
        ("AAA!", "is not base64"),
        ("AAAA", "is 3 bytes of base64"),
        ("#0", "is not base64"),
        (base64([1.0, math.nan]), "not finite"),
        (base64([-math.inf]), "not finite"),
        ([1.0, math.nan], "not finite"),
        ([1e300], "not finite"),
    ],
    ids=str,
)
def test_embedding_response_a_broken_vector_is_that_texts_error(value: Any, why: str) -> None:
    """The others are as good as ever."""
    first, broken, last = read(answer(base64(NUMBERS[0]), value, base64(NUMBERS[2]))).vectors
    assert (first, last) == (raw(NUMBERS[0]), raw(NUMBERS[2]))
    assert isinstance(broken, MalformedResponseError)
    assert why in broken.message
    assert "data[1].embedding" in broken.message
    assert broken.status == 200


def test_embedding_response_large_numbers_are_numbers() -> None:
    """The quick look for what is not finite is followed by a closer one."""
    largest = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
    assert read(answer([largest, -largest])).vectors == [raw([largest, -largest])]


def test_embedding_response_a_vector_in_an_array_of_its_own_is_one() -> None:
    """As llama-server's older answers have it."""
    assert read(answer([NUMBERS[0]])).vectors == [raw(NUMBERS[0])]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "is not JSON"),
        (b'{"data": [', "is not JSON"),
        (b'{"data": [{"embedding": "AAAA', "is not JSON"),
        (b'{"data": [{"embedding": [1, 2', "is not JSON"),
        (b'{"data": [{"embedding":', "is not JSON"),
        (b"[]", "is no JSON object"),
        (b"{}", "has no data"),
        (b'{"data": {}}', "has no data"),
        (b'{"data": {"a": 1}}', "has data that is no list"),
        (b'{"data": [1]}', "something in data that is no object"),
    ],
)
def test_embedding_response_an_answer_of_another_shape_is_an_error(body: bytes, why: str) -> None:
    """It says what is missing."""
    with pytest.raises(MalformedResponseError, match=why):
        read(body, 1)


def test_embedding_response_an_error_that_came_as_a_success_is_raised() -> None:
    """As some proxies have it."""
    with pytest.raises(ServerError, match="no workers"):
        read({"error": {"message": "no workers"}}, 1)


def test_embedding_response_no_message_holds_a_vector_or_a_key() -> None:
    """The beginning of an answer is shown without either."""
    with pytest.raises(MalformedResponseError) as caught:
        read({"key": "sk-secret", **answer(base64([0.1] * 500))}, 2, Secrets(["sk-secret"]))
    assert "sk-secret" not in str(caught.value)
    assert base64([0.1] * 30)[:20] not in str(caught.value)


@pytest.mark.parametrize("value", ["#9", "#x", "#"])
def test_embedding_response_a_string_that_looks_like_a_mark_is_none(value: str) -> None:
    """A name written with escapes is not found when vectors are cut out."""
    body = b'{"data": [{"\\u0065mbedding": "%b"}]}' % value.encode()
    (broken,) = read(body, 1).vectors
    assert isinstance(broken, MalformedResponseError)


@given(st.data(), st.sampled_from([None, 1]), st.booleans())
def test_embedding_response_however_a_body_is_cut_into_pieces(data: Any, indent: Any, coded: bool) -> None:
    """What is read of it is the same."""
    values = [*(base64(numbers) if coded else numbers for numbers in NUMBERS), [[1.0], [2.0]], None, [[5.0]]]
    body = json.dumps(answer(*values, input=['"embedding":"']), indent=indent).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    reader = VectorReader()
    for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True):
        reader.feed(memoryview(body)[start:stop])
    items = json.loads(reader.end())["data"]
    assert [reader.vector(one["embedding"]) for one in items[:3]] == [raw(numbers) for numbers in NUMBERS]
    assert [one["embedding"] for one in items[3:]] == values[3:]
    assert reader.vector(items[5]["embedding"]) == raw([5.0])


@pytest.mark.parametrize(
    "filler", [b'"embedding"', b'"embedding":', b'"embedding" : [', b'"embedding":"', b" ", b'"embedding"  ']
)
def test_embedding_response_a_body_made_to_be_slow_is_not(filler: bytes) -> None:
    """Linear in its size, whatever it repeats."""
    began = time.process_time()
    with pytest.raises(MalformedResponseError):
        read(filler * 200_000, 1)
    assert time.process_time() - began < 20  # a second or two; quadratic it would take hours
