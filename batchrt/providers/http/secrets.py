"""Secrets: API keys and header values that reprs, logs, messages and tracebacks must not show."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

__all__ = ["NO_SECRETS", "Hidden", "Secret", "Secrets", "is_credential", "scrub", "secrets_of"]

_FEWEST_SECRET_CHARACTERS: Final = 6
"""Shorter "keys", such as the `none` or `EMPTY` that local servers are given, are not secrets, and masking
them would mask ordinary words."""
_CREDENTIALS: Final = frozenset(
    (
        *("auth", "authentication", "bearer", "cookie", "credential", "credentials", "jwt", "key", "passwd"),
        *("password", "secret", "signature", "token"),
    )
)
"""The last word of a header that carries a credential, such as `x-api-key` and `cf-access-client-secret`."""
_CREDENTIAL_ENDS: Final = ("token", "secret", "apikey", "authkey", "accesskey", "secretkey", "password")
"""The ends of compound words, as in `x-authtoken`; `x-portkey-…` and `x-monkey` are not credentials."""
_NO_CREDENTIALS: Final = frozenset(
    (
        *("affinity", "cache", "dedup", "deduplication", "group", "idempotency", "ordering", "partition"),
        *("request", "routing", "shard", "sharding", "sort", "trace"),
    )
)
"""Words before `key` in headers that are not credentials and may differ from request to request."""
_PLACEHOLDERS: Final = frozenset(
    (
        *("anything", "dummy", "dummy-key", "lm-studio", "lmstudio", "local", "localai", "no-key", "no_key"),
        *("no-key-required", "not-needed", "not-required", "ollama", "openai", "placeholder", "unused"),
        *("sk-no-key-required", "sk-xxx", "vllm"),
    )
)
"""Keys from the guides of local servers, which are not secrets either."""


class Secret(Protocol):
    """A key that hides itself, as `pydantic.SecretStr` does."""

    def get_secret_value(self) -> str:
        """Return the key."""


class Hidden:
    """A key that a traceback with its frames' variables does not show."""

    __slots__ = ("_key",)

    def __init__(self, key: str | Secret | None) -> None:
        self._key = key

    def get_secret_value(self) -> str:
        """Return the key, or the environment's if none was given."""
        if self._key is None:
            return os.environ.get("OPENAI_API_KEY", "")
        return self._key if isinstance(self._key, str) else self._key.get_secret_value()

    @property
    def source(self) -> str:
        """The name under which the key was given: a parameter, or an environment variable."""
        if isinstance(self._key, Hidden):
            return self._key.source
        return "OPENAI_API_KEY" if self._key is None else "api_key"

    def mistake(self, *, has_spaces: bool = True) -> str:
        """Return the reason why the key cannot be one, without showing it; empty if it can.

        Args:
            has_spaces: whether a space may be in it, as in the `not needed` that local servers are given.
        """
        key = self.get_secret_value().strip()  # keys from files and shells end with a line break
        if key.lower().startswith("bearer "):
            return "begins with Bearer, which is added to it; leave that out"
        found = _NO_KEY.search(key) or (None if has_spaces else re.search(" ", key))
        if found is None:
            return ""
        kind = _KINDS.get(found[0], "a control character" if found[0].isascii() else "no ASCII character")
        return f"has {kind} as its character {found.start() + 1}; it must be the key alone, on one line"

    def __repr__(self) -> str:
        return "***"


_NO_KEY: Final = re.compile(r"[^\x20-\x7e]")
_KINDS: Final = {"\n": "a line break", "\r": "a line break", "\t": "a tab", " ": "a space"}


class Secrets:
    """Strings that a traceback with its frames' variables does not show.

    Not a `Sequence` or a tuple: error reporters print the elements of those.
    """

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # Longest first, as one may contain another.
        self._secrets = tuple(sorted(secrets, key=len, reverse=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self._secrets)

    def __repr__(self) -> str:
        return "***"


NO_SECRETS: Final = Secrets()


def secrets_of(key: str, headers: Mapping[str, str]) -> Secrets:
    """Return the secrets among `key` and the values of `headers`."""
    found = {key}
    for name, value in headers.items():
        if is_credential(name):
            found |= {value, value.rpartition(" ")[2]}
    return Secrets(secret for secret in found if _is_secret(secret))


def _is_secret(text: str) -> bool:
    return len(text) >= _FEWEST_SECRET_CHARACTERS and text.lower() not in _PLACEHOLDERS


def is_credential(header: str) -> bool:
    """Whether a header's name says that its value is a credential: by its words, not by their letters."""
    words = [word for word in re.split(r"[^a-z]+", header) if word]
    if not words or (words[-1] == "key" and not _NO_CREDENTIALS.isdisjoint(words)):
        return False
    return "authorization" in words or words[-1] in _CREDENTIALS or words[-1].endswith(_CREDENTIAL_ENDS)


def scrub(text: str, secrets: Secrets) -> str:
    """Return `text` with every secret in it masked."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
