"""JSON embedded in a model's text, found in linear time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import JsonOutputParser, OutputParserError
from batchrt.runnables.embedded_json import candidates, first_fitting

THOUGHTS = [
    "<think>{}</think>",
    "{}</think>",
    "<Thinking>{}</Thinking>\n\n",
    "<reasoning>{}</reasoning>",
    "[THINK]{}[/THINK]",
    "◁think▷{}◁/think▷",
    "<seed:think>{}</seed:think>",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|START_THINKING|>{}<|END_THINKING|>",
    "<think>a</think><think>{}</think>",
]
FRAMES = ["{}", "```json\n{}\n```", "```\n{}\n```", "~~~json\n{}\n~~~", "Here: {} Is that it?", " \n{}\n\n"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, list | dict))


@given(VALUES, st.sampled_from(THOUGHTS), st.sampled_from(FRAMES), st.text(max_size=20))
def test_embedded_json_is_found_behind_thoughts_and_in_fences(
    value: Any, thought: str, frame: str, words: str
) -> None:
    """This holds for every mark of thoughts, every frame and every value."""
    words = words.replace("<", "").replace("[", "").replace("◁", "")
    text = thought.replace("{}", words) + frame.replace("{}", json.dumps(value))
    assert JsonOutputParser().parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        '<think>maybe {"a": 1}</think>{"a": ',
        '<think>maybe {"a": 1} or',
        'maybe {"a": 1}</think> I give up',
        '{"a": [1, 2], "b": ',
        '{"a": oops, "b": [1]}',
        '```json\n{"a": [1], "b"\n```',
        '[{"a": 1}, {"b": ',
        '{"a": 1} or {"a": 2}',
    ],
)
def test_embedded_json_refuses_a_part_or_a_draft(text: str) -> None:
    """A truncated answer is an error and never a different value."""
    with pytest.raises(OutputParserError, match="is not JSON"):
        JsonOutputParser().parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('As [you asked]: {"a": 1}', {"a": 1}),
        ('{of course} {"a": 1}', {"a": 1}),
        ('{"a": 1}. [done]', {"a": 1}),
        ('```json\n{"code": "```py\\nx\\n```"}\n```', {"code": "```py\nx\n```"}),
        ('<think>a</think>{"close": "</think>"}', {"close": "</think>"}),
        ('{"close": "</think>"}', {"close": "</think>"}),
    ],
)
def test_embedded_json_skips_other_brackets_and_marks(text: str, value: Any) -> None:
    """Prose, code and strings contain them too."""
    assert JsonOutputParser().parse(text) == value


def test_embedded_json_takes_the_first_candidate_that_fits() -> None:
    """The error reports JSON that does not fit in preference to text that is not JSON."""
    text = '```json\n{"example": 1}\n```\n```json\n{"a": 1}\n```'

    def read(candidate: str) -> Any:
        value = json.loads(candidate)
        if "a" not in value:
            raise ValueError("no a")
        return value

    assert first_fitting(text, read) == {"a": 1}
    with pytest.raises(ValueError, match="no a"):
        first_fitting(
            '```\n{"b": 1}\n```', lambda candidate: read(candidate) if "`" not in candidate else nothing()
        )


def nothing() -> Any:
    from batchrt.runnables.embedded_json import NotJSONError

    raise NotJSONError("no JSON")


class Counted(str):
    """A text that counts the characters which are looked at."""

    __slots__ = ("steps",)
    steps: list[int]

    def find(self, part: str, start: int = 0, stop: int | None = None) -> int:  # type: ignore[override]
        place = str.find(self, part, start, len(self) if stop is None else stop)
        self.steps[0] += (place if place >= 0 else len(self)) - min(start, len(self)) + 1
        return place

    def rfind(self, part: str) -> int:  # type: ignore[override]
        place = str.rfind(self, part)
        self.steps[0] += len(self) - place
        return place

    def __getitem__(self, key: Any) -> Counted:
        return counted(str.__getitem__(self, key), self.steps)

    def lstrip(self, *_: Any) -> Counted:
        return counted(str.lstrip(self), self.steps)

    def strip(self, *_: Any) -> Counted:
        return counted(str.strip(self), self.steps)


def counted(text: str, steps: list[int]) -> Counted:
    made = Counted(text)
    made.steps = steps
    steps[0] += len(text)
    return made


PIECES = [
    "`",
    "```",
    "```json\n",
    "```json",
    "``` ",
    "~~~\n",
    "{",
    "[",
    "{[",
    "[a ",
    "{a ",
    "{a} [a] ",
    "{\n \n",
    '{"a":',
    "}",
    "]",
    " \n",
    "<think>",
    "</think>",
    "<think></think>{",
    "</",
    "<|channel|>",
    '"\\',
    "a",
]


@pytest.mark.parametrize("start", ["", "```json\n", '```json\n{"a":', "<think>", "{", "["])
@pytest.mark.parametrize("piece", PIECES)
def test_embedded_json_is_scanned_in_linear_time(piece: str, start: str) -> None:
    """Twice the text takes at most twice the steps, and twice the attempts to parse."""
    steps = []
    for size in (4_000, 8_000):
        count = [0]
        tried = sum(map(len, candidates(counted(start + piece * (size // len(piece)), count))))
        assert tried <= 6 * size + 200
        steps.append(count[0])
    assert steps[1] <= 2 * steps[0] + 40_000
    assert steps[1] <= 40 * 8_000
