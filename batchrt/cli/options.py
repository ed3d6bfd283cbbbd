"""The options that `batchrt run` and `batchrt embed` have in common."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import typer

from batchrt.cli.usage import UsageProblem

__all__ = [
    "BaseUrl",
    "Concurrency",
    "Format",
    "Input",
    "InputFormat",
    "Limit",
    "MaxCost",
    "MaxTokensTotal",
    "MaxWait",
    "Model",
    "Overwrite",
    "Patience",
    "PriceInput",
    "PriceOutput",
    "Quiet",
    "RequestsPerMinute",
    "Retries",
    "TokensPerMinute",
    "read_concurrency",
]

Format: TypeAlias = Literal["csv", "tsv", "jsonl"]

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
    typer.Option(metavar="X", help="What a million tokens that are sent cost, for --max-cost."),
]
PriceOutput = Annotated[
    float | None,
    typer.Option(metavar="X", help="What a million tokens of answers cost, for --max-cost."),
]
InputFormat = Annotated[
    Format | None, typer.Option("--format", help="The input's format, if its suffix does not tell.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
Retries = Annotated[int, typer.Option(min=0, help="Attempts after the first, where another may help.")]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", min=1, help="Only the first N rows.", show_default="all")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]


def read_concurrency(option: str) -> int | Literal["auto"]:
    """Return what `--max-concurrency` says.

    Raises:
        UsageProblem: it is neither.
    """
    if option == "auto":
        return "auto"
    if option.isascii() and option.isdecimal() and int(option) > 0:
        return int(option)
    raise UsageProblem(f"--max-concurrency must be a positive whole number or auto, not {option!r}")
