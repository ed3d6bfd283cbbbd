"""The options that `batchrt run` and `batchrt embed` have in common."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import typer

__all__ = [
    "BaseUrl",
    "Concurrency",
    "Format",
    "Input",
    "InputFormat",
    "Limit",
    "Model",
    "Overwrite",
    "Quiet",
    "Retries",
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
    int, typer.Option("--max-concurrency", "-c", min=1, help="The most requests in flight.")
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
