"""A carrier for processes on several hosts: the coordinator's state is on a Redis server."""

from __future__ import annotations

import random
import time
import uuid
import weakref
from typing import Any, Final, NamedTuple

import anyio
import anyio.to_thread
import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from batchrt.limits.shared.carrier import CarrierAwayError, CarrierRefusedError
from batchrt.limits.shared.coordinator import handle
from batchrt.limits.shared.lease_messages import LeaseReply, LeaseRequest
from batchrt.limits.shared.stored_ledger import load_ledger, load_record, text_of

__all__ = ["RedisCarrier"]

_SECONDS: Final = 1.0
"""Seconds for a connection and for each reply, and for trying again after another worker's message."""
_KEPT_SECONDS: Final = 172_800
"""Seconds for which an unused state is kept: two days, as limits of a day are part of it."""
_LONGEST_PAUSE: Final = 0.005
"""Seconds of the longest pause after another worker's message was faster."""
_OPTIONS: Final[dict[str, Any]] = {
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "retry": Retry(NoBackoff(), 0),
    "health_check_interval": 0,
    "decode_responses": False,
}
_WRONG_DATABASE: Final = "DB index"
"""In the message about a number of a database that the server does not have."""

_LOAD: Final = """
local clock = redis.call('TIME')
local store = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
local state = redis.call('HMGET', KEYS[1], 'ledger', 'version', 'worker:' .. ARGV[1])
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local ends = redis.call('ZCARD', KEYS[2])
return {clock[1], clock[2], store, state[1], state[2], state[3], first[2] or false, ends}
"""
_ENDED: Final = """
local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1])
local states = {}
for place, worker in ipairs(ended) do
  states[place] = {worker, redis.call('HGET', KEYS[1], 'worker:' .. worker)}
end
return states
"""
_SAVE: Final = """
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
if ARGV[7] == 'new' then redis.call('DEL', KEYS[1], KEYS[2]) end
for place = 9, #ARGV do
  redis.call('HDEL', KEYS[1], 'worker:' .. ARGV[place])
  redis.call('ZREM', KEYS[2], ARGV[place])
end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'ledger', ARGV[3])
if ARGV[5] == '' then
  redis.call('HDEL', KEYS[1], 'worker:' .. ARGV[4])
  redis.call('ZREM', KEYS[2], ARGV[4])
else
  redis.call('HSET', KEYS[1], 'worker:' .. ARGV[4], ARGV[5])
  redis.call('ZADD', KEYS[2], ARGV[6], ARGV[4])
end
redis.call('EXPIRE', KEYS[1], ARGV[8])
redis.call('EXPIRE', KEYS[2], ARGV[8])
return 1
"""
"""Lua scripts, which Redis runs one at a time. The first and the last one are a compare-and-set of the state
by its version; the code that changes it between them is the one of all carriers."""


class _Loaded(NamedTuple):
    """The reply of the first script."""

    seconds: bytes
    microseconds: bytes
    store: bytes
    ledger: bytes | None
    version: bytes | None
    record: bytes | None
    first_end: bytes | None
    ends: int


class RedisCarrier:
    """Exchange lease messages through a Redis server, by its clock.

    The state is kept as long as the server runs. After a restart, known by the server's `run_id`, the
    state is taken for lost even if it was saved, for the last messages may be missing in it. So is one of
    which the server has evicted a part.

    Args:
        url: as in `redis.Redis.from_url`; replies are bytes and waits are a second, whatever it says.

    Raises:
        ValueError: for an address or an option that Redis's client does not know.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = redis.Redis.from_url(url)
        place = self._client.connection_pool.connection_kwargs
        place.update(_OPTIONS)  # as arguments they would give way to those of the address
        try:
            self._client.connection_pool.make_connection()
        except (TypeError, ValueError) as error:
            raise ValueError(f"shared: the address of the Redis server has a wrong option: {error}") from None
        weakref.finalize(self, self._client.close)
        address = place.get("path") or f"{place.get('host')}:{place.get('port')}"
        self.name: str = f"the Redis server {address}"
        register = self._client.register_script
        self._load, self._ended, self._save = register(_LOAD), register(_ENDED), register(_SAVE)

    def __reduce__(self) -> tuple[type[RedisCarrier], tuple[str]]:
        return RedisCarrier, (self._url,)

    async def exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        """Handle `request`, in a worker thread; see `Carrier`."""
        # The default limiter's threads may all be taken, by work that waits for this quota.
        limiter = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(
            self._exchange, key, request, abandon_on_cancel=True, limiter=limiter
        )

    def close(self) -> None:
        """Close the connections; another exchange opens new ones."""
        self._client.close()

    def _exchange(self, key: str, request: LeaseRequest) -> LeaseReply:
        keys = [f"batchrt:{{{key}}}:quota", f"batchrt:{{{key}}}:ends"]
        until = time.monotonic() + _SECONDS
        try:
            while time.monotonic() < until:
                reply = self._try(keys, request)
                if reply is not None:
                    return reply
                time.sleep(_LONGEST_PAUSE * random.random())  # noqa: S311  no secret
        except (RedisError, OSError) as error:
            raise _translated(error) from error
        raise CarrierAwayError("messages of other workers were faster for a second")

    def _try(self, keys: list[str], request: LeaseRequest) -> LeaseReply | None:
        """Handle `request`; return `None` if another message came between."""
        loaded = _Loaded(*self._run(self._load, keys, request.worker))
        clock = int(loaded.seconds) + int(loaded.microseconds) / 1e6
        if not loaded.store:
            raise CarrierRefusedError("it does not tell its run_id in INFO, and its restarts would go unseen")
        ledger, now, is_new = load_ledger(
            loaded.ledger, clock, store=loaded.store.decode(), ends=loaded.ends, learns=True
        )
        ended: list[tuple[str, bytes | None]] = []
        if not is_new and loaded.first_end is not None and float(loaded.first_end) <= ledger.lease_time:
            found = self._run(self._ended, keys, repr(ledger.lease_time))
            ended = [(worker.decode(), state) for worker, state in found if worker.decode() != request.worker]
        expired = [record for _, state in ended if (record := load_record(state)) is not None]
        record = None if is_new else load_record(loaded.record)
        new, reply = handle(ledger, record, expired, request, now)
        saved = self._run(
            self._save,
            keys,
            *(loaded.version or b"", uuid.uuid4().hex, text_of(ledger), request.worker),
            *(("", "") if new is None else (text_of(new), repr(new.expires))),
            *("new" if is_new else "", _KEPT_SECONDS),
            *(worker for worker, _ in ended),
        )
        return reply if saved else None

    def _run(self, script: Any, keys: list[str], *arguments: Any) -> Any:
        return script(keys=keys, args=arguments)


def _translated(error: Exception) -> CarrierAwayError:
    if isinstance(error, AuthenticationError):
        # Redis's own words for a missing password are about a command called HELLO.
        return CarrierRefusedError(f"the password is missing or wrong: {error}")
    wrong_database = isinstance(error, ResponseError) and _WRONG_DATABASE in str(error)
    refused = wrong_database or isinstance(error, AuthorizationError | NoPermissionError)
    return (CarrierRefusedError if refused else CarrierAwayError)(str(error))
