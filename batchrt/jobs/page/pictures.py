"""Pictures of a job's history, as SVG that follows the reader's light or dark scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from batchrt.jobs.page.history import History
from batchrt.jobs.page.percentiles import Percentiles
from batchrt.jobs.page.svg import COLOURS, STYLE, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Picture", "draw_errors", "draw_latency", "draw_over_time", "draw_tokens"]

_FULL: Final = 1160
_BESIDE: Final = 740
"""Pixels of a picture on a wide screen: of one by itself, and of one with a table beside it."""
_NARROW: Final = 328
"""The same on a narrow screen: 360 without the margins."""

_INK, _MUTED, _GRID, _BLUE, _RED, _GREEN, _AMBER = (light for light, _ in COLOURS.values())

_SHARES: Final = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
_MOST_KINDS: Final = 10
_LONGEST_NAME: Final = 24


class Picture(NamedTuple):
    """A picture in its forms.

    Attributes:
        wide, narrow: SVG documents for wide and for narrow screens.
        alt: says in a sentence or two what is to be seen.
    """

    wide: str
    narrow: str
    alt: str


def _picture(
    draw: Callable[[Figure, bool], None], alt: str, *, wide: tuple[int, int], narrow: int
) -> Picture:
    """Draw in both sizes, of pixels; `draw` gets the figure and whether it is narrow."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    forms = []
    for width, height in (wide, (_NARROW, narrow)):
        with rc_context(STYLE):
            figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
            draw(figure, width == _NARROW)
            forms.append(svg_of(figure, alt))
    return Picture(forms[0], forms[1], alt)


# Axes


def _unit(seconds: float) -> tuple[float, str]:
    """Return the length in seconds and the name of the unit that suits times up to `seconds`."""
    if seconds < 300:  # noqa: PLR2004
        return 1.0, "s"
    if seconds < 4 * 3600:
        return 60.0, "min"
    return (3600.0, "h") if seconds < 96 * 3600 else (86400.0, "d")


@contextmanager
def _time_axes(history: History, figure: Figure, heights: Sequence[float]) -> Iterator[list[Axes]]:
    """Give axes one above the other that share the job's time; the last one has its labels."""
    grid = figure.subplots(len(heights), sharex=True, height_ratios=heights, squeeze=False)
    axes: list[Axes] = list(grid[:, 0])
    yield axes
    length, unit = _unit(history.timeline.seconds)
    for each in axes:
        each.set_xlim(0, history.timeline.seconds)
        each.set_ylim(bottom=0)
        each.xaxis.set_major_locator(_locator(length))
        each.xaxis.set_major_formatter(lambda x, _: f"{x / length:g}")
        each.grid(visible=False, axis="x")
        each.locator_params(axis="y", nbins=4)
        each.yaxis.set_major_formatter(lambda y, _: _short(y))
        for at, _ in history.timeline.pauses:
            each.axvline(at, color=_MUTED, linewidth=1.5, linestyle=(0, (1, 2)))
        for started in history.run_starts[1:]:
            each.axvline(float(history.timeline.at(started)), color=_MUTED, linewidth=1)
    axes[-1].set_xlabel(f"time at work ({unit})")


def _locator(length: float) -> Any:
    from matplotlib.ticker import MaxNLocator

    class Whole(MaxNLocator):
        """Ticks at round numbers of the unit."""

        def tick_values(self, vmin: float, vmax: float) -> Any:
            return np.asarray(super().tick_values(vmin / length, vmax / length)) * length

    return Whole(nbins=6)


def _short(number: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}"


def _steps(axes: Axes, history: History, values: Any, **style: Any) -> None:
    edges = np.arange(len(values) + 1) * history.over_time.width
    axes.stairs(values, edges, **style)


def _key(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    handles: dict[str, Any] = {}
    for each in axes:
        found, names = each.get_legend_handles_labels()
        handles.update(dict(zip(names, found, strict=True)))
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)


# Pictures


def draw_over_time(history: History) -> Picture:
    """Draw rows per second, rows and requests in flight, and refusals, with cool-downs and outages."""
    over = history.over_time
    rate = (over.done + over.failed) / over.width

    def draw(figure: Figure, is_narrow: bool) -> None:  # noqa: FBT001
        with _time_axes(history, figure, (3, 3, 1.3)) as (rows, flight, again):
            rows.set_title("rows per second")
            _steps(rows, history, rate, fill=True, color=_BLUE, label="done")
            _steps(rows, history, over.failed / over.width, fill=True, color=_RED, label="failed")
            flight.set_title("in flight")
            _steps(flight, history, over.under_way, color=_GREEN, linewidth=1.5, label="rows")
            dashes = {"linewidth": 1.5, "linestyle": (0, (4, 1.5))}
            _steps(flight, history, over.in_requests, color=_BLUE, label="requests", **dashes)
            again.set_title("sent again")
            _steps(again, history, over.refusals, fill=True, color=_AMBER, label="refused by a rate limit")
            _steps(
                again, history, over.retries, baseline=0, color=_RED, linewidth=1.5, label="failed otherwise"
            )
            for axes in (rows, flight, again):
                _mark_events(axes, history)
            _key(figure, (rows, flight, again), 2 if is_narrow else 4)

    return _picture(draw, _alt_over_time(history, rate), wide=(_FULL, 600), narrow=620)


def _mark_events(axes: Axes, history: History) -> None:
    at = history.timeline.at
    kinds = (
        (history.cooldowns, "cool-down", {"facecolor": _AMBER, "alpha": 0.4}),
        (history.outages, "outage", {"facecolor": "none", "edgecolor": _RED, "hatch": "////"}),
    )
    for events, name, style in kinds:
        spans = [(at(event.began), at(event.ended)) for event in events if history.is_drawn(event)]
        for began, ended in joined_for_drawing(spans, history.timeline.seconds):
            axes.axvspan(began, ended, linewidth=0, zorder=0.5, label=name, **style)


def joined_for_drawing(spans: Sequence[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    """Return `spans` with those joined that could not be told apart: at most some hundreds are left."""
    from batchrt.jobs.page.timeline import joined

    least = seconds / 400
    return joined([(began, max(ended, began + least / 2)) for began, ended in spans], least / 2)


def _alt_over_time(history: History, rate: Any) -> str:
    over = history.over_time
    again = int(over.refusals.sum())
    return (
        f"Rows per second over {_duration(history.timeline.seconds)} of work: {_short(rate.mean())} on "
        f"average, {_short(rate.max())} at most. In flight: up to {_short(over.under_way.max())} rows and "
        f"{_short(over.in_requests.max())} requests. Requests refused by a rate limit and sent again: "
        f"{again:,}; cool-downs: {len(history.cooldowns):,}; outages: {len(history.outages):,}."
    )


def _duration(seconds: float) -> str:
    length, unit = _unit(seconds)
    return f"{seconds / length:.3g} {unit}"


def draw_latency(history: History) -> Picture:
    """Draw the percentiles of the rows' times and of their requests' times."""
    kinds: list[tuple[str, Percentiles, dict[str, Any]]] = [
        ("whole rows, waits included", history.row_seconds, {"color": _GREEN}),
        ("answered requests", history.request_seconds, {"color": _BLUE, "linestyle": (0, (4, 1.5))}),
    ]
    most = max(history.row_seconds.count, 10)
    shares = 1 - np.logspace(0, -np.log10(most), 80)

    def draw(figure: Figure, is_narrow: bool) -> None:  # noqa: FBT001
        axes = figure.subplots()
        axes.set_title("seconds")
        for name, times, style in kinds:
            if times.count:
                values = [times.at(share) for share in shares]
                axes.plot(-np.log10(1 - shares), values, linewidth=2, label=name, **style)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter("")
        ticks = [share for share in _SHARES if 1 - share >= 1 / most]
        axes.set_xticks([-np.log10(1 - share) for share in ticks], [f"{100 * share:g}" for share in ticks])
        axes.set_xlim(left=0)
        axes.set_xlabel("percentile")
        _key(figure, [axes], 1 if is_narrow else 2)

    alt = "; ".join(
        f"{name}: median {times.at(0.5):.3g} s, 99th percentile {times.at(0.99):.3g} s, "
        f"longest {times.longest:.3g} s"
        for name, times, _ in kinds
        if times.count
    )
    return _picture(draw, f"Percentiles of times. {alt}.", wide=(_BESIDE, 340), narrow=330)


def draw_tokens(history: History) -> Picture | None:
    """Draw the sums of tokens, and of cost, over time; `None` without tokens."""
    over = history.over_time
    tokens_in, tokens_out, cost = (
        np.cumsum(each) for each in (over.input_tokens, over.output_tokens, over.cost)
    )
    if not tokens_in[-1] + tokens_out[-1]:
        return None
    edges = np.arange(len(tokens_in) + 1) * over.width

    def draw(figure: Figure, is_narrow: bool) -> None:  # noqa: FBT001
        with _time_axes(history, figure, (1, 1) if cost[-1] else (1,)) as axes:
            axes[0].set_title("tokens so far")
            axes[0].plot(edges, [0, *tokens_in], color=_BLUE, linewidth=2, label="in")
            dashes = (0, (4, 1.5))
            axes[0].plot(edges, [0, *tokens_out], color=_GREEN, linewidth=2, linestyle=dashes, label="out")
            if cost[-1]:
                axes[1].set_title("cost so far")
                axes[1].plot(edges, [0, *cost], color=_INK, linewidth=2)
            _key(figure, axes[:1], 2 if is_narrow else 4)

    spent = f" Cost: {cost[-1]:.4g}." if cost[-1] else ""
    alt = f"Tokens over time: {_short(tokens_in[-1])} in and {_short(tokens_out[-1])} out in the end.{spent}"
    return _picture(draw, alt, wide=(_BESIDE, 380), narrow=360)


def draw_errors(errors: Mapping[str, int]) -> Picture | None:
    """Draw the number of failed rows by kind of error; `None` without any."""
    if not errors:
        return None
    named = [(_printable(kind), number) for kind, number in errors.items()]
    shown = named[:_MOST_KINDS]
    if rest := sum(number for _, number in named[_MOST_KINDS:]):
        shown.append((f"{len(named) - _MOST_KINDS} other kinds", rest))
    height = 60 + 34 * len(shown)

    def draw(figure: Figure, is_narrow: bool) -> None:  # noqa: FBT001
        axes = figure.subplots()
        places = range(len(shown))
        bars = axes.barh(places, [number for _, number in shown], color=_RED, height=0.5)
        axes.bar_label(bars, [f"{number:,}" for _, number in shown], padding=4)
        names = [_cut(name) for name, _ in shown]
        if is_narrow:
            axes.set_yticks([])
            for place, name in zip(places, names, strict=True):
                axes.text(0, place - 0.32, name, va="bottom", color=_INK)
        else:
            axes.set_yticks(places, names)
        axes.set_ylim(len(shown) - 0.5, -0.9)
        axes.margins(x=0.15)
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)

    told = ", ".join(f"{number:,} {name}" for name, number in shown)
    alt = f"Failed rows by kind of error: {told}."
    return _picture(draw, alt, wide=(_BESIDE, height), narrow=height + 14 * len(shown))


def _printable(text: str) -> str:
    """Return `text` without characters that XML does not have."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
