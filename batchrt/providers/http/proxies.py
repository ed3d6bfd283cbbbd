"""Proxies: the one that the environment names for an address, by the rules of httpx."""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

__all__ = ["Proxy", "proxy_for"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_END_OF_HOST: Final = re.compile(r"[/?#]")


class Proxy(NamedTuple):
    """A proxy.

    Attributes:
        url: its URL; may hold a user and a password.
        setting: the name of the environment variable it came from, in capitals.
    """

    url: str
    setting: str

    def __repr__(self) -> str:
        return f"<Proxy {self.origin}>"

    @property
    def origin(self) -> str:
        """The URL without user and password, for messages."""
        # Not by `urlsplit`: to it a password that has one of `/?#` ends the host, and is a part of it.
        place = self.url.partition("://")[2].rpartition("@")[2]
        return f"{self.scheme}://{_END_OF_HOST.split(place, maxsplit=1)[0]}"

    @property
    def scheme(self) -> str:
        """The protocol that it speaks, in lower case."""
        return self.url.partition("://")[0].lower()

    @property
    def host(self) -> str:
        """Its name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Its port; by default that of its scheme."""
        return urlsplit(self.url).port or _DEFAULT_PORTS.get(self.scheme, 1080)

    @property
    def authorization(self) -> str | None:
        """The value of the header `proxy-authorization`, of the user and password in its URL."""
        parts = urlsplit(self.url)
        if not (parts.username or parts.password):
            return None
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        return f"Basic {b64encode(pair.encode()).decode()}"

    @property
    def fault(self) -> str | None:
        """The reason why no connection can be made through it; `None` if it is an HTTP proxy's URL."""
        try:
            known = self.scheme in _DEFAULT_PORTS and self.host and self.port
        except ValueError:  # not quoted: the message of urllib may have the password
            known = False
        if known:
            return None
        if self.scheme.startswith("socks"):
            return (
                f"{self.scheme} proxies need another client: pass http_client=httpx.AsyncClient(), which "
                f"takes {self.setting} too (pip install 'httpx[socks]')"
            )
        in_password = "@" in self.url and "@" not in _END_OF_HOST.split(self.url.partition("://")[2])[0]
        hint = "; in a password `/`, `?` and `#` are written %2F, %3F and %23" if in_password else ""
        return f"this is no URL of a proxy, such as http://host:3128{hint}"


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy for requests to `url`; `None` if they go to their server directly.

    `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case, mean the same as for httpx
    (https://www.python-httpx.org/environment_variables/, as of 0.28). An entry of `NO_PROXY` is `*`, a
    host, which includes its subdomains, `.domain` for subdomains only, an address, or a URL such as
    `https://host`, which is that host alone; a port may follow. Besides, networks such as `10.0.0.0/8` are
    supported, as by curl.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    for kind in (parts.scheme, "all"):
        proxy = proxies.get(kind, "").strip()
        if proxy:
            break
    else:
        return None
    host, port = (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme)
    entries = (entry.strip().lower() for entry in proxies.get("no", "").split(","))
    if any(_excepts(entry, parts.scheme, host, port) for entry in entries if entry):
        return None
    return Proxy(proxy if "://" in proxy else f"http://{proxy}", f"{kind}_proxy".upper())


def _excepts(entry: str, scheme: str, host: str, port: int | None) -> bool:
    """Whether `entry` of `NO_PROXY` excludes `host` from the proxy."""
    if entry == "*":
        return True
    wanted, is_url, rest = entry.partition("://")
    if is_url:
        if wanted not in ("all", scheme):
            return False
        entry = rest
    network = _network(entry)
    if network is not None:
        address = _address(host)
        return address is not None and address in network
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    if entry.startswith(("*.", ".")):
        return host.endswith(entry.removeprefix("*"))
    return host == entry or (not is_url and _address(host) is None and host.endswith(f".{entry}"))


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
