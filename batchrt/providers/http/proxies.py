"""Proxies: the one that the environment names for an address, by the rules of httpx."""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

__all__ = ["Proxy", "proxy_for"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


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
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


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
        proxy = proxies.get(kind)
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
