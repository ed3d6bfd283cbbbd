"""A provider as its chat models and embeddings see it: address, key, transport, another attempt."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from tenacity import stop_after_attempt

from batchrt.errors import AuthenticationError, ProviderError
from batchrt.providers.address import Address
from batchrt.providers.failures import error_from
from batchrt.providers.retry_after import should_retry, wait_before_retry
from batchrt.providers.secrets import Secrets
from batchrt.providers.transport import Transport
from batchrt.runtime.retrying import RetryPolicy, retry_after_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tenacity import RetryCallState

    from batchrt.providers.reply import Reply
    from batchrt.providers.transport import HTTPClient, HTTPTransport, Sink
    from batchrt.runtime.clock import Clock
    from batchrt.runtime.run import Strand

__all__ = ["Client", "Hidden", "Secret"]

T = TypeVar("T")

_OPENAI: Final = "https://api.openai.com/v1"
_FEWEST_SECRET_CHARACTERS: Final = 6
"""Shorter "keys", such as the `none` or `EMPTY` that local servers are given, are no secrets, and
masking them would eat words."""


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
        """Return the key; else the environment's."""
        if self._key is None:
            return os.environ.get("OPENAI_API_KEY", "")
        return self._key if isinstance(self._key, str) else self._key.get_secret_value()

    def __repr__(self) -> str:
        return "***"


class Client:
    """Send requests to one provider, and send them again where that may help.

    Args:
        base_url: else `OPENAI_BASE_URL`, else OpenAI's.
        api_key: else `OPENAI_API_KEY`; an empty string sends none.
        organization: else `OPENAI_ORG_ID`.
        project: else `OPENAI_PROJECT_ID`.
        timeout: seconds for each request as a whole; `None` for no end.
        max_retries: attempts after the first.
        http_client: send through this `httpx.AsyncClient`; it stays the caller's to close.
        transport: send through this httpx transport.
        extra_headers: sent with every request; they win over the client's own.
        max_response_bytes: an answer that is larger, as received or unpacked, is an error.

    Raises:
        AuthenticationError: there is no key, and OpenAI wants one.
        ValueError: for options that make no sense.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        organization: str | None = None,
        project: str | None = None,
        timeout: float | None = 600.0,
        max_retries: int = 2,
        http_client: HTTPClient | None = None,
        transport: HTTPTransport | None = None,
        extra_headers: Mapping[str, str] | None = None,
        max_response_bytes: int = 64 * 2**20,
    ) -> None:
        api_key = Hidden(api_key)
        _check_limits(timeout, max_retries, max_response_bytes)
        self.address: Address = Address(base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI)
        extra = {name.lower(): value for name, value in (extra_headers or {}).items()}
        key = api_key.get_secret_value().strip()  # keys come from files and shells, with a line's end
        own_way = http_client is not None or transport is not None or "authorization" in extra
        if not key and not own_way and self.address.host == "api.openai.com":
            raise AuthenticationError(
                "there is no API key: set OPENAI_API_KEY or pass api_key (or pass base_url, if "
                "OpenAI is not who you want to ask)"
            )
        headers = {**self.address.credentials, **_headers(key, organization, project), **extra}
        self.secrets: Secrets = _secrets(key, {**self.address.credentials, **extra})
        self.max_retries = max_retries
        self._stop = stop_after_attempt(max_retries + 1)
        self._transport = Transport(
            headers,
            tls=self.address.tls,
            timeout=timeout,
            max_response_bytes=max_response_bytes,
            http_client=http_client,
            transport=transport,
        )

    def __repr__(self) -> str:
        if "address" not in self.__dict__:  # a debugger looks at a constructor that failed
            return "<Client>"
        return f"<Client of {self.address.origin}>"

    async def call(
        self,
        url: str,
        body: bytes,
        read: Callable[[Reply, Clock], T],
        strand: Strand,
        sink: Callable[[], Sink] | None = None,
    ) -> T:
        """Post `body` and return what `read` makes of the reply; `strand` holds a slot meanwhile.

        `sink` makes what takes the body of a success in as it comes, for each attempt anew.

        Raises:
            ProviderError: the last attempt's; `attempts` says how many there were.
        """
        try:
            await strand.take()
            reply = await self._transport.post(url, body, None if sink is None else sink())
            return self._judge(reply, read, strand)
        except ProviderError as error:
            failure = error
        return await self._call_again(url, body, read, strand, sink, failure)

    # A method of its own: the variables of a closure would burden every first attempt that waits.
    async def _call_again(  # noqa: PLR0917  what `call` was given
        self,
        url: str,
        body: bytes,
        read: Callable[[Reply, Clock], T],
        strand: Strand,
        sink: Callable[[], Sink] | None,
        failure: ProviderError,
    ) -> T:
        attempts = 1

        async def again() -> T:
            nonlocal attempts
            attempts += 1
            try:
                await strand.take()
                reply = await self._transport.post(url, body, None if sink is None else sink())
                return self._judge(reply, read, strand)
            except ProviderError as error:
                error.attempts = attempts
                raise

        return await retry_after_failure(again, failure, self._policy(strand), strand)

    def _judge(self, reply: Reply, read: Callable[[Reply, Clock], T], strand: Strand) -> T:
        clock = strand.run.clock
        if 200 <= reply.status < 300:  # noqa: PLR2004
            return read(reply, clock)
        raise error_from(reply, self.secrets, clock.wall)

    def _policy(self, strand: Strand) -> RetryPolicy:
        random = strand.run.clock.random

        def wait(state: RetryCallState) -> float:
            return wait_before_retry(_failure(state), state.attempt_number, random)

        return RetryPolicy(lambda state: should_retry(_failure(state)), self._stop, wait)

    async def aclose(self) -> None:
        """Close idle connections; those of a client that is let go close by themselves."""
        await self._transport.aclose()


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _headers(key: str, organization: str | None, project: str | None) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": "application/json",
        "user-agent": "batchrt",
    }
    if key:
        headers["authorization"] = f"Bearer {key}"
    organization = organization or os.environ.get("OPENAI_ORG_ID")
    project = project or os.environ.get("OPENAI_PROJECT_ID")
    if organization:
        headers["openai-organization"] = organization
    if project:
        headers["openai-project"] = project
    return headers


def _secrets(key: str, headers: Mapping[str, str]) -> Secrets:
    found = {key}
    for name, value in headers.items():
        if any(word in name for word in ("auth", "key", "token", "secret", "cookie")):
            found |= {value, value.rpartition(" ")[2]}
    return Secrets(secret for secret in found if len(secret) >= _FEWEST_SECRET_CHARACTERS)


def _check_limits(timeout: float | None, max_retries: int, max_response_bytes: int) -> None:
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, or None for no end, not {timeout}")
    if max_retries < 0:
        raise ValueError(f"max_retries must be 0 or more, not {max_retries}")
    if max_response_bytes < 1:
        raise ValueError(f"max_response_bytes must be 1 or more, not {max_response_bytes}")
