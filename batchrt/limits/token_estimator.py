"""What a request costs in tokens: estimated before it is sent, learned from what others cost."""

from __future__ import annotations

from typing import Final, NamedTuple

from batchrt.messages import Usage

__all__ = ["TokenEstimate", "TokenEstimator"]

_TOKENS_PER_BYTE: Final = 0.25
"""The usual four characters a token, until answers have said."""
_FIRST_OUTPUT: Final = 256.0
"""Tokens of an answer, until one has come."""
_SPEED: Final = 0.05
"""How fast averages follow: by the last twenty answers or so."""


class TokenEstimate(NamedTuple):
    """Tokens that a request is expected to take, and to be answered with."""

    input: float
    output: float


class TokenEstimator:
    """Estimate costs by running averages."""

    __slots__ = ("_answers", "_output", "_per_byte")

    def __init__(self) -> None:
        self._per_byte = _TOKENS_PER_BYTE
        self._output = _FIRST_OUTPUT
        self._answers = 0

    def expect(self, size: int, *, answers: int = 1, most: float | None = None) -> TokenEstimate:
        """Return the expected cost of a request.

        Args:
            size: of its body, in bytes.
            answers: how many it asks for; 0 for vectors.
            most: the most tokens of all of them together; `None` if nothing says.
        """
        output = self._output * answers
        if most is not None:
            output = min(output, most) if self._answers else most
        return TokenEstimate(size * self._per_byte, output)

    @property
    def known(self) -> bool:
        """Whether an answer has said what they cost."""
        return self._answers > 0

    def learn(self, size: int, answers: int, usage: Usage) -> None:
        """Take in what a request of so many bytes and `answers` cost."""
        # The mean of the first answers, then an average that follows.
        self._answers += 1
        speed = max(_SPEED, 1 / self._answers)
        if size > 0 and usage.input_tokens > 0:
            self._per_byte += (usage.input_tokens / size - self._per_byte) * speed
        if answers:
            self._output += (usage.output_tokens / answers - self._output) * speed
