"""The options that `batchrt run` and `batchrt embed` have in common."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, NoReturn, TypeAlias

import typer

from batchrt.cli.usage import UsageProblem

__all__ = [
    "BaseUrl",
    "Concurrency",
    "Delimiter",
    "Encoding",
    "Format",
    "Headers",
    "Input",
    "InputFormat",
    "Limit",
    "MaxCost",
    "MaxTokensTotal",
    "MaxWait",
    "Model",
    "Options",
    "Overwrite",
    "Patience",
    "PriceInput",
    "PriceOutput",
    "Quiet",
    "RequestsPerMinute",
    "Retries",
    "TokensPerMinute",
    "check_text",
    "read_concurrency",
    "read_delimiter",
    "read_headers",
    "read_options",
    "read_whole",
]

Format: TypeAlias = Literal["csv", "tsv", "jsonl"]

_MOST_DIGITS: Final = 20
_NOT_TEXT: Final = frozenset(("-o", "--output", "--schema", "-q", "--quiet", "--overwrite", "--fail-cut-off"))
"""Options with a file's name, which may be of any bytes, and those after which there may be one."""
_DELIMITER_NAMES: Final = {"tab": "\t", "\\t": "\t"}

Input = Annotated[
    str, typer.Argument(metavar="INPUT", help="A CSV, TSV or JSONL file, also gzipped; - for stdin.")
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="The model. Without --base-url, 'mock' is a built-in one: no key, no network."
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(help="Where the API is, as http://localhost:8000/v1. Default: OPENAI_BASE_URL, or OpenAI."),
]
Concurrency = Annotated[
    str,
    typer.Option(
        "--max-concurrency",
        "-c",
        metavar="N|auto",
        help="The most requests in flight; auto: as many as the provider answers best.",
    ),
]
RequestsPerMinute = Annotated[
    float | None,
    typer.Option(
        "--requests-per-minute",
        "--rpm",
        help="Send no more. What the provider's answers say about its limits is kept anyway.",
        show_default="what the provider says",
    ),
]
TokensPerMinute = Annotated[
    float | None,
    typer.Option(
        "--tokens-per-minute",
        "--tpm",
        help="The same in tokens, of prompts and answers.",
        show_default="what the provider says",
    ),
]
Patience = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="How long to wait for a provider that is down before the job ends; 0 fails rows instead.",
    ),
]
MaxWait = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="The longest pause that the provider may ask for; if it asks for more, the job ends.",
    ),
]
MaxTokensTotal = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="The most tokens to spend, of prompts and answers; then the job ends.",
        show_default="no end",
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="The most money to spend; then the job ends. Needs the model's prices.",
        show_default="no end",
    ),
]
PriceInput = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="What a million tokens that are sent cost; the summary has the cost then."
    ),
]
PriceOutput = Annotated[
    float | None,
    typer.Option(metavar="X", help="What a million tokens of answers cost."),
]
InputFormat = Annotated[
    Format | None, typer.Option("--format", help="The input's format, if its suffix does not tell.")
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        metavar="CHAR",
        help="What stands between a CSV's fields, as ';' or tab.",
        show_default="found out from the header",
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The input's, as cp1252 or utf-16.", show_default="utf-8"),
]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        "--header", metavar="NAME:VALUE", help="A header to send with each request; may be repeated."
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Any option of the API's, as top_p=0.9 or seed=1, in JSON or as a text; may be repeated.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
Retries = Annotated[int, typer.Option(min=0, help="Attempts after the first, where another may help.")]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help="Only the first N rows.", show_default="all")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no summary; what is lost is told anyway.")
]


def check_text(arguments: Iterable[str]) -> None:
    """Check that `arguments` are text in the system's encoding, those apart that may name a file.

    Raises:
        UsageProblem: one is not; names its option.
    """
    before = ""
    for argument in arguments:
        name, value = before, argument
        if argument.startswith("--"):
            name, _, value = argument.partition("=")
        elif argument.startswith("-") and len(argument) > 1:
            name, value = argument[:2], argument[2:]
        before = argument if argument.startswith("-") else ""
        if _is_text(value) and _is_text(name):
            continue
        if not _is_text(name) or (name.startswith("-") and name not in _NOT_TEXT and value[:1] != "@"):
            shown = name.encode("utf-8", "replace").decode()[:40]
            raise UsageProblem(
                f"{shown} is not in this system's encoding ({sys.getfilesystemencoding()}); "
                "write it in that, or in a file where one can be named"
            )


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:  # bytes that Python could not decode
        return False
    return True


def read_concurrency(option: str) -> int | Literal["auto"]:
    """Return what `--max-concurrency` says.

    Raises:
        UsageProblem: it is neither.
    """
    if option == "auto":
        return "auto"
    number = read_whole(option)
    if number is not None:
        return number
    raise UsageProblem(f"--max-concurrency must be a positive whole number or auto, not {option[:40]!r}")


def read_whole(option: str) -> int | None:
    """Return a positive whole number, `None` for what is none; one that no machine counts to is as good."""
    if not (option.isascii() and option.isdecimal()):
        return None
    digits = option.lstrip("0")
    number = sys.maxsize if len(digits) > _MOST_DIGITS else min(int(digits or "0"), sys.maxsize)
    return number or None


def read_delimiter(option: str | None) -> str | None:
    """Return the character that `--delimiter` names."""
    return None if option is None else _DELIMITER_NAMES.get(option.lower(), option)


def read_headers(given: Iterable[str] | None) -> dict[str, str]:
    """Return what `--header` says. A value, which may be a key, is in no message.

    Raises:
        UsageProblem: there is no name.
    """
    headers: dict[str, str] = {}
    for header in given or ():
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise UsageProblem("--header must be NAME:VALUE, as 'X-Team: search'")
        headers[name.strip()] = value.strip()
    return headers


def read_options(given: Iterable[str] | None) -> dict[str, Any]:
    """Return what `--option` says: JSON, or what is none as a text.

    Raises:
        UsageProblem: there is no name, or a number that JSON has not.
    """
    options: dict[str, Any] = {}
    for option in given or ():
        name, equals, text = option.partition("=")
        if not equals or not name.strip():
            raise UsageProblem(f"--option must be KEY=VALUE, as top_p=0.9, not {option[:40]!r}")
        options[name.strip()] = _value(text, name.strip())
    return options


def _value(text: str, name: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise UsageProblem(f"--option {name[:40]}: {constant} is no number that JSON can carry")

    try:
        value = json.loads(text, parse_constant=refuse)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value
