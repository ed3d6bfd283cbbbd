"""Charts of a results document, as SVG that follows the reader's light or dark scheme."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from batchrt.jobs.page.svg import COLOURS, STYLE, svg_of
from benchmarks.pages.figures import Document, losses, middle, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CHARTS", "draw"]

# Each scheme with its ground: a page with a switch of its own stays legible. Lines differ in dashes and
# markers too.
_COLOURS = {"ground": ("#fefefe", "#0d1117"), **COLOURS}
_GROUND, _INK, _MUTED, _GRID, _BLUE, _RED, _GREEN, _AMBER = [light for light, _ in _COLOURS.values()]
_LINES = ((_BLUE, "-", "o"), (_GREEN, "--", "s"), (_AMBER, "-.", "^"), (_RED, ":", "D"))
_WIDTH = 760


def draw(name: str, document: Document) -> tuple[str, str] | None:
    """Return a chart and a sentence that says what it shows; None if its scenario was not measured."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    scenario = next((each for each in document["scenarios"] if each["key"] == name), None)
    if scenario is None:
        return None
    height, paint = CHARTS[name]
    with rc_context(STYLE):
        size = (_WIDTH / 72, height(scenario) / 72)
        figure = Figure(figsize=size, layout="constrained", facecolor=_GROUND)
        says = paint(scenario, figure)
        lines = svg_of(figure, says, _COLOURS).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n", says


# Bars


def _measured(case: Mapping[str, Any], key: str) -> list[tuple[Mapping[str, Any], float]]:
    found = [(row, middle(row, key)) for row in case["rows"]]
    return [(row, value) for row, value in found if value is not None]


def _place(measured: tuple[Mapping[str, Any], float]) -> tuple[bool, float]:
    row, value = measured
    return bool(losses(row)), value


def _height_of_bars(scenario: Mapping[str, Any]) -> int:
    return 90 + 26 * max(len(_measured(case, "cpu")) for case in scenario["cases"])


def _bars(
    axes: Axes, case: Mapping[str, Any], key: str, wording: Callable[[Mapping[str, Any], float], str]
) -> None:
    """Draw a bar for each row, the least on top and lossy ones below, with its range and its value."""
    found = sorted(_measured(case, key), key=_place, reverse=True)
    values = [value for _, value in found]
    colours = [_BLUE if row["contender"] == "batchrt" else _MUTED for row, _ in found]
    ranges = [
        [value - min(row["figures"][key]) for row, value in found],
        [max(row["figures"][key]) - value for row, value in found],
    ]
    axes.barh(range(len(found)), values, color=colours, height=0.6)
    axes.errorbar(values, range(len(found)), xerr=ranges, fmt="none", ecolor=_INK, elinewidth=1)
    axes.set_yticks(range(len(found)), [row["label"] for row, _ in found])
    axes.grid(visible=False, axis="y")
    for place, (row, value) in enumerate(found):
        at = max(row["figures"][key])
        axes.annotate(
            wording(row, value), (at, place), xytext=(5, 0), textcoords="offset points", va="center"
        )


def _cpu_bars(unit: str) -> Callable[[Mapping[str, Any], Figure], str]:
    def paint(scenario: Mapping[str, Any], figure: Figure) -> str:
        axes, case = figure.subplots(), scenario["cases"][0]
        _bars(axes, case, "cpu", lambda _, value: number(value, 0))
        axes.set_xscale("log")
        most = max(value for _, value in _measured(case, "cpu"))
        axes.set_xlim(right=3 * most)
        axes.set_xlabel(f"CPU µs/{unit}, logarithmic")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        listed = sorted(_measured(case, "cpu"), key=lambda pair: pair[1])
        words = ", ".join(f"{row['label']} {number(value, 0)}" for row, value in listed)
        return f"CPU time in µs per {unit}: {words}."

    return paint


def _waits(scenario: Mapping[str, Any], figure: Figure) -> str:
    grid = figure.subplots(1, 2, squeeze=False)[0]
    says = []
    for axes, case, title in zip(grid, scenario["cases"], ("limit unknown", "limit known"), strict=False):
        _bars(axes, case, "ideal", _lost_or_time)
        axes.axvline(1.0, color=_GREEN, linestyle="--")
        axes.set_title(title)
        axes.set_xlabel("time / ideal")
        most = max((max(row["figures"]["ideal"]) for row, _ in _measured(case, "ideal")), default=1.0)
        axes.set_xlim(0, 1.6 * most)
        words = (f"{row['label']} {_lost_or_time(row, value)}" for row, value in _measured(case, "ideal"))
        says.append(f"{title}: {', '.join(words)}")
    return f"Time relative to the ideal, or rows lost. {'; '.join(says)}."


def _lost_or_time(row: Mapping[str, Any], value: float) -> str:
    return losses(row) or number(value, 2)


# Lines


def _lines(axes: Axes, scenario: Mapping[str, Any], key: str) -> list[str]:
    """Draw a line for each label over the cases' numbers, and return its ends in words."""
    labels = dict.fromkeys(row["label"] for case in scenario["cases"] for row in case["rows"])
    says = []
    for label, (colour, dashes, marker) in zip(labels, _LINES, strict=False):
        points = [
            (int(case["key"]), value)
            for case in scenario["cases"]
            for row, value in _measured(case, key)
            if row["label"] == label
        ]
        if points:
            across, up = zip(*points, strict=True)
            axes.plot(across, up, color=colour, linestyle=dashes, marker=marker, label=label)
            says.append(f"{label} {number(up[0], 1)} to {number(up[-1], 1)}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
        axis.set_minor_formatter(lambda _x, _: "")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 2, high * 2)
    return says


def _scales(across: str, unit: str) -> Callable[[Mapping[str, Any], Figure], str]:
    def paint(scenario: Mapping[str, Any], figure: Figure) -> str:
        cpu, memory = figure.subplots(1, 2)
        words = _lines(cpu, scenario, "cpu")
        also = _lines(memory, scenario, "memory")
        cpu.set_title(f"CPU µs/{unit}")
        memory.set_title("peak memory, MB")
        for axes in (cpu, memory):
            axes.set_xlabel(across)
        handles, labels = cpu.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        return (
            f"From the fewest to the most {across}. CPU µs per {unit}: {', '.join(words)}. "
            f"Peak memory in MB: {', '.join(also)}."
        )

    return paint


CHARTS: Mapping[
    str, tuple[Callable[[Mapping[str, Any]], int], Callable[[Mapping[str, Any], Figure], str]]
] = {
    "chat": (_height_of_bars, _cpu_bars("row")),
    "embeddings": (_height_of_bars, _cpu_bars("text")),
    "rate-limits": (_height_of_bars, _waits),
    "items": (lambda _: 320, _scales("items", "item")),
    "in-flight": (lambda _: 320, _scales("requests in flight", "row")),
}
"""The height in pixels and the painter of each scenario's chart."""
