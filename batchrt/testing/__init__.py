"""Mock provider for tests: answers, latency and faults are the same in every run.

    provider = MockProvider(latency=LogNormal(0.2, 0.5), faults=FaultPlan.everything(0.1))
    client = httpx.AsyncClient(transport=provider.transport())      # in process
    provider.answer_to("hi"), provider.completion_to("hi"), provider.vector_of("hi")    # expectations
    with provider.serve() as server: ...                            # on server.base_url

pytest users get the fixtures `mock_provider` and `mock_server` with the package. Serving on a socket needs
the extra `batchrt[mock]`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrt.testing.admission.noise import Noise
    from batchrt.testing.admission.outages import Outage
    from batchrt.testing.admission.queue import Queueing
    from batchrt.testing.admission.rate_limits import RateLimits, Stranger
    from batchrt.testing.admission.schedules import Scripted
    from batchrt.testing.endpoints.json_schema import UnsupportedSchemaError
    from batchrt.testing.endpoints.server_families import ServerFamily
    from batchrt.testing.endpoints.streams import StreamForm, Streaming
    from batchrt.testing.faults.latency import Latency, LogNormal
    from batchrt.testing.faults.plan import Fault, FaultLike, FaultPlan, TunedFault
    from batchrt.testing.log import Gaps, LogRecord, LogSnapshot, RequestLog
    from batchrt.testing.provider import MockProvider
    from batchrt.testing.serving.asgi import DroppedConnectionError
    from batchrt.testing.serving.server import MockServer, serve_forever
    from batchrt.testing.serving.transport import MockTransport
    from batchrt.testing.verdict import CoolDown, LimitUse, Verdict

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
    "StreamForm",
    "Streaming",
    "TunedFault",
    "UnsupportedSchemaError",
    "Verdict",
    "serve_forever",
]

# The pytest plugin lives in this package and is imported by every pytest run, so a name's module is imported
# on first use.
_MODULES = {
    "admission.noise": ("Noise",),
    "admission.outages": ("Outage",),
    "admission.queue": ("Queueing",),
    "admission.rate_limits": ("RateLimits", "Stranger"),
    "admission.schedules": ("Scripted",),
    "endpoints.json_schema": ("UnsupportedSchemaError",),
    "endpoints.server_families": ("ServerFamily",),
    "endpoints.streams": ("StreamForm", "Streaming"),
    "faults.latency": ("Latency", "LogNormal"),
    "faults.plan": ("Fault", "FaultLike", "FaultPlan", "TunedFault"),
    "log": ("Gaps", "LogRecord", "LogSnapshot", "RequestLog"),
    "provider": ("MockProvider",),
    "serving.asgi": ("DroppedConnectionError",),
    "serving.server": ("MockServer", "serve_forever"),
    "serving.transport": ("MockTransport",),
    "verdict": ("CoolDown", "LimitUse", "Verdict"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
