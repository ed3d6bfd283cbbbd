#!/usr/bin/env bash
# matplotlib 3.11.2: the names of bars that come from data, such as the messages of errors, in an SVG.
#
# A good guess: the label of a tick or of a bar is text, and is drawn as it is; mathematics has to be asked for.
# What it does: a label with two dollar signs is mathematics between them: the signs and the spaces are gone, letters
# are italic, and `_` and `^` lower and raise what follows. One dollar sign alone is a dollar sign, so that tests with
# one price find nothing. `text.parse_math` (a setting, or an argument of a text) turns it off.
#
# Seen: "asked: 'limit of $5 a day, $7 used'; drawn: 'limit of 5aday,7 used'; with text.parse_math off: as asked".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q matplotlib==3.11.2
MPLCONFIGDIR="$home" "$home/venv/bin/python" - <<'END'
import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

asked = "limit of $5 a day, $7 used"

def drawn(**settings):
    with rc_context({"svg.fonttype": "none", **settings}):
        figure = Figure()
        figure.subplots().barh([asked], [1])
        out = io.StringIO()
        figure.savefig(out, format="svg")
    svg = out.getvalue()
    if f">{asked}</text>" in svg:
        return asked
    label = svg[svg.index(f"<!-- {asked} -->") :].split("</text>")[0]
    letters = re.findall(r'<tspan x="([^"]+)"[^>]*>([^<]*)</tspan>', label)
    pairs = [pair for places, said in letters for pair in zip(places.split(), said, strict=True)]
    placed = sorted((float(place), letter) for place, letter in pairs)
    return "".join(letter for _, letter in placed)

usual, plain = drawn(), drawn(**{"text.parse_math": False})
print(f"asked: {asked!r}; drawn: {' '.join(usual.split())!r}; with text.parse_math off: {plain == asked and 'as asked'}")
assert "$" not in usual and plain == asked
END
