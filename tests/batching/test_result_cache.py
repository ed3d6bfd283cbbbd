"""The cache of results: bounded in bytes, the least recently used go first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchrt.batching.result_cache import ResultCache


def test_result_cache_drops_the_least_recently_used() -> None:
    """Asking for a result is a use of it."""
    cache = ResultCache(10)
    cache.put("a", bytes(4))
    cache.put("b", bytes(4))
    assert cache.get("a") == bytes(4)
    cache.put("c", bytes(4))
    assert [cache.get(key) for key in "abc"] == [bytes(4), None, bytes(4)]
    cache.put("d", bytes(6))
    assert [cache.get(key) for key in "acd"] == [None, bytes(4), bytes(6)]
    assert len(cache) == 2


def test_result_cache_leaves_out_a_result_larger_than_itself() -> None:
    """Others stay for it; one of exactly its size is kept."""
    cache = ResultCache(10)
    cache.put("a", b"a")
    cache.put("b", bytes(11))
    assert (cache.get("a"), cache.get("b")) == (b"a", None)
    cache.put("c", bytes(10))
    assert (cache.get("a"), cache.get("c")) == (None, bytes(10))


def test_result_cache_keeps_the_first_result_of_a_key() -> None:
    """And counts its bytes once."""
    cache = ResultCache(4)
    for result in (b"old", b"new"):
        cache.put("a", result)
    assert cache.get("a") == b"old"
    cache.put("b", b"b")
    assert cache.get("a") == b"old"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 12)), max_size=50))
def test_result_cache_never_holds_more_than_its_capacity(puts: list[tuple[str, int]]) -> None:
    """And always the newest that fits."""
    cache = ResultCache(10)
    for key, size in puts:
        cache.put(key, bytes(size))
        held = [result for result in map(cache.get, "abcdef") if result is not None]
        assert sum(map(len, held)) <= 10
        assert len(held) == len(cache)
        if size <= 10:
            assert cache.get(key) is not None
