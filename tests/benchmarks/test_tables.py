"""Tables of results: medians, the best of a column, and rows without figures."""

from __future__ import annotations

from benchmarks.pages.tables import headline, scenario_tables
from tests.benchmarks.documents import document, row, scenario


def test_tables_show_the_median_and_the_spread() -> None:
    """A cell has the median, and in brackets the least and the most."""
    text = "\n".join(scenario_tables(scenario([row("batchrt", cpu=[30, 10, 20], wrong=[0, 0, 0])])))
    assert "| batchrt | **20 (10-30)** | 0 | 1.00 |" in text


def test_tables_name_the_contender_that_is_ahead() -> None:
    """The best figure is bold, and a sentence says by how much batchrt is behind."""
    rows = [row("batchrt", cpu=[20], wrong=[0]), row("other", cpu=[10], wrong=[0])]
    text = "\n".join(scenario_tables(scenario(rows)))
    assert "| other | **10** | 0 | 0.50 |" in text
    assert "Ahead of batchrt: CPU: other (10; batchrt 20)." in text


def test_tables_do_not_praise_wrong_answers() -> None:
    """A contender that spoils items is not the best, however cheap."""
    rows = [row("batchrt", cpu=[20], wrong=[0]), row("other", cpu=[10], wrong=[3])]
    text = "\n".join(scenario_tables(scenario(rows)))
    assert "| batchrt | **20** |" in text
    assert "| other | 10 | 3 |" in text
    assert "Ahead" not in text


def test_tables_keep_the_rows_that_have_no_figures() -> None:
    """A contender that was not measured has a row with the reason."""
    rows = [row("batchrt", cpu=[20], wrong=[0]), row("other", reason="not installed: other")]
    assert "| other | not installed: other |" in "\n".join(scenario_tables(scenario(rows)))


def test_tables_say_that_a_contender_failed_in_a_later_round() -> None:
    """The figures of its first rounds stand beside the reason."""
    rows = [row("batchrt", cpu=[20], wrong=[0], reason="not finished after 60 s")]
    text = "\n".join(scenario_tables(scenario(rows)))
    assert "| batchrt: not finished after 60 s | **20** |" in text


def test_tables_of_many_cases_have_a_column_for_each() -> None:
    """Cases that differ in a number stand side by side, in one table for each figure."""
    cases = [[row("batchrt", cpu=[cpu], wrong=[0])] for cpu in (1, 2, 3)]
    text = "\n".join(scenario_tables(scenario(*cases, key="items")))
    assert "| contender | 10 items | 100 items | 1000 items |" in text
    assert "| batchrt | **1** | **2** | **3** |" in text


def test_tables_headline_has_a_row_for_each_contender_of_the_chat() -> None:
    """Rows lost replace the time, since a client that gives rows up is done sooner."""
    chat = scenario(
        [
            row("batchrt", cpu=[10], rate=[100], wrong=[0]),
            row("other", cpu=[30], rate=[50], wrong=[0]),
        ]
    )
    limits = scenario(
        [row("batchrt", lost=[0], ideal=[1.1]), row("other", lost=[7], ideal=[0.5])], key="rate-limits"
    )
    limits["cases"][0]["key"] = "unknown"
    lines = list(headline(document(chat, limits)))
    assert "| batchrt | 10 | 1.00 | 100 | - | 0 lost, 1.10 x ideal | - | - | - |" in lines
    assert "| other | 30 | 3.00 | 50 | - | 7 lost | - | - | - |" in lines
