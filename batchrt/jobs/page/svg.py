"""Pictures as SVG that follows the reader's light or dark scheme."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "STYLE", "svg_of"]

# Light and dark scheme. Each has a contrast of at least 3:1 to its ground, texts of 4.5:1 (WCAG 2.2, 1.4.3
# and 1.4.11), and lines that share axes differ in their dashes too.
COLOURS: Final[Mapping[str, tuple[str, str]]] = {
    "ink": ("#1f2329", "#e6edf3"),
    "muted": ("#59636f", "#9da7b1"),
    "grid": ("#d1d9e1", "#3d444e"),
    "blue": ("#0969db", "#4493f9"),
    "red": ("#cf222f", "#ff7b73"),
    "green": ("#1a7f38", "#3fb951"),
    "amber": ("#9a6701", "#d29923"),
}
_INK, _MUTED = COLOURS["ink"][0], COLOURS["muted"][0]

STYLE: Final[Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "batchrt",  # equal data give equal files
    "font.size": 12.0,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12.0,
    "axes.titlelocation": "left",
    "grid.color": COLOURS["grid"][0],
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "hatch.color": COLOURS["red"][0],
    "legend.frameon": False,
    "text.parse_math": False,  # dollar signs in the names of errors
}
"""matplotlib's settings of a picture."""


def svg_of(figure: Figure, alt: str, colours: Mapping[str, tuple[str, str]] = COLOURS) -> str:
    """Return a figure that was drawn in the light ones of `colours`, with `alt` as its title."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg ") :]  # the doctype's address would be a reference to the network
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(\.\d\d)\d+", r"\1", svg)  # a hundredth of a pixel suffices
    schemes = []
    for scheme in (0, 1):
        names = "".join(f"--{name}:{pair[scheme]};" for name, pair in colours.items())
        schemes.append(f":root{{{names}}}")
    for name, (light, _) in colours.items():
        svg = svg.replace(light, f"var(--{name})")
    style = (
        f"<style>{schemes[0]}@media(prefers-color-scheme:dark){{{schemes[1]}}}"
        "text{font-family:system-ui,sans-serif!important}</style>"
    )
    head, body = svg.split(">", 1)
    head = re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', head)  # a point is drawn as a pixel
    return f"{head}>\n<title>{escape(alt, quote=False)}</title>{style}{body}"
