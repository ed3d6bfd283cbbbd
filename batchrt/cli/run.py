"""`batchrt run`: a prompt over the rows of a file."""

from __future__ import annotations

from typing import Annotated

import typer

from batchrt.cli.options import (
    BaseUrl,
    Concurrency,
    Delimiter,
    Encoding,
    Format,
    Headers,
    Input,
    InputFormat,
    Limit,
    MaxCost,
    MaxTokensTotal,
    MaxWait,
    Model,
    Options,
    Overwrite,
    Patience,
    PriceInput,
    PriceOutput,
    Quiet,
    RequestsPerMinute,
    Retries,
    TokensPerMinute,
    read_concurrency,
    read_delimiter,
    read_headers,
    read_options,
)
from batchrt.cli.settings import Settings
from batchrt.files.encodings import OutputEncoding

__all__ = ["run"]

_Prompt = Annotated[
    str,
    typer.Option(
        "--prompt",
        "-p",
        help="What to ask about each row, with {column} fields. @FILE takes it from FILE; @@ is an @.",
    ),
]
_System = Annotated[str | None, typer.Option(help="The system message, written like the prompt.")]
_Schema = Annotated[
    str | None, typer.Option(metavar="FILE", help="A JSON schema; each answer is an object of it.")
]
_Output = Annotated[
    str, typer.Option("--output", "-o", metavar="OUT", help="Where the rows go; - for stdout.")
]
_OutputFormat = Annotated[
    Format | None, typer.Option(help="The output's; by its suffix, else as JSONL on stdout.")
]
_OutputColumn = Annotated[
    str,
    typer.Option(
        help="The answer's column; 'error' and 'finish_reason' are called so, or begin with this and '_'."
    ),
]
_OutputEncoding = Annotated[
    OutputEncoding | None,
    typer.Option(
        help="The output's; utf-8-sig has a byte order mark, which spreadsheets want.",
        show_default="utf-8, with a mark if the input has one",
    ),
]
_FailCutOff = Annotated[
    bool,
    typer.Option(
        "--fail-cut-off", help="Count a row as failed whose answer was cut off or filtered; it is kept."
    ),
]
_Timeout = Annotated[
    float | None,
    typer.Option(help="Seconds for a row, with all its attempts and waits.", show_default="no end"),
]
_Temperature = Annotated[float | None, typer.Option(help="0 to 2.", show_default="the model's own")]
_MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="The most tokens in an answer.", show_default="the model's own")
]


def run(
    *,
    source: Input,
    prompt: _Prompt,
    system: _System = None,
    model: Model = "gpt-5-mini",
    base_url: BaseUrl = None,
    max_concurrency: Concurrency = "auto",
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    schema: _Schema = None,
    output: _Output = "-",
    format: InputFormat = None,  # noqa: A002
    output_format: _OutputFormat = None,
    overwrite: Overwrite = False,
    output_column: _OutputColumn = "output",
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    output_encoding: _OutputEncoding = None,
    fail_cut_off: _FailCutOff = False,
    timeout: _Timeout = None,
    max_retries: Retries = 2,
    patience: Patience = 600,
    max_wait: MaxWait = 3600,
    max_tokens_total: MaxTokensTotal = None,
    max_cost: MaxCost = None,
    price_input: PriceInput = None,
    price_output: PriceOutput = None,
    temperature: _Temperature = None,
    max_tokens: _MaxTokens = None,
    option: Options = None,
    header: Headers = None,
    limit: Limit = None,
    quiet: Quiet = False,
) -> None:
    """Ask a model about each row of INPUT; write the rows with the answers, in the same order.

    The API key is taken from OPENAI_API_KEY. A row that fails has an empty answer and says why in its
    error column. The column finish_reason has the provider's word for why an answer ended: stop, or length or
    content_filter for one that was cut off. Ctrl-C finishes what is in flight, leaves out rows that wait for
    the provider, and stops; twice, it stops at once. At --max-tokens-total or --max-cost, what is in flight
    is finished, and nothing more is sent.

    Exit codes: 0 all fine, 1 some rows failed, 2 nothing was answered, 3 stopped at a limit of spending, 4
    stopped in the middle (the provider lets nothing through any more, the output cannot be written, the input
    not be read), 129 hung up, 130 interrupted, 143 terminated.
    """
    # What runs a job takes its time to import; --help and mistakes do without.
    from batchrt.cli.launch import run_job

    settings = Settings(
        source=source,
        prompt=prompt,
        system=system,
        model=model,
        base_url=base_url,
        max_concurrency=read_concurrency(max_concurrency),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        schema=schema,
        output=output,
        format=format,
        output_format=output_format,
        overwrite=overwrite,
        output_column=output_column,
        delimiter=read_delimiter(delimiter),
        encoding=encoding,
        output_encoding=output_encoding,
        fail_cut_off=fail_cut_off,
        timeout=timeout,
        max_retries=max_retries,
        patience=patience,
        max_wait=max_wait,
        max_tokens_total=max_tokens_total,
        max_cost=max_cost,
        price_input=price_input,
        price_output=price_output,
        temperature=temperature,
        max_tokens=max_tokens,
        options=read_options(option),
        headers=read_headers(header),
        limit=limit,
        quiet=quiet,
    )
    raise typer.Exit(run_job(settings))
