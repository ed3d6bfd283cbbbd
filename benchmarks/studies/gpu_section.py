"""The section of the docs with the figures of a GPU server, rendered from the study's JSON alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.studies.gpu_clients import CLIENTS

__all__ = ["section"]

_HEADINGS = {
    "chat": ("requests at once", "client", "tokens/s", "requests/s", "median s", "p95 s", "failed"),
    "embeddings": ("requests at once", "client", "tokens/s", "texts/s", "median s", "p95 s", "failed"),
}


def section(document: Mapping[str, Any]) -> str:
    """Return Markdown: what was measured on what, and a table for chats and one for embeddings."""
    lines = ["## A server on a GPU", "", *_introduction(document), ""]
    for kind in _HEADINGS:
        runs = [run for run in document["runs"] if run["kind"] == kind]
        if runs:
            lines += [*_table(kind, runs), ""]
            if best := _best(kind, runs):
                lines += [best, ""]
    lines += [f"- {note}" for note in document["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def _introduction(document: Mapping[str, Any]) -> Iterator[str]:
    models, plan, versions = document["models"], document["plan"], document["versions"]
    device = models["device"]
    memory = f", {device['memory_gib']:g} GiB, CUDA {device['cuda']}" if "memory_gib" in device else ""
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    machine = document["machine"]
    chat, embeddings = models["chat"], models["embeddings"]
    yield (
        f"Measured on {machine['date'][:10]} on {device['name']}{memory}, beside {machine['usable_cores']} "
        f"cores of {machine['cpu']}, by `python -m benchmarks.studies.gpu_server --size {models['size']}`, "
        f"with {machine['python']}, {known}. Weights are random, since speed depends on their shapes alone: "
        f"{chat['weights'] / 1e6:,.0f} million in `{chat['architecture']}` for chats, by `transformers serve "
        f"--continuous-batching`, and {embeddings['weights'] / 1e6:,.0f} million in "
        f"`{embeddings['architecture']}` for embeddings, by a server of the study's own, as `transformers "
        "serve` has none."
    )
    yield (
        f"Prompts have 16 to 128 words, answers {plan['max_tokens']} tokens; texts have 32 to 256 words, and "
        f"{plan['per_list']} make a request. Medians of the rounds; latencies are those of requests as their "
        "client sees them, without its own waits."
    )


def _table(kind: str, runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    headings = _HEADINGS[kind]
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * 2}{'---:|' * (len(headings) - 2)}"
    order = list(dict.fromkeys((str(run["cap"]), client) for run in runs for client in CLIENTS))
    for cap, client in order:
        own = [run for run in runs if (str(run["cap"]), run["client"]) == (cap, client)]
        if own:
            yield f"| {cap} | {CLIENTS[client][0]} | {' | '.join(_cells(own))} |"


def _cells(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    good = [run for run in runs if "wall" in run]
    if not good:
        yield from ("-", "-", "-", "-", runs[0].get("note", "not measured"))
        return
    for name, digits in (("tokens_per_second", 0), ("items_per_second", 1), ("median", 2), ("p95", 2)):
        values = [run[name] for run in good if name in run]
        yield f"{median(values):,.{digits}f}" if values else "-"
    failed, sent = sum(run["failed"] for run in good), sum(run["items"] for run in good)
    errors = sorted({kind.partition(":")[0] for run in good for kind in run["errors"]})
    notes = [run["note"] for run in runs if "note" in run]
    yield "; ".join([f"{failed} of {sent} ({', '.join(errors)})" if failed else "0", *notes])


def _best(kind: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Compare "auto" with the best fixed number."""
    rates: dict[str, float] = {}
    for cap in dict.fromkeys(str(run["cap"]) for run in runs):
        values = [
            run["tokens_per_second"]
            for run in runs
            if (str(run["cap"]), run["client"]) == (cap, "batchrt") and "wall" in run
        ]
        if values:
            rates[cap] = median(values)
    auto = rates.pop("auto", None)
    if auto is None or not rates:
        return ""
    best = max(rates, key=lambda cap: rates[cap])
    return (
        f'For {kind}, `max_concurrency="auto"` has {100 * auto / rates[best]:.0f} % of the throughput of the '
        f"best fixed number, {best}."
    )
