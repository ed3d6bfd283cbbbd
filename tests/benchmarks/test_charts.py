"""Charts of results: legible in both schemes, equal for equal results."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from benchmarks.pages.charts import CHARTS, draw
from tests.benchmarks.documents import document, row, scenario

ROWS = [
    [row("batchrt", cpu=[10, 12], memory=[5, 6], ideal=[1.1, 1.2], lost=[0, 0], wrong=[0, 0])],
    [row("batchrt", cpu=[11, 12], memory=[5, 6], ideal=[2.1, 2.2], lost=[3, 3], wrong=[0, 0])],
]


@pytest.mark.parametrize("name", CHARTS)
def test_charts_follow_the_scheme_and_say_what_they_show(name: str) -> None:
    """A chart is SVG with colours of both schemes, a ground of its own, and its content as a title."""
    results = document(scenario(*ROWS, key=name))
    drawn = draw(name, results)
    assert drawn is not None
    svg, says = drawn
    root = ET.fromstring(svg)
    assert root.findtext("{http://www.w3.org/2000/svg}title") == says
    assert "batchrt" in says
    assert "prefers-color-scheme:dark" in svg
    assert "fill: var(--ground)" in svg
    assert draw(name, results) == drawn


def test_charts_of_a_scenario_that_was_not_measured_are_left_out() -> None:
    """A run of a part of the scenarios has the charts of that part."""
    assert draw("items", document(scenario(*ROWS, key="chat"))) is None
