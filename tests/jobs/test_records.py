"""Records: outputs survive their way into a journal and back."""

from __future__ import annotations

import math

from pydantic import BaseModel

from batchrt.jobs.records import Codec
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
