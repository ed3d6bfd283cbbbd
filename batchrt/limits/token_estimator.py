"""The token estimator: the tokens of a request, estimated from those of earlier requests."""

from __future__ import annotations

from typing import Final

from batchrt.messages import Usage

__all__ = ["RunningMean", "TokenEstimator"]

_TOKENS_PER_BYTE: Final = 0.25
"""The usual four characters a token, until an answer has told its usage."""
_FIRST_OUTPUT: Final = 256.0
"""Tokens of an answer, until one has come."""
_WEIGHT: Final = 0.05
"""The weight of the newest value: an average covers about the last twenty answers."""
_LAST: Final = 1 / _WEIGHT
"""Answers of which the plain mean is taken, before the newest has a fixed weight."""


class RunningMean:
    """The mean of the first values, then an exponential moving average."""

    __slots__ = ("count", "value")

    def __init__(self, value: float = 0.0) -> None:
        self.count: int = 0
        self.value: float = value

    def add(self, value: float) -> None:
        """Take in a value."""
        self.count += 1
        self.value += (value - self.value) * max(_WEIGHT, 1 / self.count)


class TokenEstimator:
    """Estimate tokens by running averages."""

    __slots__ = ("_answers", "_output", "_per_byte")

    def __init__(self) -> None:
        self._per_byte = _TOKENS_PER_BYTE
        self._output = _FIRST_OUTPUT
        self._answers = 0

    def expect(self, size: int, *, answers: int = 1, most: float | None = None) -> tuple[float, float]:
        """Return the expected tokens of a request, and of its answer.

        Args:
            size: of its body, in bytes.
            answers: how many it asks for; 0 for vectors.
            most: the most tokens of all of them together; `None` if nothing says.
        """
        output = self._output * answers
        if most is not None:
            output = min(output, most) if self._answers else most
        return size * self._per_byte, output

    @property
    def known(self) -> bool:
        """Whether any answer has told its usage."""
        return self._answers > 0

    def learn(self, size: int, answers: int, usage: Usage) -> None:
        """Take in the usage of a request of so many bytes and `answers`."""
        # The mean of the first answers, then a moving average.
        self._answers += 1
        weight = _WEIGHT if self._answers >= _LAST else 1 / self._answers
        if size > 0 and usage.input_tokens > 0:
            self._per_byte += (usage.input_tokens / size - self._per_byte) * weight
        if answers:
            self._output += (usage.output_tokens / answers - self._output) * weight
