"""The identity of rows: digests of the request that a row leads to, and of the row itself."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from batchrt.jobs.records import decode_json, encode_input
from batchrt.runnables.base import Runnable

__all__ = ["Identity", "differing"]

_KEY_BYTES: Final = 16
_INPUT_BYTES: Final = 8
"""Bytes of a digest. They only have to find an input: the input itself is then compared."""


class Identity:
    """Compute the keys of rows: rows with the same request to the same chain have equal keys.

    A row's key is a digest of the body of the first request that the chain sends for it, of the endpoint,
    and of all that follows in the chain. Where the body cannot be rendered beforehand, since a function of
    the user's comes first, it is a digest of the input and of the whole chain.

    Args:
        chain: the chain.
        version: stands for the code of all functions in it; `None` compares the code itself.

    Attributes:
        parts: name and digest of each part of the chain that the outputs depend on.
        is_fixed: whether equal inputs have equal keys, at any time.
        output_type: the class of the outputs, if JSON does not have it.
        needs: names that each input must have.

    Raises:
        ValueError: a function's code cannot be compared between processes, and there is no version.
    """

    def __init__(self, chain: Runnable[Any, Any], version: str | None = None) -> None:
        described = chain.describe()
        self._render = described.render if described.asks else None
        self.is_fixed: bool = described.is_fixed or self._render is None
        self.output_type: type[Any] | None = described.output_type
        self.needs: tuple[str, ...] = described.needs
        self._fields = described.fields
        parts: list[tuple[str, str]] = []
        for each in described.parts:
            if version is not None and (each.is_code or each.problem):
                parts.append((each.name, f"version {version}"))
                continue
            if each.problem:
                raise ValueError(
                    f"the {each.name} cannot be compared between processes: {each.problem}; give the job a "
                    "`version`, and another one whenever the function changes"
                )
            parts.append((each.name, each.digest))
        self.parts: tuple[tuple[str, str], ...] = tuple(parts)
        self._whole = _digest_of_parts(self.parts)
        self._rest = _digest_of_parts(self.parts[described.rendered :])

    def keys(self, value: object, given: bytes) -> tuple[bytes, bytes]:
        """Return the digests of a row's request and of its input; `given` is the input as JSON."""
        input_key = blake2b(given, digest_size=_INPUT_BYTES).digest()
        body = None
        if self._render is not None:
            try:
                body = self._render(value)
            except Exception:  # noqa: BLE001  nothing is sent for it: the chain raises the error again
                body = None
        if body is None:
            return blake2b(given, digest_size=_KEY_BYTES, key=self._whole).digest(), input_key
        return blake2b(body, digest_size=_KEY_BYTES, key=self._rest).digest(), input_key

    def is_same_input(self, given: str, value: object) -> bool:
        """Whether a recorded input (JSON) and `value` are equal in all fields that the chain uses."""
        old = decode_json(given)
        if self._fields is None or not isinstance(old, dict) or not isinstance(value, Mapping):
            return given.encode() == encode_input(value)
        missing = object()
        fields = {name: value[name] for name in self._fields if name in value}
        new = decode_json(encode_input(fields).decode())
        return all(old.get(name, missing) == new.get(name, missing) for name in self._fields)

    def key_of_error(self, given: bytes, error: Exception) -> tuple[bytes, bytes]:
        """Return the digests of a row that cannot be read."""
        input_key = blake2b(given, digest_size=_INPUT_BYTES).digest()
        text = str(error).encode("utf-8", "surrogatepass")
        return blake2b(given + text, digest_size=_KEY_BYTES, person=b"bad row").digest(), input_key


def _digest_of_parts(parts: tuple[tuple[str, str], ...]) -> bytes:
    return blake2b(repr(parts).encode(), digest_size=32).digest()


def differing(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the parts that differ between the chains."""
    return tuple(name for name in {**new, **old} if old.get(name) != new.get(name))
