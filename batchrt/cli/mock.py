"""`batchrt mock`: a provider to try things against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from batchrt.cli.usage import UsageProblem

if TYPE_CHECKING:
    from batchrt.testing import FaultLike, FaultPlan, Latency, ServerFamily, TunedFault

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
) -> None:
    """Serve a provider that needs no model: OpenAI's API, with latency and faults as you like.

    Prints its base URL on stdout when it listens, and serves until Ctrl-C. The answers are the same
    every time. GET /_mock/log tells what it saw.
    """
    from batchrt.testing import MockProvider, serve_forever

    plan, seconds = _plan(faults, fault or [], seed), _latency(latency)
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
        )
    except ValueError as error:
        # They begin with the parameter's name, which is the option's but for the dashes.
        name, _, rest = str(error).partition(" ")
        raise UsageProblem(f"--{name.replace('_', '-')} {rest}") from None
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
    from batchrt.testing.latency import check_latency

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
