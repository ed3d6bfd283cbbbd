"""Chunks of a completion's text, read from the events of its stream; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

from batchrt.errors import ProviderError
from batchrt.messages import Usage
from batchrt.providers.chunk_reader import ChunkReader
from batchrt.providers.completions.request_json import read_texts
from batchrt.providers.http.response import Reply
from batchrt.providers.http.secrets import Secrets

__all__ = ["TextChunks"]


class TextChunks(ChunkReader[str]):
    """Read pieces of a text; see `ChunkReader` for the arguments. Empty ones are no chunks."""

    def __init__(self, head: Reply, secrets: Secrets, wall: Callable[[], float]) -> None:
        super().__init__(head, secrets, wall)
        self._text = StringIO()

    def _whole(self, reply: Reply) -> tuple[str, Usage | None]:
        texts = read_texts(reply, 1, 1, self._secrets, self._wall)
        (of_prompt,) = texts.texts
        if isinstance(of_prompt, ProviderError):
            raise of_prompt
        return of_prompt[0], texts.usage

    def partial(self) -> str:
        """Return the text so far."""
        return self._text.getvalue()

    def _chunk(self, choice: Mapping[str, Any], data: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        self._ended(choice)
        text = choice.get("text")
        if not isinstance(text, str):
            delta = choice.get("delta")  # a chat's
            text = delta.get("content") if isinstance(delta, dict) else None
        if not text or not isinstance(text, str):
            return None
        self._text.write(text)
        return text

    def _last(self) -> str | None:
        return None if self._text.tell() else ""
