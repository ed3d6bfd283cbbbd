"""What must not be shown to anybody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

__all__ = ["NO_SECRETS", "Secrets"]


class Secrets:
    """Hold strings that a traceback with its frames' variables does not show.

    No `Sequence` and no tuple: what reports errors looks into those.
    """

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: one may be part of another.
        self._secrets = tuple(sorted(secrets, key=len, reverse=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self._secrets)

    def __repr__(self) -> str:
        return "***"


NO_SECRETS: Final = Secrets()
