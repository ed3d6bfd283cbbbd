"""Server families: the limits of `/embeddings` that are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

__all__ = ["Family", "ServerFamily", "family_of"]

ServerFamily: TypeAlias = Literal[
    "openai", "azure", "tei", "infinity", "llama-server", "llama-cpp-python", "vllm", "ollama"
]


class Family(NamedTuple):
    """Hold the limits of a kind of server; `None` for no limit, or none that is known.

    Attributes:
        size: the most texts in a request.
        tokens: the most tokens in a request.
        text_tokens: the most tokens in a text.
        takes_empty: it has a vector for the empty text.
    """

    size: int | None = None
    tokens: int | None = None
    text_tokens: int | None = None
    takes_empty: bool = False


_OPENAI: Final = Family(2_048, 300_000, 8_192)
_UNBOUNDED: Final = Family(2_048)
"""A server without a limit. A list's answer is kept whole until it has been read, so there is one."""

_FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        # OpenAI's API reference for embeddings; the tokens of a request are in its error message.
        "openai": _OPENAI,
        # The same limits, save that Azure names none for a request's tokens: its front end has OpenAI's.
        "azure": _OPENAI,
        # `--max-client-batch-size`, 32 unless the operator says otherwise.
        "tei": Family(32),
        # Its request model bounds the list; empty texts pass.
        "infinity": Family(2_048, takes_empty=True),
        "llama-server": _UNBOUNDED,
        "llama-cpp-python": _UNBOUNDED._replace(takes_empty=True),
        "vllm": _UNBOUNDED._replace(takes_empty=True),
        "ollama": _UNBOUNDED._replace(takes_empty=True),
    }
)

_UNKNOWN: Final = Family(2_048, 300_000)
"""A server that offers OpenAI's API is tried with OpenAI's limits: a list that is too long is refused at
once, with the server's own limit in the message, which is remembered; lists that are too short cost a request
each, for ever."""

_AZURE: Final = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


def family_of(server: ServerFamily | None, host: str) -> Family:
    """Return the family called `server`; if that is `None`, the one that `host` belongs to.

    Raises:
        ValueError: for a name that is none.
    """
    if server is None:
        if host == "api.openai.com" or host.endswith(".api.openai.com"):
            return _FAMILIES["openai"]
        return _FAMILIES["azure"] if host.endswith(_AZURE) else _UNKNOWN
    if server not in _FAMILIES:
        raise ValueError(f"server must be one of {', '.join(get_args(ServerFamily))}; not {server!r}")
    return _FAMILIES[server]
