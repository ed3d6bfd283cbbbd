"""Spans, moments and waits in words: in the usual wordings and units, and no number of something else."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrt.providers.http.durations import _TOKEN, read_duration, read_rfc3339, wait_in_words

NOW = 784_111_777.0  # 1994-11-06T08:49:37Z

SENTENCES = [
    "Please retry after {}.",
    "Please try again in {}. Visit https://example.com/account/rate-limits to learn more.",
    "Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Try again in {}.",
    "Requests to the Chat API have exceeded call rate limit. Please retry after {}. Please go to …",
    "You exceeded your current quota.\nPlease retry in {}.",
    "Too many requests, please wait {} before trying again",
    "Please wait for at least {} and try again.",
    "Rate limit is exceeded. Try again in {}.",
    "Slow down! You can retry your request in {}.",
    "Rate limit resets in {}.",
    "quota will reset after {}",
    "Throttled; retry after: {}",
    "limit reached (retry_after={})",
    "Please allow {} before retrying.",
    "{} remaining until reset",
    "retryDelay: {}",
    "Expected available in {}",
    "cooldown of {}",
    "Try again after another {}, please",
    "The server is busy. Wait approximately {} until you retry.",
    "come back in {}",
]
UNITS = [
    ("{} seconds", 1.0),
    ("{} second(s)", 1.0),
    ("{}s", 1.0),
    ("{} s", 1.0),
    ("{} sec", 1.0),
    ("{} secs", 1.0),
    ("{}ms", 1e-3),
    ("{} milliseconds", 1e-3),
    ("{} msec", 1e-3),
    ("{} minutes", 60.0),
    ("{}m", 60.0),
    ("{} min", 60.0),
    ("{} hours", 3600.0),
    ("{}h", 3600.0),
    ("{} hrs", 3600.0),
    ("{} days", 86_400.0),
]


@given(
    st.sampled_from(SENTENCES),
    st.sampled_from(UNITS),
    st.one_of(st.integers(1, 5000), st.floats(0.01, 5000).map(lambda number: round(number, 3))),
    st.sampled_from([str, str.upper, str.title]),
)
@example(SENTENCES[0], UNITS[0], 7, str)
def test_durations_wait_is_read_in_any_wording_and_unit(
    sentence: str, unit: tuple[str, float], number: float, case: type[str]
) -> None:
    """For every sentence, every unit, every number, in any case."""
    form, seconds = unit
    said = case(sentence.format(form.format(number)))
    assert wait_in_words(said, NOW) == pytest.approx(number * seconds)


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please try again in 1h2m3.5s", 3723.5),
        ("Please try again in 6m0s.", 360.0),
        ("try again in 1 minute and 30 seconds", 90.0),
        ("try again in 2 min, 3 sec", 123.0),
        ("retry after 1,500 ms", 1.5),
        ("retry after 30", 30.0),
        ('{"retry_after": 30}', 30.0),
        ("retry-after-ms=500", 0.5),
        ("retry_after_seconds: 12", 12.0),
        ("try again in 01:30", 90.0),
        ("try again in 1:00:05", 3605.0),
        ("Retry after 1994-11-06T08:50:00Z.", 23.0),
        ("resets at 1994-11-06 08:50:00 UTC", 23.0),
        ("retry after 1994-11-06T08:40:00+00:00", 0.0),
        ("Limit 3 / min. Current: 4 / min. Please try again in 20s.", 20.0),
        ("5 retries failed; wait 2s", 2.0),
    ],
)
def test_durations_wait_may_have_several_parts_or_a_timestamp(message: str, seconds: float) -> None:
    """In seconds from now."""
    assert wait_in_words(message, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "no",
        "Please retry after a while",
        "Retry after seconds",
        "Please try again later. Limit: 60 requests per minute",
        "try again in a few seconds",
        "retry limit of 3 exceeded",
        "Retry 3 times",
        "after 5 retries the upstream gave up",
        "wait for 3 requests to finish",
        "the limit is 10 requests per 60 seconds",
        "the request took 30 seconds and timed out",
        "resets at 12:30",
        "reset time: 12:30",
        "available models: 5",
        "This model's maximum context length is 8192 tokens, however you requested 9000 tokens",
        "please retry after 99999999999 days",
        "x" * 20_000 + "retry after 7 seconds",
    ],
)
def test_durations_wait_is_none_for_other_numbers(message: str) -> None:
    """Limits, counts, times of day."""
    assert wait_in_words(message, NOW) is None


@given(st.text(max_size=300))
@example("retry after " + "9" * 250)
@example("retry after 9999-99-99t99:99:99")
@example("wait " * 60 + "1")
def test_durations_wait_never_raises(message: str) -> None:
    """For any message."""
    for said in (message, "retry after " + message):
        found = wait_in_words(said, NOW)
        assert found is None or (math.isfinite(found) and found >= 0)


@pytest.mark.parametrize(
    "piece", ["retry ", "wait in ", "1", "1h", "1 ", "2024-01-01T", "1:", "a", "(", "retry 1,"]
)
def test_durations_wait_takes_linear_time(piece: str) -> None:
    """Each token is read a bounded number of times."""
    looks: list[int] = []
    for size in (1_000, 2_000):
        count = 0

        class Counted(str):
            """A text that counts how often it is compared or looked at."""

            __slots__ = ()

            def __hash__(self) -> int:
                nonlocal count
                count += 1
                return str.__hash__(self)

            def __getitem__(self, key: object) -> str:
                nonlocal count
                count += 1
                return str.__getitem__(self, key)  # type: ignore[index]

        import batchrt.providers.http.durations as module

        class Pattern:
            """Find tokens that count."""

            @staticmethod
            def findall(text: str) -> list[str]:
                return [Counted(token) for token in _TOKEN.findall(text)]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_TOKEN", Pattern)
            wait_in_words(piece * (size // len(piece)), NOW)
        looks.append(count)
    assert looks[1] <= 2 * looks[0] + 200


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2s", 2.0),
        ("1m30s", 90.0),
        ("2 minutes", 120.0),
        ("1.5 sec", 1.5),
        ("1s2m", None),
        ("2", None),
        ("s", None),
        ("2s later", None),
        ("", None),
        ("-2s", None),
    ],
)
def test_durations_read_duration_accepts_a_duration_alone(text: str, seconds: float | None) -> None:
    """Units get smaller from part to part."""
    assert read_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1994-11-06T08:49:37Z", NOW),
        ("1994-11-06t08:49:37z", NOW),
        ("1994-11-06T09:49:37+01:00", NOW),
        ("1994-11-06T08:49:37", NOW),
        ("1994-11-06T08:49:37.25Z", NOW + 0.25),
        ("1994-11-06", None),
        ("1994-13-06T08:49:37Z", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", None),
    ],
)
def test_durations_read_rfc3339_timestamps(text: str, moment: float | None) -> None:
    """Without a zone, UTC."""
    assert read_rfc3339(text) == moment
