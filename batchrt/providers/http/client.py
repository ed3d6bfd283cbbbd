"""The client of a provider: its address, key, transport and quotas, shared by all endpoints."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn

from batchrt.errors import AuthenticationError
from batchrt.limits.quota import UNCHANGED, Quota, Unchanged, check_limit
from batchrt.limits.registry import owner_of, shared_quota
from batchrt.providers.http.address import Address
from batchrt.providers.http.endpoint import Endpoint
from batchrt.providers.http.secrets import Hidden, Secret, Secrets, is_credential, secrets_of
from batchrt.providers.http.transport import Transport
from batchrt.runtime.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ssl import SSLContext

    from batchrt.providers.http.transport import HTTPClient, HTTPTransport

__all__ = ["Client"]


class Client:
    """Make the endpoints of one provider, which send requests and retry them.

    All other parameters are described in `ModelOptions`.

    Args:
        quota: admits requests; else the quota that all clients in this process share that have the same
            address, key and model (and the same `http_client` or `transport`, if one is given).
        limits: of the shared quota, by name; see `Quota.set_limits`. A `quota` that is given has its own, and
            `None` does not lift them.
        model: the model that `limits` are for.

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
        ssl_context: SSLContext | None = None,
        keepalive_expiry: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
        max_response_bytes: int = 64 * 2**20,
        quota: Quota | None = None,
        limits: Mapping[str, float | Unchanged | None] | None = None,
        retry_policy: RetryPolicy | None = None,
        model: str = "",
    ) -> None:
        api_key = Hidden(api_key)
        # Options are checked before the key is in a local variable, which a traceback may show.
        _check_limits(timeout, max_retries, max_response_bytes, keepalive_expiry)
        self._policy = _check_policy(retry_policy)
        self._quota = _check_quota(quota)
        given = _check_given(limits or {}, quota)
        self.address: Address = Address.given(base_url)
        extra = {name.lower(): value for name, value in (extra_headers or {}).items()}
        is_openai = self.address.host == "api.openai.com"
        if "authorization" not in extra and (mistake := api_key.mistake(has_spaces=not is_openai)):
            raise ValueError(f"{api_key.source} {mistake}")
        key = api_key.get_secret_value().strip()  # keys from files and shells end with a line break
        own_way = http_client is not None or transport is not None or "authorization" in extra
        if not key and not own_way and is_openai:
            raise AuthenticationError(
                "there is no API key: set OPENAI_API_KEY or pass api_key (or pass base_url for a "
                "server other than OpenAI's)"
            )
        headers = {**self.address.credentials, **_headers(key, organization, project), **extra}
        self.secrets: Secrets = secrets_of(key, {**self.address.credentials, **extra})
        self.max_retries = max_retries
        self._name = _digest(self.address.canonical, headers)
        self._owner: object = owner_of(transport, http_client)
        if given:
            self.quota_of(model).set_limits(**given)
        self._transport = Transport(
            headers,
            tls=self.address.tls,
            timeout=timeout,
            max_response_bytes=max_response_bytes,
            http_client=http_client,
            transport=transport,
            ssl_context=ssl_context,
            keepalive_expiry=keepalive_expiry,
        )

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: connections and a quota are of one process, and the key must not leave it."""
        raise TypeError("a model's client cannot be pickled or copied: make the model in each process")

    def __repr__(self) -> str:
        if "address" not in self.__dict__:  # a debugger may show an object whose constructor failed
            return "<Client>"
        return f"<Client of {self.address.origin}>"

    def endpoint(self, path: str, model: str, most: float | None = None) -> Endpoint:
        """Return the endpoint for `model` at `path`, whose answers have at most `most` tokens."""
        return Endpoint(
            self.address.url(path),
            self.quota_of(model),
            self._transport,
            self.secrets,
            model=model,
            policy=self._policy,
            max_attempts=self.max_retries + 1,
            most=most,
        )

    def quota_of(self, model: str) -> Quota:
        """Return the quota of `model`: the client's own, or the shared one."""
        if self._quota is not None:
            return self._quota
        return shared_quota(self._name, model, self._owner)

    async def aclose(self) -> None:
        """Close idle connections; garbage collection of a client closes its connections, too."""
        await self._transport.aclose()


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


def _is_account(header: str) -> bool:
    # Other headers, such as a trace identifier, differ within one account.
    return is_credential(header) or header in ("openai-organization", "openai-project")


def _check_limits(
    timeout: float | None, max_retries: int, max_response_bytes: int, keepalive_expiry: float | None
) -> None:
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, or None for no end, not {timeout}")
    if max_retries < 0:
        raise ValueError(f"max_retries must be 0 or more, not {max_retries}")
    if max_response_bytes < 1:
        raise ValueError(f"max_response_bytes must be 1 or more, not {max_response_bytes}")
    if keepalive_expiry is not None and not keepalive_expiry >= 0:
        raise ValueError(f"keepalive_expiry must be 0 or more seconds, not {keepalive_expiry}")


def _check_quota(quota: Quota | None) -> Quota | None:
    if quota is not None and not isinstance(quota, Quota):
        raise TypeError(f"quota must be a Quota, not {type(quota).__name__}")
    return quota


def _check_given(limits: Mapping[str, Any], quota: Quota | None) -> dict[str, Any]:
    """Return the limits to set or lift in the shared quota."""
    said = {name: limit for name, limit in limits.items() if limit != UNCHANGED}
    given = [name for name, limit in said.items() if limit is not None]
    if given and quota is not None:
        raise ValueError(f"give {', '.join(given)} to the quota that you pass, or leave quota out")
    for name, limit in said.items():
        check_limit(name, limit)
    return said if quota is None else {}


def _check_policy(policy: RetryPolicy | None) -> RetryPolicy:
    if policy is None:
        return RetryPolicy()
    if not isinstance(policy, RetryPolicy):
        raise TypeError(f"retry_policy must be a RetryPolicy, not {type(policy).__name__}")
    return policy


def _digest(url: str, headers: Mapping[str, str]) -> bytes:
    """Return a digest of an address and account: the key of their quotas, without the secrets."""
    said = sorted((name, value) for name, value in headers.items() if _is_account(name))
    return blake2b(repr((url, said)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
