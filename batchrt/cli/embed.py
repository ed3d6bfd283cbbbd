"""`batchrt embed`: a vector for each row of a file."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import typer

from batchrt.cli.options import (
    BaseUrl,
    Concurrency,
    Delimiter,
    Encoding,
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
    Quiet,
    RequestsPerMinute,
    Retries,
    TokensPerMinute,
    read_concurrency,
    read_delimiter,
    read_headers,
    read_options,
)
from batchrt.cli.settings import EmbedSettings
from batchrt.providers.embeddings.server_families import ServerFamily

__all__ = ["embed"]

Format: TypeAlias = Literal["npy", "parquet", "jsonl"]
Tokenizer: TypeAlias = Literal["estimate", "tiktoken"]

_Column = Annotated[str, typer.Option(help="The column with the text.")]
_Id = Annotated[
    str | None,
    typer.Option("--id", metavar="COLUMN", help="The column with the id.", show_default="the row's number"),
]
_Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="OUT", help="Where the vectors go: .npy, .parquet, .jsonl; - for stdout."
    ),
]
_OutputFormat = Annotated[
    Format | None, typer.Option(help="The output's; by its suffix, else as JSONL on stdout.")
]
_Dimensions = Annotated[
    int | None,
    typer.Option(
        min=1, help="Numbers a vector, for models that can do less.", show_default="the model's own"
    ),
]
_Server = Annotated[
    ServerFamily | None,
    typer.Option(help="What kind of server it is, for its limits.", show_default="found out"),
]
_MaxBatchSize = Annotated[
    int | None, typer.Option(min=1, help="The most texts in a request.", show_default="the server's limit")
]
_MaxBatchTokens = Annotated[
    int | None, typer.Option(min=1, help="The most tokens in a request.", show_default="the server's limit")
]
_Tokenizer = Annotated[
    Tokenizer, typer.Option(help="How tokens are counted; tiktoken is exact for OpenAI's models.")
]
_Truncate = Annotated[
    str | None,
    typer.Option(
        metavar="auto|TOKENS",
        help="Cut texts that are longer, instead of failing them; auto: than the model takes.",
    ),
]
_Timeout = Annotated[
    float | None,
    typer.Option(help="Seconds for a list, with all its attempts and waits.", show_default="no end"),
]


def embed(
    *,
    source: Input,
    column: _Column,
    id_column: _Id = None,
    model: Model = "text-embedding-3-small",
    base_url: BaseUrl = None,
    max_concurrency: Concurrency = "auto",
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    output: _Output = "-",
    format: InputFormat = None,  # noqa: A002
    output_format: _OutputFormat = None,
    overwrite: Overwrite = False,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    dimensions: _Dimensions = None,
    server: _Server = None,
    max_batch_size: _MaxBatchSize = None,
    max_batch_tokens: _MaxBatchTokens = None,
    tokenizer: _Tokenizer = "estimate",
    truncate: _Truncate = None,
    option: Options = None,
    header: Headers = None,
    timeout: _Timeout = None,
    max_retries: Retries = 2,
    patience: Patience = 600,
    max_wait: MaxWait = 3600,
    max_tokens_total: MaxTokensTotal = None,
    max_cost: MaxCost = None,
    price_input: PriceInput = None,
    limit: Limit = None,
    quiet: Quiet = False,
) -> None:
    """Turn a text of each row of INPUT into a vector; write the vectors, in the same order.

    Texts are sent in lists, as long as the server takes. OUT decides how vectors are written, each with
    its row's id: as a float32 matrix for numpy (.npy; the ids beside it in OUT.ids.jsonl), as a table
    (.parquet; needs batchrt[parquet]), or as lines of JSON (.jsonl). A row that fails says why in its
    error; in a matrix it is a row of NaN. A .parquet file can be read once it is finished: a process that is
    killed (SIGKILL) loses it, where the other formats keep what was written.

    The API key is taken from OPENAI_API_KEY. Ctrl-C finishes what is in flight, leaves out lists that wait
    for the provider, and stops; twice, it stops at once. At --max-tokens-total or --max-cost, what is in
    flight is finished, and nothing more is sent. What is done is written.

    Exit codes: 0 all fine, 1 some rows failed, 2 nothing was embedded, 3 stopped at a limit of spending, 4
    stopped in the middle (the provider lets nothing through any more, the output cannot be written, the input
    not be read), 129 hung up, 130 interrupted, 143 terminated.
    """
    # What runs a job takes its time to import; --help and mistakes do without.
    from batchrt.cli.embedding import embed_job

    settings = EmbedSettings(
        source=source,
        column=column,
        id_column=id_column,
        model=model,
        base_url=base_url,
        max_concurrency=read_concurrency(max_concurrency),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        output=output,
        format=format,
        output_format=output_format,
        overwrite=overwrite,
        delimiter=read_delimiter(delimiter),
        encoding=encoding,
        options=read_options(option),
        headers=read_headers(header),
        dimensions=dimensions,
        server=server,
        max_batch_size=max_batch_size,
        max_batch_tokens=max_batch_tokens,
        tokenizer=tokenizer,
        truncate=truncate,
        timeout=timeout,
        max_retries=max_retries,
        patience=patience,
        max_wait=max_wait,
        max_tokens_total=max_tokens_total,
        max_cost=max_cost,
        price_input=price_input,
        limit=limit,
        quiet=quiet,
    )
    raise typer.Exit(embed_job(settings))
