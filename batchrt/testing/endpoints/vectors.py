"""Embeddings without a model: unit vectors assembled from a pool of blocks that a hash selects.

A vector of usual width is about sixteen blocks of floats, each one of 256 that were generated beforehand and
are kept in every encoding. So a vector costs one hash and sixteen look-ups, as base64, JSON numbers or a
list, and is the same in each encoding to the last bit. Two inputs share a block now and then, and a whole
vector once in 2^88 pairs or less.
"""

from __future__ import annotations

import math
import struct
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b, shake_128
from typing import TypeAlias

__all__ = ["Embeddable", "SeededVectors", "VectorSpace"]

Embeddable: TypeAlias = str | Sequence[int]
"""A text, or its tokens."""

_Tables: TypeAlias = Sequence[Sequence[bytes]]
"""The candidate blocks of each position in a vector."""

_CHOICES = 256  # a byte of the hash selects a block
_PLACES = 16  # blocks of a vector, at most, and bytes of the hash
# Base64 encodes three bytes at a time, so blocks of three floats can be encoded separately.
_STEP = 3
# Narrower vectors have too few blocks to be distinct, and are cheap to generate.
_POOLED_FROM = 96
_MOST_POOLS = 16


def _unit(purpose: bytes, count: int, length: float) -> bytes:
    """Draw `count` little-endian float32 whose vector has this `length`."""
    numbers = struct.unpack(f"<{count}H", shake_128(purpose).digest(2 * count))
    # No number is ever zero, and so no vector.
    centred = [number - 32767.5 for number in numbers]
    scale = length / math.hypot(*centred)
    return struct.pack(f"<{count}f", *[number * scale for number in centred])


def _floats(raw: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def _text(raw: bytes) -> bytes:
    return ",".join(map(repr, _floats(raw))).encode()


class _Pool:
    """The blocks of one width, in the encodings requested so far."""

    def __init__(self, seed: int, width: int) -> None:
        size = _STEP * math.ceil(width / (_STEP * _PLACES))
        places, rest = divmod(width, size)
        self.raw: _Tables = [self._blocks(seed, width, size)] * places
        if rest:
            self.raw = [*self.raw, self._blocks(seed, width, rest)]

    @staticmethod
    def _blocks(seed: int, width: int, size: int) -> Sequence[bytes]:
        length = math.sqrt(size / width)
        return [_unit(b"%d/%d/%d/%d" % (seed, width, size, n), size, length) for n in range(_CHOICES)]

    @cached_property
    def base64(self) -> _Tables:
        return self._written(b64encode)

    @cached_property
    def text(self) -> _Tables:
        return self._written(_text)

    def _written(self, write: Callable[[bytes], bytes]) -> _Tables:
        first = [write(block) for block in self.raw[0]]
        return [first if blocks is self.raw[0] else [write(block) for block in blocks] for blocks in self.raw]


class VectorSpace:
    """The vectors of one model at one width."""

    def __init__(self, seed: int, model: str, width: int, pool: _Pool | None) -> None:
        self._width = width
        self._pool = pool
        self._hash = blake2b(b"%d/%d/%b\0" % (seed, width, _bytes_of(model)), digest_size=_PLACES)

    def raw(self, value: Embeddable) -> bytes:
        """Return the vector as little-endian float32."""
        digest = self._digest(value)
        if self._pool is None:
            return _unit(digest, self._width, 1.0)
        return b"".join(_chosen(self._pool.raw, digest))

    def floats(self, value: Embeddable) -> list[float]:
        """Return the vector as numbers."""
        return list(_floats(self.raw(value)))

    def base64(self, value: Embeddable) -> bytes:
        """Return the vector as base64 of its float32."""
        if self._pool is None:
            return b64encode(self.raw(value))
        return b"".join(_chosen(self._pool.base64, self._digest(value)))

    def text(self, value: Embeddable) -> bytes:
        """Return the vector as JSON numbers between commas, without the brackets."""
        if self._pool is None:
            return _text(self.raw(value))
        return b",".join(_chosen(self._pool.text, self._digest(value)))

    def _digest(self, value: Embeddable) -> bytes:
        hasher = self._hash.copy()
        hasher.update(_bytes_of(value) if isinstance(value, str) else _bytes_of_tokens(value))
        return hasher.digest()


def _chosen(tables: _Tables, digest: bytes) -> list[bytes]:
    # The last bytes of the hash may have no block to select.
    return [blocks[choice] for blocks, choice in zip(tables, digest, strict=False)]


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _bytes_of_tokens(tokens: Sequence[int]) -> bytes:
    # No text begins with this byte.
    return b"\xff" + ",".join(map(str, tokens)).encode()


class SeededVectors:
    """The vector spaces of one seed, with the pools of the widths in use."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pools: dict[int, _Pool] = {}

    def space(self, model: str, width: int) -> VectorSpace:
        """Return the space of `model` at `width` dimensions."""
        pool = None
        if width >= _POOLED_FROM:
            pool = self._pools.get(width)
            if pool is None:
                # Two threads may both generate it: the result is the same.
                pool = _Pool(self._seed, width)
                if len(self._pools) >= _MOST_POOLS:
                    self._pools = {}
                self._pools[width] = pool
        return VectorSpace(self._seed, model, width, pool)
