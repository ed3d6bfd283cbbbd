"""A provider to test against: answers, latency and faults that are the same every time.

    provider = MockProvider(latency=LogNormal(0.2, 0.5), faults=FaultPlan.everything(0.1))
    client = httpx.AsyncClient(transport=provider.transport())      # in process
    provider.answer_to("hi"), provider.completion_to("hi"), provider.vector_of("hi")    # expectations
    with provider.serve() as server: ...                            # on server.base_url

pytest users get the fixtures `mock_provider` and `mock_server` with the package. Serving on a
socket needs the extra `batchrt[mock]`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asgi import DroppedConnectionError
    from .families import ServerFamily
    from .faults import Fault, FaultLike, FaultPlan, TunedFault
    from .latency import Latency, LogNormal
    from .limits import RateLimits, Stranger
    from .log import Gaps, LogRecord, LogSnapshot, RequestLog
    from .noise import Noise
    from .outages import Outage
    from .provider import MockProvider
    from .queueing import Queueing
    from .schedules import Scripted
    from .schemas import UnsupportedSchemaError
    from .server import MockServer, serve_forever
    from .transport import MockTransport
    from .verdict import CoolDown, LimitUse, Verdict

__all__ = [
    "CoolDown",
    "DroppedConnectionError",
    "Fault",
    "FaultLike",
    "FaultPlan",
    "Gaps",
    "Latency",
    "LimitUse",
    "LogNormal",
    "LogRecord",
    "LogSnapshot",
    "MockProvider",
    "MockServer",
    "MockTransport",
    "Noise",
    "Outage",
    "Queueing",
    "RateLimits",
    "RequestLog",
    "Scripted",
    "ServerFamily",
    "Stranger",
    "TunedFault",
    "UnsupportedSchemaError",
    "Verdict",
    "serve_forever",
]

# The pytest plugin lives in this package and is imported by every pytest run, so a name brings
# its module in only when it is asked for.
_HOMES = {
    "CoolDown": "verdict",
    "DroppedConnectionError": "asgi",
    "Fault": "faults",
    "FaultLike": "faults",
    "FaultPlan": "faults",
    "Gaps": "log",
    "Latency": "latency",
    "LimitUse": "verdict",
    "LogNormal": "latency",
    "LogRecord": "log",
    "LogSnapshot": "log",
    "MockProvider": "provider",
    "MockServer": "server",
    "MockTransport": "transport",
    "Noise": "noise",
    "Outage": "outages",
    "Queueing": "queueing",
    "RateLimits": "limits",
    "RequestLog": "log",
    "Scripted": "schedules",
    "ServerFamily": "families",
    "Stranger": "limits",
    "TunedFault": "faults",
    "UnsupportedSchemaError": "schemas",
    "Verdict": "verdict",
    "serve_forever": "server",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
