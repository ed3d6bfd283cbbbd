"""Draw the pictures of the documents from real runs: `python docs/draw_pictures.py`, with `batchrt[report]`.

Each picture is a run of batchrt against the mock provider, in real time, drawn twice: for light and for
dark pages. The files in docs/pictures are committed, since times differ a little from run to run.
"""

from __future__ import annotations

import heapq
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import matplotlib as mpl
from matplotlib.figure import Figure

from batchrt import (
    ChatOpenAI,
    CooledDown,
    OpenAIEmbeddings,
    QuotaEvent,
    RunnableLambda,
    RunnableParallel,
    Sent,
)
from batchrt.testing import LogNormal, MockProvider, RateLimits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = Path(__file__).parent / "pictures"
INCH = 72
SIZE = (7.2, 3.2)
CAP = 5


@dataclass(frozen=True)
class Colours:
    """The colours of a page; each pair has a contrast of at least 3 to the background."""

    name: str
    ink: str
    grid: str
    steps: tuple[str, str, str]
    bad: str


THEMES = (
    Colours("light", "#1f2329", "#d1d9e1", ("#0969db", "#1a7f38", "#9a6701"), "#cf222f"),
    Colours("dark", "#e6edf3", "#3d444e", ("#4493f9", "#3fb951", "#d29923"), "#ff7b73"),
)


@dataclass(frozen=True)
class Call:
    """One leaf call: the item that it belongs to, its step, and when it ran."""

    item: int
    step: str
    start: float
    end: float


async def calls_of_a_run() -> list[Call]:
    """Run eight items through a step and a fork of two, at a cap of five; one item is slow."""
    calls: list[Call] = []
    began = anyio.current_time()

    def step(name: str, seconds: float) -> RunnableLambda[int, int]:
        async def work(item: int) -> int:
            start = anyio.current_time()
            await anyio.sleep(seconds * (6 if item == 1 and name == "prepare" else 1 + item % 3 / 2))
            calls.append(Call(item, name, start - began, anyio.current_time() - began))
            return item

        return RunnableLambda(work)

    chain = step("prepare", 0.2) | RunnableParallel(a=step("branch a", 0.3), b=step("branch b", 0.2))
    await chain.abatch(range(8), config={"max_concurrency": CAP})
    return calls


def draw_slots(axes: Axes, colours: Colours, calls: list[Call]) -> None:
    """Put each call in the first slot that is free, as the run did."""
    free = list(range(CAP))
    busy: list[tuple[float, int]] = []
    names = ("prepare", "branch a", "branch b")
    for call in sorted(calls, key=lambda call: call.start):
        while busy and busy[0][0] <= call.start + 0.002:
            heapq.heappush(free, heapq.heappop(busy)[1])
        slot = heapq.heappop(free)
        heapq.heappush(busy, (call.end, slot))
        colour = colours.steps[names.index(call.step)]
        axes.barh(slot + 1, call.end - call.start - 0.006, left=call.start, height=0.78, color=colour)
        middle = (call.start + call.end) / 2
        text = {"ha": "center", "va": "center", "color": "white" if colours.name == "light" else "black"}
        axes.text(middle, slot + 1, str(call.item + 1), fontsize=9, **text)
    for name, colour in zip(names, colours.steps, strict=True):
        axes.barh(0, 0, color=colour, label=name)
    axes.set(xlabel="seconds", ylabel="slot", ylim=(0.4, CAP + 0.6), yticks=range(1, CAP + 1))
    legend(axes, colours)


@dataclass(frozen=True)
class Arrivals:
    """When each item reached the step that takes lists, and when the lists were sent."""

    arrived: dict[int, float]
    sent: list[tuple[float, int]]


async def arrivals_of_a_run() -> Arrivals:
    """Run 60 items through a step with a slow tail, then embeddings that take 16 texts at a time."""
    provider = MockProvider(latency=0.25)
    embeddings = OpenAIEmbeddings(
        "any", base_url="http://mock/v1", transport=provider.transport(), max_batch_size=16
    )
    arrived: dict[int, float] = {}
    began = anyio.current_time()

    async def prepare(item: int) -> str:
        await anyio.sleep(1.1 if item in {7, 21, 40} else 0.1 + item % 7 / 40)
        arrived[item] = anyio.current_time() - began
        return f"text {item}"

    sent: list[float] = []

    def note(event: QuotaEvent) -> None:
        if isinstance(event, Sent):
            sent.append(anyio.current_time() - began)

    with embeddings.quota.listening(note):
        await (RunnableLambda(prepare) | embeddings).abatch(range(60), config={"max_concurrency": 24})
    records = sorted(provider.log.records(), key=lambda record: record.time)
    return Arrivals(arrived, [(time, record.items) for time, record in zip(sent, records, strict=True)])


def draw_lists(axes: Axes, colours: Colours, arrivals: Arrivals) -> None:
    """Draw a step line of the items that wait, and a bar for each list that is sent."""
    events = sorted(
        [(time, 1, 0) for time in arrivals.arrived.values()]
        + [(time, 0, size) for time, size in arrivals.sent]
    )
    times, waiting, number = [0.0], [0], 0
    for time, one, size in events:
        number += one - size
        times.append(time)
        waiting.append(number)
    axes.step(times, waiting, where="post", color=colours.steps[0], label="items waiting for a list")
    for place, (time, size) in enumerate(arrivals.sent):
        label = "a list is sent, with its size" if place == 0 else None
        axes.plot([time, time], [0, size], color=colours.steps[2], linewidth=2, label=label)
        axes.text(time, size + 0.6, str(size), ha="center", color=colours.ink, fontsize=9)
    axes.set(xlabel="seconds", ylabel="items", ylim=(0, 24))
    legend(axes, colours)


@dataclass(frozen=True)
class Requests:
    """Requests of a run against a limit: when they came, and whether they were answered; cool-downs."""

    answered: list[float]
    refused: list[float]
    pauses: list[tuple[float, float]]


async def requests_of_a_run() -> Requests:
    """Send 200 requests to a server that admits 20 a second and names a wait of 1.5 s beyond that."""
    limits = RateLimits(requests_per_minute=1200, burst_seconds=1.5, headers="none", named_wait=1.5)
    provider = MockProvider(rate_limits=limits, latency=LogNormal(0.15, 0.3))
    model = ChatOpenAI("any", base_url="http://mock/v1", transport=provider.transport())
    pauses: list[tuple[float, float]] = []
    began = anyio.current_time()

    def note(event: QuotaEvent) -> None:
        start = anyio.current_time() - began
        # Each refusal that comes during a cool-down is an event, too.
        if isinstance(event, CooledDown) and (not pauses or pauses[-1][1] <= start):
            pauses.append((start, start + event.wait))

    with model.quota.listening(note):
        await model.abatch([f"text {number}" for number in range(200)], config={"max_concurrency": 40})
    records = list(provider.log.records())
    return Requests(
        [record.time for record in records if record.status == 200],  # noqa: PLR2004
        [record.time for record in records if record.status == 429],  # noqa: PLR2004
        pauses,
    )


def draw_quota(axes: Axes, colours: Colours, requests: Requests) -> None:
    """Count answered and refused requests in each quarter of a second, and shade the cool-downs."""
    width = 0.25
    end = max(requests.answered + requests.refused) + width
    edges = [place * width for place in range(int(end / width) + 2)]
    axes.hist(
        [requests.answered, requests.refused],
        bins=edges,
        stacked=True,
        color=[colours.steps[1], colours.bad],
        label=["answered", "refused with a 429"],
        rwidth=0.85,
    )
    for place, (start, stop) in enumerate(requests.pauses):
        label = "cool-down: nothing is sent" if place == 0 else None
        axes.axvspan(start, stop, color=colours.steps[0], alpha=0.35, linewidth=0, label=label)
    axes.axhline(20 * width, color=colours.ink, linewidth=1, linestyle="--", label="the server's limit")
    axes.set(xlabel="seconds", ylabel=f"requests in {width:g} s", xlim=(0, end))
    legend(axes, colours)


def legend(axes: Axes, colours: Colours) -> None:
    """Put the legend above the picture."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        frameon=False,
        labelcolor=colours.ink,
        fontsize=9,
        borderaxespad=0.2,
        handlelength=1.2,
    )


def compact(svg: str) -> str:
    """Leave out comments, line breaks and the digits behind a tenth of a point: half of the bytes."""
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'="[^"]*"', lambda value: re.sub(r"(\.\d)\d+", r"\1", value[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    return re.sub(r"> <", "><", svg) + "\n"


def draw(name: str, data: Any, paint: Callable[[Axes, Colours, Any], None]) -> None:
    """Write the picture for light and for dark pages, with text as text."""
    for colours in THEMES:
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.grid(axis="x", color=colours.grid, linewidth=0.6)
        axes.tick_params(colors=colours.ink, labelsize=9)
        axes.patch.set_alpha(0)
        for side, spine in axes.spines.items():
            spine.set_visible(side in {"left", "bottom"})
            spine.set_color(colours.grid)
        paint(axes, colours, data)
        axes.xaxis.label.set_color(colours.ink)
        axes.yaxis.label.set_color(colours.ink)
        path = FOLDER / f"{name}-{colours.name}.svg"
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        path.write_text(compact(drawn.getvalue()), encoding="utf-8")
        print(f"{path}: {path.stat().st_size:,} bytes")


async def main() -> None:
    """Run all three and draw them."""
    mpl.rcParams |= {"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "batchrt"}
    FOLDER.mkdir(exist_ok=True)
    draw("slots", await calls_of_a_run(), draw_slots)
    draw("list", await arrivals_of_a_run(), draw_lists)
    draw("quota", await requests_of_a_run(), draw_quota)


if __name__ == "__main__":
    anyio.run(main)
