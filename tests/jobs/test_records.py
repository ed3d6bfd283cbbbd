"""Records: outputs survive their way into a journal and back."""

from __future__ import annotations

import math

from pydantic import BaseModel

from batchrt.jobs.records import Codec, encode_input
from batchrt.runtime.outcome import Outcome


class Score(BaseModel):
    """An output with a number that JSON lacks."""

    value: float
    parts: list[float] = []


def _restored(codec: Codec, output: object) -> object:
    return codec.outcome(0, codec.record(Outcome(0, output, None, 1, 0.0, None), 0.0)).output


def test_codec_returns_models_with_nan_and_infinity_as_they_were() -> None:
    """A model with NaN or infinity is read back from its record, with an output type."""
    score = Score(value=math.inf, parts=[math.nan, -math.inf, 0.5])
    restored = _restored(Codec(Score), score)
    assert isinstance(restored, Score)
    assert restored.value == math.inf
    assert math.isnan(restored.parts[0])
    assert restored.parts[1:] == [-math.inf, 0.5]


def test_codec_keeps_nan_and_infinity_of_models_inside_of_dicts_and_lists() -> None:
    """A model in a dict or list has its NaN and infinity in the record, also without an output type."""
    restored = _restored(
        Codec(None), {"score": Score(value=math.inf), "all": [Score(value=math.nan)], "n": None}
    )
    assert isinstance(restored, dict)
    assert restored["score"] == {"value": math.inf, "parts": []}
    assert math.isnan(restored["all"][0]["value"])
    assert restored["n"] is None


def test_encode_input_tells_nan_from_none_in_models() -> None:
    """Inputs that are models differ where one has NaN and the other infinity."""
    assert encode_input(Score(value=math.nan)) == b'{"value":NaN,"parts":[]}'
    assert encode_input([Score(value=-math.inf)]) == b'[{"value":-Infinity,"parts":[]}]'
