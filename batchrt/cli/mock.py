"""`batchrt mock`: a provider to try things against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

import typer

from batchrt.cli.errors import UsageError, option_of
from batchrt.cli.options import option

__all__ = ["MockSettings", "serve_mock"]

_SCRIPTED: Final = "NUMBER[,NUMBER@SECOND…]"
_PER_TIME: Final = ("requests_per_minute", "tokens_per_minute", "requests_per_day", "tokens_per_day")
_NAMES: Final = {"style": "limit_style", "headers": "limit_headers"}
"""Options that are not called as the parameter is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MockSettings:
    """Hold the options of `batchrt mock`."""

    host: str = option("127.0.0.1", help="The address to listen on.")
    port: int = option(8000, min=0, max=65535, help="The port; 0 for any that is free.")
    latency: str = option("0", help="Seconds before an answer, or lognormal:MEDIAN,SIGMA to draw them from.")
    faults: float = option(
        0.0, min=0, max=1, help="The share of requests with a fault, of any kind that applies to chat."
    )
    fault: list[str] | None = option(
        None,
        metavar="KIND=RATE",
        help="The share with one kind of fault, as stall=0.01, or stall:3=0.01 for 3 s; may be repeated.",
    )
    seed: int = option(0, help="The seed of answers, latencies and faults.")
    require_key: str | None = option(None, metavar="KEY", help="Refuse requests that do not carry this key.")
    server: str = option(
        "openai",
        metavar="FAMILY",
        help="The kind of server to mimic, for embeddings and lists: openai, azure, tei, infinity, "
        "llama-server, llama-cpp-python, vllm or ollama.",
    )
    dimensions: int = option(1536, min=1, help="The width of a vector, unless a request asks for less.")
    max_inputs: int | None = option(
        None, min=1, help="The most inputs of an embedding request. [default: FAMILY's own]"
    )
    max_input_tokens: int | None = option(
        None, min=1, help="The most tokens of one of them. [default: FAMILY's own]"
    )
    max_request_tokens: int | None = option(
        None, min=1, help="The most tokens of all of them. [default: FAMILY's own]"
    )
    max_in_flight: int | None = option(
        None,
        min=1,
        help="Refuse embedding requests when so many requests (tei: inputs) are in flight. [default: "
        "FAMILY's own]",
    )
    latency_per_input: float = option(
        0.0, min=0, help="Seconds that each input of a request adds to the latency."
    )
    requests_per_minute: str | None = option(
        None,
        metavar=_SCRIPTED,
        help="Requests of each key to each model: 600, or 600,300@60 for 300 from second 60 on. More "
        "get a 429.",
    )
    tokens_per_minute: str | None = option(
        None, metavar=_SCRIPTED, help="Likewise in tokens: of the input and max_tokens."
    )
    requests_per_day: str | None = option(None, metavar=_SCRIPTED, help="Likewise for a day.")
    tokens_per_day: str | None = option(None, metavar=_SCRIPTED, help="Likewise in tokens.")
    max_parallel_requests: str | None = option(
        None, metavar=_SCRIPTED, help="The most requests of each key in flight; more get a 429."
    )
    burst_seconds: float | None = option(
        None, help="Seconds of a minute's limit that may be used at once. [default: 60]"
    )
    limit_style: str | None = option(
        None,
        metavar="STYLE",
        help="How limits are reported: as by openai, azure, litellm, tei, infinity or nginx. [default: "
        "FAMILY's own]",
    )
    limit_headers: str | None = option(
        None, metavar="WHERE", help="Which answers carry x-ratelimit-*: all, success or none. [default: all]"
    )
    capacity: str | None = option(
        None, metavar=_SCRIPTED, help="Requests that are processed at a time; the others wait."
    )
    max_waiting: int | None = option(
        None, min=0, help="The most requests that may wait; more are refused. [default: no bound]"
    )
    seconds_per_token: float | None = option(
        None, min=0, help="Seconds that each token of an answer adds to the latency. [default: 0]"
    )
    outage: list[str] | None = option(
        None,
        metavar="START-END[=KIND]",
        help="Fail every request in these seconds, as 60-120=429; the kind is 503, 500, 429, refused or "
        "hanging. [default kind: 503] May be repeated.",
    )


def serve_mock(settings: MockSettings) -> int:
    """Serve the provider of `settings` until it is interrupted; raises UsageError if that cannot be."""
    from batchrt.testing import serve_forever

    try:
        provider = _provider(settings)
    except ValueError as error:
        # They begin with the parameter's name, which is the option's but for the dashes.
        name, _, rest = str(error).partition(" ")
        raise UsageError(f"{option_of(_NAMES.get(name, name))} {rest}") from None
    host, port = settings.host, settings.port
    try:
        # A pipe is not flushed by itself, and a script waits for this line.
        serve_forever(provider, host, port, on_listening=typer.echo)
    except ImportError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot listen on {host}, port {port}: {reason}") from error
    return 0


def _provider(settings: MockSettings) -> Any:
    from batchrt.testing import MockProvider, Queueing, RateLimits, ServerFamily
    from batchrt.testing.text_forms import read_faults, read_latency, read_outage

    limits = _given(settings, *_PER_TIME, "max_parallel_requests")
    how = _given(settings, "burst_seconds", style="limit_style", headers="limit_headers")
    queue = _given(settings, "max_waiting", "seconds_per_token")
    capacity = _given(settings, "capacity")
    same = ("seed", "dimensions", "max_inputs", "max_input_tokens", "max_request_tokens", "max_in_flight")
    if how and not limits:
        raise ValueError(f"{next(iter(how))} needs a limit, as --requests-per-minute 600")
    if queue and not capacity:
        raise ValueError(f"{next(iter(queue))} needs --capacity")
    return MockProvider(
        **_given(settings, *same, "latency_per_input", api_key="require_key"),
        latency=read_latency(settings.latency),
        faults=read_faults(settings.faults, settings.fault or (), seed=settings.seed),
        server=cast("ServerFamily", settings.server),
        rate_limits=RateLimits(**limits, **how) if limits else None,
        queueing=Queueing(**capacity, **queue) if capacity else None,
        outages=[read_outage(text) for text in settings.outage or ()],
    )


def _given(settings: MockSettings, *names: str, **renamed: str) -> dict[str, Any]:
    """Return the options that were given, by their names as parameters; numbers that change are read."""
    from batchrt.testing.text_forms import read_scripted

    found = {name: getattr(settings, option) for name, option in {**{n: n for n in names}, **renamed}.items()}
    scripted = {*_PER_TIME, "max_parallel_requests", "capacity"}
    return {
        name: read_scripted(name, value) if name in scripted else value
        for name, value in found.items()
        if value is not None
    }
