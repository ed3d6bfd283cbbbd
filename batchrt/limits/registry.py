"""The registry of quotas: one for each endpoint, key and model in this process."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakValueDictionary, ref

from batchrt.limits.quota import Quota

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from batchrt.limits.shared.carrier import Carrier

__all__ = ["owner_of", "share_quotas", "shared_quota"]

Key: TypeAlias = "tuple[bytes, str]"

_KEPT: Final = 1024
"""Quotas that are kept although no model refers to them: a service that makes a model for each request still
shares one. Also the number of transports that are kept since they do not support weak references."""


class _Owner:
    """The quotas of one transport or client, identified by `id` alone.

    Args:
        owner: it may be neither hashable nor comparable, and its attributes' names mean nothing.
        gone: called when it is collected; never for one without weak references, which is kept alive
            instead.
    """

    def __init__(self, owner: object, gone: Callable[[_Owner], object]) -> None:
        self.key = id(owner)
        self.quotas: dict[Key, Quota] = {}
        self.is_kept = False
        try:
            self._get: Callable[[], object] = ref(owner, lambda _: gone(self))
        except TypeError:
            self.is_kept, self._get = True, lambda: owner

    def is_of(self, owner: object) -> bool:
        """Whether these are the quotas of `owner`, and not of a collected object with the same `id`."""
        return self._get() is owner


class _Registry:
    """Find quotas by key, and by owner if they have one."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.carrier: Carrier | None = None
        # Reentrant: the garbage collector may call `_forget` at any time.
        self._lock = threading.RLock()
        self._alive: WeakValueDictionary[Key, Quota] = WeakValueDictionary()
        self._recent: OrderedDict[Key, Quota] = OrderedDict()
        self._owners: dict[int, _Owner] = {}
        self._kept: OrderedDict[int, _Owner] = OrderedDict()

    def find(self, key: Key, owner: object) -> Quota:
        with self._lock:
            if owner is None:
                quota = self._find_or_make(self._alive, key, self.carrier)
                self._recent[key] = quota
                self._recent.move_to_end(key)
                if len(self._recent) > _KEPT:
                    self._recent.popitem(last=False)
                return quota
            return self._find_or_make(self._owned_by(owner).quotas, key)

    def _owned_by(self, owner: object) -> _Owner:
        found = self._owners.get(id(owner))
        if found is None or not found.is_of(owner):
            found = self._owners[id(owner)] = _Owner(owner, self._forget)
        if found.is_kept:
            self._kept[found.key] = found
            self._kept.move_to_end(found.key)
            if len(self._kept) > _KEPT:
                self._forget(self._kept.popitem(last=False)[1])
        return found

    def _forget(self, owner: _Owner) -> None:
        with self._lock:
            if self._owners.get(owner.key) is owner:
                del self._owners[owner.key]

    def _find_or_make(
        self, quotas: MutableMapping[Key, Quota], key: Key, carrier: Carrier | None = None
    ) -> Quota:
        quota = quotas.get(key)
        if quota is None and carrier is None:
            quota = quotas[key] = Quota()
        elif quota is None:
            account, model = key
            quota = quotas[key] = Quota(shared=carrier, shared_name=f"{account.hex()} {model}")
        return quota


_registries: Final[list[_Registry]] = []
"""The process's only one; module state, since it is shared by the whole process."""


def owner_of(transport: object, client: object) -> object:
    """Return the transport or client of the user's that requests go through; `None` for the network.

    A transport that is made anew for the same server names that server, by the method
    `__batchrt_endpoint__` of its class.
    """
    if transport is None:
        return client
    names: Any = getattr(type(transport), "__batchrt_endpoint__", None)
    return transport if names is None else names(transport)


def shared_quota(account: bytes, model: str, owner: object = None) -> Quota:
    """Return the quota of `model` for `account`, a digest of an address and its credentials.

    Each `owner`, a transport or client of the user's, has quotas of its own: it may lead anywhere.
    """
    return _registry().find((account, model), owner)


def share_quotas(carrier: Carrier) -> None:
    """Have the quotas of this process share their limits with other processes from now on.

    Those that were made before, and those of transports and clients of the user's, do not.
    """
    _registry().carrier = carrier


def _registry() -> _Registry:
    # A fork has a registry of its own: the parent's lock may be held, and its requests do not end here.
    if not _registries or _registries[0].process != os.getpid():
        _registries[:] = [_Registry()]
    return _registries[0]
