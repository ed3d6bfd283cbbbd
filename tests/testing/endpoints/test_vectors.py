from __future__ import annotations

import base64
import json
import math
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.testing.endpoints.vectors import SeededVectors

VECTORS = SeededVectors(0)
"""Shared: it holds nothing but blocks that would be made again."""


@given(
    text=st.text() | st.lists(st.integers(0, 2**31), min_size=1),
    width=st.integers(1, 40) | st.integers(90, 130) | st.sampled_from([384, 1000, 1536]),
)
def test_vector_encodings_agree_to_the_last_bit(text: str | list[int], width: int) -> None:
    """Numbers, base64, JSON and bytes; float32 holds each number exactly; the length is one."""
    space = VECTORS.space("m", width)
    numbers = space.floats(text)
    packed = struct.pack(f"<{width}f", *numbers)
    assert list(struct.unpack(f"<{width}f", packed)) == numbers
    assert space.raw(text) == packed
    assert space.base64(text) == base64.b64encode(packed)
    assert json.loads(b"[" + space.text(text) + b"]") == numbers
    assert math.hypot(*numbers) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("width", [8, 96, 100, 1536])
def test_vectors_of_different_texts_differ(width: int) -> None:
    """Many of them, and nearly orthogonal where the width allows."""
    space = VECTORS.space("m", width)
    assert len({space.raw(f"{number}") for number in range(5_000)}) == 5_000


def test_vectors_of_different_texts_are_nearly_orthogonal() -> None:
    """As embeddings of unrelated texts are."""
    space = VECTORS.space("m", 1536)
    first, *others = (space.floats(f"{number}") for number in range(50))
    cosines = [abs(sum(map(float.__mul__, first, other))) for other in others]
    assert max(cosines) < 0.5
    assert sum(cosines) / len(cosines) < 0.1


@pytest.mark.parametrize("width", [8, 256])
def test_vector_depends_on_seed_model_and_width_alone(width: int) -> None:
    """The same in another process."""
    vector = SeededVectors(1).space("m", width).floats("hello")
    assert vector == SeededVectors(1).space("m", width).floats("hello")
    assert vector != SeededVectors(2).space("m", width).floats("hello")
    assert vector != SeededVectors(1).space("other", width).floats("hello")
    assert vector[0] != SeededVectors(1).space("m", width + 3).floats("hello")[0]


def test_vectors_do_not_change_between_releases() -> None:
    """Users' recorded expectations stay valid."""
    assert SeededVectors(0).space("mock", 3).base64("hello") == b"qucgP8H6yj4aTis/"
    assert SeededVectors(0).space("mock", 96).base64("hello")[:16] == b"ESshvuAS1j0N4fA9"


def test_vector_of_a_text_is_not_that_of_its_tokens() -> None:
    """In neither direction."""
    space = VECTORS.space("m", 8)
    assert len({space.raw(value) for value in ("1,2", [1, 2], [12], "12")}) == 4


def test_vector_pools_are_bounded() -> None:
    """A pool that was dropped is generated the same."""
    vectors = SeededVectors(3)
    before = vectors.space("m", 96).floats("a")
    for width in range(97, 130):
        vectors.space("m", width)
    assert len(vectors._pools) <= 16
    assert vectors.space("m", 96).floats("a") == before


def test_vectors_are_thread_safe() -> None:
    """A provider may be served from several threads."""
    vectors = SeededVectors(4)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: vectors.space("m", 96 + number % 3).raw("a"), range(60)))
    assert [len(raw) for raw in made] == [4 * (96 + number % 3) for number in range(60)]
    assert len(set(made)) == 3
