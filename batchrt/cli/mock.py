"""`batchrt mock`: a provider to try things against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from batchrt.cli.usage import UsageProblem

if TYPE_CHECKING:
    from batchrt.testing import (
        FaultLike,
        FaultPlan,
        Latency,
        Outage,
        Queueing,
        RateLimits,
        Scripted,
        ServerFamily,
        TunedFault,
    )

__all__ = ["mock"]

_Host = Annotated[str, typer.Option(help="The address to listen on.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")]
_Latency = Annotated[
    str, typer.Option(help="Seconds before an answer, or lognormal:MEDIAN,SIGMA to draw them from.")
]
_Faults = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="The share of requests that meet a fault, of any kind that a chat can meet."
    ),
]
_Fault = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND=RATE",
        help="The share that meets one kind, as stall=0.01, or stall:3=0.01 for 3 s; may be repeated.",
    ),
]
_Seed = Annotated[int, typer.Option(help="Another number: other answers, latencies and faults.")]
_RequireKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="Refuse requests that do not carry this key.")
]
_Server = Annotated[
    str,
    typer.Option(
        metavar="FAMILY",
        help="The kind of server to be, for embeddings and lists: openai, azure, tei, infinity, "
        "llama-server, llama-cpp-python, vllm or ollama.",
    ),
]
_Dimensions = Annotated[
    int, typer.Option(min=1, help="The width of a vector, unless a request asks for less.")
]
_MaxInputs = Annotated[
    int | None, typer.Option(min=1, help="The most inputs of an embedding request. [default: FAMILY's own]")
]
_MaxInputTokens = Annotated[
    int | None, typer.Option(min=1, help="The most tokens of one of them. [default: FAMILY's own]")
]
_MaxRequestTokens = Annotated[
    int | None, typer.Option(min=1, help="The most tokens of all of them. [default: FAMILY's own]")
]
_MaxInFlight = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Refuse embedding requests when so many requests (tei: inputs) are in flight. "
        "[default: FAMILY's own]",
    ),
]
_LatencyPerInput = Annotated[
    float, typer.Option(min=0, help="Seconds that each input of a request adds to the latency.")
]
_SCRIPTED = "NUMBER[,NUMBER@SECOND…]"
_RequestsPerMinute = Annotated[
    str | None,
    typer.Option(
        metavar=_SCRIPTED,
        help="What each key may ask of each model: 600, or 600,300@60 for 300 from second 60 on. "
        "More gets a 429.",
    ),
]
_TokensPerMinute = Annotated[
    str | None, typer.Option(metavar=_SCRIPTED, help="Likewise in tokens: of the input and max_tokens.")
]
_RequestsPerDay = Annotated[str | None, typer.Option(metavar=_SCRIPTED, help="Likewise for a day.")]
_TokensPerDay = Annotated[str | None, typer.Option(metavar=_SCRIPTED, help="Likewise in tokens.")]
_MaxParallelRequests = Annotated[
    str | None,
    typer.Option(metavar=_SCRIPTED, help="How many requests of each key may be in flight; more get a 429."),
]
_BurstSeconds = Annotated[
    float | None,
    typer.Option(help="How many seconds of a minute's limit may come at once. [default: 60]"),
]
_LimitStyle = Annotated[
    str | None,
    typer.Option(
        metavar="STYLE",
        help="How the limits are told: as by openai, azure, litellm, tei, infinity or nginx. "
        "[default: FAMILY's own]",
    ),
]
_LimitHeaders = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE", help="Which answers carry x-ratelimit-*: all, success or none. [default: all]"
    ),
]
_Capacity = Annotated[
    str | None,
    typer.Option(metavar=_SCRIPTED, help="How many requests are worked on at a time; the others wait."),
]
_MaxWaiting = Annotated[
    int | None, typer.Option(min=0, help="How many may wait; more are refused. [default: no bound]")
]
_SecondsPerToken = Annotated[
    float | None, typer.Option(min=0, help="What each token of an answer adds to the latency. [default: 0]")
]
_Outage = Annotated[
    list[str] | None,
    typer.Option(
        metavar="START-END[=KIND]",
        help="Fail every request in these seconds, as 60-120=429; the kind is 503, 500, 429, refused "
        "or hanging. [default kind: 503] May be repeated.",
    ),
]
# Where an option is not called as the parameter is.
_OPTIONS = {"style": "limit-style", "headers": "limit-headers"}


def mock(
    *,
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    latency: _Latency = "0",
    faults: _Faults = 0.0,
    fault: _Fault = None,
    seed: _Seed = 0,
    require_key: _RequireKey = None,
    server: _Server = "openai",
    dimensions: _Dimensions = 1536,
    max_inputs: _MaxInputs = None,
    max_input_tokens: _MaxInputTokens = None,
    max_request_tokens: _MaxRequestTokens = None,
    max_in_flight: _MaxInFlight = None,
    latency_per_input: _LatencyPerInput = 0.0,
    requests_per_minute: _RequestsPerMinute = None,
    tokens_per_minute: _TokensPerMinute = None,
    requests_per_day: _RequestsPerDay = None,
    tokens_per_day: _TokensPerDay = None,
    max_parallel_requests: _MaxParallelRequests = None,
    burst_seconds: _BurstSeconds = None,
    limit_style: _LimitStyle = None,
    limit_headers: _LimitHeaders = None,
    capacity: _Capacity = None,
    max_waiting: _MaxWaiting = None,
    seconds_per_token: _SecondsPerToken = None,
    outage: _Outage = None,
) -> None:
    """Serve a provider that needs no model: OpenAI's API, with latency and faults as you like.

    Prints its base URL on stdout when it listens, and serves until Ctrl-C. The answers are the same
    every time. GET /_mock/log tells what it saw, and GET /_mock/verdict how well the limits were used and
    the waits kept. Seconds count from the first request.
    """
    from batchrt.testing import MockProvider, serve_forever

    plan, seconds = _plan(faults, fault or [], seed), _latency(latency)
    limits = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "requests_per_day": requests_per_day,
        "tokens_per_day": tokens_per_day,
        "max_parallel_requests": max_parallel_requests,
    }
    try:
        provider = MockProvider(
            seed=seed,
            latency=seconds,
            faults=plan,
            api_key=require_key,
            server=cast("ServerFamily", server),
            dimensions=dimensions,
            max_inputs=max_inputs,
            max_input_tokens=max_input_tokens,
            max_request_tokens=max_request_tokens,
            max_in_flight=max_in_flight,
            latency_per_input=latency_per_input,
            rate_limits=_limits(
                limits, burst_seconds=burst_seconds, style=limit_style, headers=limit_headers
            ),
            queueing=_queueing(capacity, max_waiting=max_waiting, seconds_per_token=seconds_per_token),
            outages=[_outage(text) for text in outage or ()],
        )
    except ValueError as error:
        # They begin with the parameter's name, which is the option's but for the dashes.
        name, _, rest = str(error).partition(" ")
        raise UsageProblem(f"{_option(name)} {rest}") from None
    try:
        serve_forever(provider, host, port, on_listening=_announce)
    except ImportError as error:
        raise UsageProblem(str(error)) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageProblem(f"cannot listen on {host}, port {port}: {reason}") from error


def _announce(base_url: str) -> None:
    # A pipe is not flushed by itself, and a script waits for this line.
    typer.echo(base_url)


def _latency(text: str) -> Latency:
    from batchrt.testing import LogNormal
    from batchrt.testing.faults.latency import check_latency

    kind, _, numbers = text.partition(":")
    try:
        if kind == "lognormal":
            median, sigma = map(float, numbers.split(","))
            return LogNormal(median, sigma)
        return check_latency(float(text))
    except ValueError:
        raise UsageProblem(
            f"--latency must be seconds, as 0.2, or lognormal:MEDIAN,SIGMA, as lognormal:0.2,0.5; "
            f"not {text!r}"
        ) from None


def _scripted(name: str, text: str) -> Scripted:
    first, *later = text.split(",")
    try:
        if not later:
            return float(first)
        steps = [(0.0, float(first))]
        for step in later:
            number, _, second = step.partition("@")
            steps.append((float(second), float(number)))
    except ValueError:
        option = name.replace("_", "-")
        raise UsageProblem(
            f"--{option} must be a number, as 600, or numbers and the seconds from which they hold, as "
            f"600,300@60; not {text!r}"
        ) from None
    return steps


def _limits(given: dict[str, str | None], **how: Any) -> RateLimits | None:
    from batchrt.testing import RateLimits

    limits: dict[str, Any] = {name: _scripted(name, text) for name, text in given.items() if text is not None}
    how = {name: value for name, value in how.items() if value is not None}
    if how and not limits:
        name = _option(next(iter(how)))
        raise UsageProblem(f"{name} needs a limit, as --requests-per-minute 600")
    return RateLimits(**limits, **how) if limits else None


def _queueing(capacity: str | None, **how: Any) -> Queueing | None:
    from batchrt.testing import Queueing

    how = {name: value for name, value in how.items() if value is not None}
    if capacity is None:
        if how:
            raise UsageProblem(f"{_option(next(iter(how)))} needs --capacity")
        return None
    return Queueing(capacity=_scripted("capacity", capacity), **how)


def _option(name: str) -> str:
    return f"--{_OPTIONS.get(name, name).replace('_', '-')}"


def _outage(text: str) -> Outage:
    from batchrt.testing import Outage

    span, _, kind = text.partition("=")
    start, _, end = span.partition("-")
    try:
        named: Any = int(kind) if kind.isdecimal() else kind or 503
        return Outage(float(start), float(end), named)
    except ValueError:
        raise UsageProblem(
            f"--outage {text}: write it as START-END or START-END=KIND, with seconds and one of 503, 500, "
            "429, refused and hanging"
        ) from None


def _plan(everything: float, single: list[str], seed: int) -> FaultPlan:
    from batchrt.testing import FaultPlan, TunedFault

    rates: dict[FaultLike, float] = {}
    if everything:
        rates.update(FaultPlan.everything(everything, seed=seed).rates.items())
    try:
        for fault, rate in map(_rate, single):
            rates = {
                other: share
                for other, share in rates.items()
                if (other.fault if isinstance(other, TunedFault) else other) is not fault.fault
            }
            rates[fault] = rate
        return FaultPlan(rates, seed=seed)
    except ValueError as error:
        raise UsageProblem(f"the faults make no sense: {error}") from None


def _rate(text: str) -> tuple[TunedFault, float]:
    from batchrt.testing import Fault

    name, _, share = text.partition("=")
    name, _, measure = name.partition(":")
    kinds = {fault.value: fault for fault in Fault}
    if name not in kinds:
        raise UsageProblem(f"--fault {text}: there is no kind {name!r}; there are {', '.join(kinds)}")
    fault = kinds[name]
    try:
        if fault.takes == "size":
            return fault(size=int(measure)), float(share)
        return fault(seconds=float(measure) if measure else None), float(share)
    except ValueError:
        wanted = {"size": f"{name}:BYTES=RATE", "seconds": f"{name}=RATE or {name}:SECONDS=RATE"}
        form = wanted.get(fault.takes or "", f"{name}=RATE")
        raise UsageProblem(f"--fault {text}: write it as {form}, with a rate from 0 to 1") from None
