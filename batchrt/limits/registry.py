"""The quotas of this process: one for each endpoint, key and model, whoever names them."""

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

__all__ = ["owner_of", "shared_quota"]

Key: TypeAlias = "tuple[bytes, str]"

_KEPT: Final = 1024
"""Quotas that are remembered though nobody has a model for them: a service that makes a model for each
request still shares one. Likewise transports that cannot be referred to weakly."""


class _Owner:
    """The quotas of one transport or client, told from others by nothing but its identity.

    Args:
        owner: it may be neither hashable nor comparable, and what its attributes are called means nothing.
        gone: is called when it is collected; never for one that cannot be referred to weakly, which is kept
            alive instead.
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
        """Whether these are the quotas of `owner`, and not of one that had its place in memory before."""
        return self._get() is owner


class _Book:
    """Remember quotas by what they are of."""

    def __init__(self) -> None:
        self.process = os.getpid()
        # One that the same thread may take again: a collection calls `_forget` at any time.
        self._lock = threading.RLock()
        self._alive: WeakValueDictionary[Key, Quota] = WeakValueDictionary()
        self._recent: OrderedDict[Key, Quota] = OrderedDict()
        self._owners: dict[int, _Owner] = {}
        self._kept: OrderedDict[int, _Owner] = OrderedDict()

    def find(self, key: Key, owner: object) -> Quota:
        with self._lock:
            if owner is None:
                quota = self._found(self._alive, key)
                self._recent[key] = quota
                self._recent.move_to_end(key)
                if len(self._recent) > _KEPT:
                    self._recent.popitem(last=False)
                return quota
            return self._found(self._owned_by(owner).quotas, key)

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

    def _found(self, quotas: MutableMapping[Key, Quota], key: Key) -> Quota:
        quota = quotas.get(key)
        if quota is None:
            quota = quotas[key] = Quota()
        return quota


_books: Final[list[_Book]] = []
"""The process's one; what is shared by all of a process has to be kept somewhere."""


def owner_of(transport: object, client: object) -> object:
    """Return what requests go through: a transport or a client of the user's, or `None` for the network.

    A transport that is made anew for the same server names that, by a method that its class has for it.
    """
    if transport is None:
        return client
    names: Any = getattr(type(transport), "__batchrt_endpoint__", None)
    return transport if names is None else names(transport)


def shared_quota(account: bytes, model: str, owner: object = None) -> Quota:
    """Return the quota of `model` for `account`, a digest of an address and what is shown there.

    `owner` is what requests go through if it is not the network as such: a transport or client of the
    user's, which may lead anywhere. Each has quotas of its own.
    """
    # A fork has its own: locks may have been held, and the parent's requests are not its business.
    if not _books or _books[0].process != os.getpid():
        _books[:] = [_Book()]
    return _books[0].find((account, model), owner)
