from __future__ import annotations

import pytest
from trio import sleep

from batchrt.cli.provider_events import ProviderEvents
from batchrt.limits.events import (
    Admitted,
    BudgetEmpty,
    CooledDown,
    LimitChanged,
    ProviderDown,
    ProviderUp,
    QuotaEvent,
    Retried,
    Sent,
)
from tests import virtual

Story = list[QuotaEvent | float]
"""Events, and the seconds between them."""

REFUSED = "RateLimitError (status 429)"
DOWN = (
    "the provider is down: 10 requests in a row without an answer, the last a X; "
    "one at a time looks whether it is back"
)


def told(story: Story, patience: float = 600) -> tuple[list[str], list[str]]:
    """Give the lines that are said, and the words at the end."""
    said: list[str] = []
    events = ProviderEvents(said.append, patience=patience)

    async def main() -> None:
        for step in story:
            if isinstance(step, float):
                await sleep(step)
            else:
                events(step)
        events.end()

    virtual.run(main)
    return said, events.words()


def test_provider_events_pauses_that_overlap_are_one() -> None:
    """Requests in flight at the first refusal are refused as well."""
    said, words = told(
        [CooledDown(10, REFUSED), 1.0, CooledDown(9.5, REFUSED), 2.0, CooledDown(8, REFUSED), 60.0]
    )
    assert said == [f"nothing is sent for 10 s: the provider asked for it, with a {REFUSED}"]
    assert words == ["cool-downs: 1, 11 s in all"]


def test_provider_events_short_pauses_are_counted_and_not_told() -> None:
    """Many are over before the line is read."""
    said, words = told([CooledDown(4.0, REFUSED), 5.0, CooledDown(2.0, REFUSED), 5.0])
    assert said == []
    assert words == ["cool-downs: 2, 6 s in all"]


def test_provider_events_repeated_are_told_once_a_minute() -> None:
    """Each kind by itself."""
    said, words = told([CooledDown(6.0, REFUSED), 10.0, BudgetEmpty(0, 5), 5.0, BudgetEmpty(0, 5)] * 6)
    assert [line.split(":")[0] for line in said] == [
        "nothing is sent for 6 s",
        "the retry budget is empty because too many requests fail; others wait until more are answered",
        "nothing is sent for 6 s",
        "the retry budget is empty because too many requests fail; others wait until more are answered",
    ]
    assert words == ["cool-downs: 6, 36 s in all"]


def test_provider_events_pause_that_the_job_does_not_see_the_end_of_is_counted_as_far_as_it_went() -> None:
    """Also one of an hour."""
    assert told([CooledDown(3600, REFUSED), 3.0])[1] == ["cool-downs: 1, 3 s in all"]


def test_provider_events_outage_has_a_beginning_and_an_end() -> None:
    """The end is told if the beginning was."""
    outage: Story = [ProviderDown(10, "X"), 34.0, ProviderUp(34)]
    assert told(outage) == ([DOWN, "the provider is back after 34 s"], ["outages: 1, 34 s in all"])
    assert told([*outage, *outage, 30.0, *outage])[0] == [DOWN, "the provider is back after 34 s"] * 2
    assert told(outage[:-1]) == ([DOWN], ["outages: 1, 34 s in all"])


def test_provider_events_without_patience_do_not_tell_of_waiting() -> None:
    """Rows fail then."""
    said, _ = told([ProviderDown(1, "X"), BudgetEmpty(0, 5)], patience=0)
    assert said == [
        "the provider is down: 1 request in a row without an answer, the last a X",
        "the retry budget is empty because too many requests fail; others are not tried again",
    ]


@pytest.mark.parametrize(
    "event",
    [
        Admitted(1.0, 5.0),
        Sent(3, 5.0),
        Retried("X", 1.0, 1),
        LimitChanged("requests_per_minute", None, 600, "told by the provider"),
    ],
)
def test_provider_events_usual_ones_are_not_told(event: QuotaEvent) -> None:
    """It happens with every request."""
    assert told([event]) == ([], [])


def test_provider_events_last_limit_of_auto_is_told_at_the_end() -> None:
    """It may be a number to begin with the next time."""
    changes: Story = [
        LimitChanged("max_concurrency", 8, 9, "doubling"),
        LimitChanged("max_concurrency", 9, 1200, ""),
    ]
    assert told(changes) == ([], ["auto settled at 1,200 requests in flight"])
