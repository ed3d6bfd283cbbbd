"""How many tokens a text has: estimated, or counted by tiktoken."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from batchrt.errors import TokenizerError
from batchrt.limits.error_kinds import shorten

if TYPE_CHECKING:
    import tiktoken

__all__ = [
    "MOST_PER_CHARACTER",
    "Estimate",
    "Tiktoken",
    "Tokenizer",
    "TokenizerName",
    "estimate",
    "tokenizer_of",
]

TokenizerName: TypeAlias = Literal["estimate", "tiktoken"]

_A_CHARACTER: Final = 0.25
_ANOTHER_BYTE: Final = 0.45
"""Tokens for each byte that a character takes beyond its first one.

Fitted to cl100k_base: true counts are 0.75 to 1.4 times the estimate for English, German, French,
Russian, Greek, Arabic, Hindi, Thai, Chinese, Japanese, Korean, JSON and code; up to 3 times for digits,
base64 and emoji."""

_OF_EMBEDDINGS: Final = "cl100k_base"
"""The encoding of OpenAI's embedding models."""
_LONGEST_TOKEN: Final = 128
"""Characters that a token has at most: cl100k_base's longest is a run of blanks."""
MOST_PER_CHARACTER: Final = 4
"""Tokens that a character has at most: one for each of its bytes."""


def estimate(text: str) -> float:
    """Return about how many tokens `text` has, one more rather than one less."""
    length = len(text)
    if text.isascii():
        return 1 + length * _A_CHARACTER
    extra = len(text.encode("utf-8", "surrogatepass")) - length
    return 1 + length * _A_CHARACTER + extra * _ANOTHER_BYTE


class Tokenizer(Protocol):
    """Count tokens."""

    @property
    def exact(self) -> bool:
        """Whether the counts are the server's own."""

    @property
    def name(self) -> str:
        """What counts: `estimate`, or tiktoken's name of the encoding."""

    @property
    def cost(self) -> Callable[[str], float]:
        """The function that returns the number of tokens of a text."""

    def at_least(self, text: str) -> int:
        """Return a number of tokens that `text` has for certain."""

    def cut(self, text: str, most: int, factor: float) -> str:
        """Return as much of the beginning of `text` as has `most` tokens.

        `factor` is how many tokens there are to one that was counted.
        """


class Estimate:
    """Estimate tokens from characters and bytes; nothing is downloaded."""

    exact: Final = False
    name: Final = "estimate"
    cost: Final = staticmethod(estimate)

    def at_least(self, text: str) -> int:
        """Return a number of tokens that `text` has for certain: no token spans a blank between words."""
        return max(len(text.split()), len(text) // _LONGEST_TOKEN)

    def cut(self, text: str, most: int, factor: float) -> str:
        """Cut on the safe side."""
        while len(text) > 1 and (tokens := estimate(text) * factor) > most:
            text = text[: max(1, min(len(text) - 1, int(len(text) * most / tokens)))]
        return text


class Tiktoken:
    """Count tokens as OpenAI does.

    Args:
        model: which model's encoding.
        otherwise: the encoding for models that tiktoken does not know.

    Attributes:
        name: of the encoding.

    Raises:
        ImportError: tiktoken is not installed.
        TokenizerError: its encoding is not there, and cannot be downloaded.
    """

    exact: Final = True

    def __init__(self, model: str, otherwise: str = _OF_EMBEDDINGS) -> None:
        try:
            import tiktoken
        except ImportError as error:
            raise ImportError(
                'tokenizer="tiktoken" needs tiktoken: install batchrt[tiktoken], or leave tokenizer out '
                "for an estimate"
            ) from error
        try:
            try:
                encoding = tiktoken.encoding_for_model(model)
            except KeyError:
                encoding = tiktoken.get_encoding(otherwise)
        except Exception as error:
            # Any error of its HTTP library, or of a file that is broken.
            raise TokenizerError(
                "tiktoken could not load its encoding, which it downloads when it is first used "
                f"({type(error).__name__}: {shorten(str(error), 200)}): have it loaded where there is a "
                "network and let TIKTOKEN_CACHE_DIR name the folder, or leave "
                'tokenizer="tiktoken" out for an estimate, which needs no download'
            ) from error
        self._encoding: tiktoken.Encoding = encoding
        self.name: str = encoding.name

    def cost(self, text: str) -> float:
        """Return how many tokens `text` has."""
        return len(self._encoding.encode_ordinary(text))

    def at_least(self, text: str) -> int:
        """Return how many tokens `text` has."""
        return int(self.cost(text))

    def cut(self, text: str, most: int, factor: float) -> str:
        """Cut after the last token that fits, half characters left out."""
        if len(text) * MOST_PER_CHARACTER <= most:
            return text
        tokens = self._encoding.encode_ordinary(text)
        kept = max(1, int(most / factor))
        if len(tokens) <= kept:
            return text
        return self._encoding.decode_bytes(tokens[:kept]).decode("utf-8", "ignore")


def tokenizer_of(name: TokenizerName, model: str, otherwise: str = _OF_EMBEDDINGS) -> Tokenizer:
    """Return the tokenizer called `name`; see `Tiktoken`.

    Raises:
        ValueError: for a name that is none.
        ImportError: it is not installed.
        TokenizerError: it cannot be loaded.
    """
    if name == "estimate":
        return Estimate()
    if name == "tiktoken":
        return Tiktoken(model, otherwise)
    raise ValueError(f'tokenizer must be "estimate" or "tiktoken", not {name!r}')
