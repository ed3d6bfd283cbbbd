"""The quotas of this process: one for each endpoint, key and model, whoever names them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

from batchrt.runtime.quota import Quota

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["shared_quota"]

Key: TypeAlias = "tuple[bytes, str]"

_KEPT: Final = 1024
"""Quotas that are remembered though nobody has a model for them: a service that makes a model for each
request still shares one."""


class _Book:
    """Remember quotas by what they are of."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._lock = threading.Lock()
        self._alive: WeakValueDictionary[Key, Quota] = WeakValueDictionary()
        self._recent: OrderedDict[Key, Quota] = OrderedDict()
        self._by_owner: WeakKeyDictionary[object, dict[Key, Quota]] = WeakKeyDictionary()

    def find(self, key: Key, owner: object) -> Quota:
        with self._lock:
            if owner is None:
                quota = self._found(self._alive, key)
                self._recent[key] = quota
                self._recent.move_to_end(key)
                if len(self._recent) > _KEPT:
                    self._recent.popitem(last=False)
                return quota
            try:
                quotas = self._by_owner.setdefault(owner, {})
            except TypeError:  # neither hashable nor weakly referable: whoever has it shares nothing
                quotas = {}
            return self._found(quotas, key)

    def _found(self, quotas: MutableMapping[Key, Quota], key: Key) -> Quota:
        quota = quotas.get(key)
        if quota is None:
            quota = quotas[key] = Quota()
        return quota


_books: Final[list[_Book]] = []
"""The process's one; what is shared by all of a process has to be kept somewhere."""


def shared_quota(account: bytes, model: str, owner: object = None) -> Quota:
    """Return the quota of `model` for `account`, a digest of an address and what is shown there.

    `owner` is what requests go through if it is not the network as such: a transport or client of the
    user's, which may lead anywhere. Each has quotas of its own.
    """
    # A fork has its own: locks may have been held, and the parent's requests are not its business.
    if not _books or _books[0].process != os.getpid():
        _books[:] = [_Book()]
    return _books[0].find((account, model), owner)
