"""The carrier: takes lease requests to the state that all workers share."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from batchrt.limits.shared.lease_messages import LeaseReply, LeaseRequest

__all__ = ["Carrier", "CarrierAwayError", "CarrierRefusedError", "carrier_of"]


class CarrierAwayError(Exception):
    """The carrier cannot be reached now; the message says which one and why."""


class CarrierRefusedError(CarrierAwayError):
    """The store refuses this process, such as for a wrong password: waiting does not help."""


@runtime_checkable
class Carrier(Protocol):
    """Exchange lease messages with the one coordinator of a quota.

    An exchange is atomic: concurrent ones, also of other processes, take effect one after the other. A
    request that took effect although its reply was lost does no harm: what it granted is not used, and ends
    with the lease.
    """

    @property
    def name(self) -> str:
        """Say in a few words which one it is, without secrets; log lines and statistics show it."""
        ...

    async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        """Let the coordinator of quota `key` handle `request`, and return its reply.

        It runs on asyncio and Trio, never blocks the event loop, and gives up after a second or two.

        Raises:
            CarrierAwayError: if the state cannot be reached now.
            CarrierRefusedError: if the store refuses this process. Requests fail with it until the first
                lease; a process that has had one waits, as for a store that is away.
        """
        ...


def carrier_of(shared: str | Carrier) -> Carrier:
    """Return the carrier for an address, `sqlite:///path.db` or `redis://host:6379/0`, or the given one.

    Raises:
        ValueError: for another kind of address, and for a file or options that cannot be used.
        ImportError: for `redis://` without the extra `redis`.
    """
    if not isinstance(shared, str):
        return shared
    scheme = shared.partition(":")[0]
    if scheme == "sqlite":
        from batchrt.limits.shared.sqlite_carrier import SQLiteCarrier

        return SQLiteCarrier.of_url(shared)
    if scheme in {"redis", "rediss", "unix"}:
        from batchrt.limits.shared.redis_carrier import RedisCarrier

        return RedisCarrier(shared)
    raise ValueError(
        f"shared must be 'sqlite:///path.db', 'redis://host:6379/0' or a carrier, not {shared!r}"
    )
