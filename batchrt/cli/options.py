"""The options of `batchrt run` and `batchrt embed`, each declared once: a field of a class is an option."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from inspect import Parameter, Signature
from typing import (
    Annotated,
    Any,
    Literal,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import typer

from batchrt.cli.option_values import READERS
from batchrt.files import OutputEncoding
from batchrt.providers.embeddings.server_families import ServerFamily

__all__ = ["EmbedSettings", "JobSettings", "RunSettings", "command_of"]

Format: TypeAlias = Literal["csv", "tsv", "jsonl", "parquet"]
VectorFormat: TypeAlias = Literal["npy", "parquet", "jsonl"]
Tokenizer: TypeAlias = Literal["estimate", "tiktoken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Hold the options that both commands have; a field without `Annotated` is an option of one of them."""

    source: Annotated[
        tuple[str, ...],
        typer.Argument(
            metavar="INPUT",
            help="CSV, TSV, JSONL or Parquet files, also as .gz or .zst, or 'patterns*'; - for stdin.",
        ),
    ]
    model: str
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Where the API is, as http://localhost:8000/v1. Default: OPENAI_BASE_URL, or OpenAI."
        ),
    ] = None
    max_concurrency: Annotated[
        int | Literal["auto"],
        typer.Option(
            "--max-concurrency",
            "-c",
            metavar="N|auto",
            help="The most requests in flight; auto: as many as the provider answers best.",
        ),
    ] = "auto"
    requests_per_minute: Annotated[
        float | None,
        typer.Option(
            "--requests-per-minute",
            "--rpm",
            help="Send no more. What the provider's answers say about its limits is kept anyway.",
            show_default="what the provider says",
        ),
    ] = None
    tokens_per_minute: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-minute",
            "--tpm",
            help="The same in tokens, of prompts and answers.",
            show_default="what the provider says",
        ),
    ] = None
    format: Annotated[
        Format | None, typer.Option("--format", help="The input's format, if its suffix does not tell.")
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists, once the new file is complete.")
    ] = False
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHAR",
            help="What stands between a CSV's fields, as ';' or tab.",
            show_default="found out from the header",
        ),
    ] = None
    encoding: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The input's, as cp1252 or utf-16.", show_default="utf-8"),
    ] = None
    max_retries: Annotated[
        int, typer.Option(min=0, help="Attempts after the first, where another may help.")
    ] = 2
    patience: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="How long to wait for a provider that is down before the job ends; 0 fails rows instead.",
        ),
    ] = 600
    max_wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="The longest pause that the provider may ask for; if it asks for more, the job ends.",
        ),
    ] = 3600
    max_tokens_total: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="The most tokens to spend, of prompts and answers; then the job ends.",
            show_default="no end",
        ),
    ] = None
    max_cost: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="The most money to spend; then the job ends. Needs the model's prices.",
            show_default="no end",
        ),
    ] = None
    price_input: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="What a million tokens that are sent cost; the summary has the cost then."
        ),
    ] = None
    options: Annotated[
        Mapping[str, Any],
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="Any option of the API's, as top_p=0.9 or seed=1, in JSON or as a text; may be repeated.",
        ),
    ] = field(default_factory=dict)
    headers: Annotated[
        Mapping[str, str],
        typer.Option(
            "--header", metavar="NAME:VALUE", help="A header to send with each request; may be repeated."
        ),
    ] = field(default_factory=dict, repr=False)
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="Only the first N rows.", show_default="all")
    ] = None
    sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Only N rows, drawn at random (of the first --limit rows).",
            show_default="all",
        ),
    ] = None
    sample_seed: Annotated[int, typer.Option(metavar="SEED", help="Another number draws other rows.")] = 0
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no summary; what is lost is told anyway.")
    ] = False
    timeout: float | None = None
    output: str = "-"
    output_format: str | None = None
    price_output: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings(JobSettings):
    """Hold the options of `batchrt run`."""

    prompt: Annotated[
        str,
        typer.Option(
            "--prompt",
            "-p",
            help="What to ask about each row, with {column} fields. @FILE takes it from FILE; @@ is an @.",
        ),
    ]
    system: Annotated[str | None, typer.Option(help="The system message, written like the prompt.")] = None
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="The model. Without --base-url, 'mock' is a built-in one: no key, no network.",
        ),
    ] = "gpt-5-mini"
    schema: Annotated[
        str | None, typer.Option(metavar="FILE", help="A JSON schema; each answer is an object of it.")
    ] = None
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="Where the rows go; - for stdout.")
    ] = "-"
    output_format: Annotated[
        Format | None, typer.Option(help="The output's; by its suffix, else as JSONL on stdout.")
    ] = None
    output_column: Annotated[
        str,
        typer.Option(
            help="The answer's column; 'error' and 'finish_reason' are called so, or begin with this and '_'."
        ),
    ] = "output"
    flatten: Annotated[
        bool, typer.Option("--flatten", help="Make columns of the schema's fields, beside the output.")
    ] = False
    output_encoding: Annotated[
        OutputEncoding | None,
        typer.Option(
            help="The output's; utf-8-sig has a byte order mark, which spreadsheets want.",
            show_default="utf-8, with a mark if the input has one",
        ),
    ] = None
    fail_cut_off: Annotated[
        bool,
        typer.Option(
            "--fail-cut-off", help="Count a row as failed whose answer was cut off or filtered; it is kept."
        ),
    ] = False
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds for a row, with all its attempts and waits.", show_default="no end"),
    ] = None
    price_output: Annotated[
        float | None, typer.Option(metavar="X", help="What a million tokens of answers cost.")
    ] = None
    temperature: Annotated[float | None, typer.Option(help="0 to 2.", show_default="the model's own")] = None
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="The most tokens in an answer.", show_default="the model's own")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSettings(JobSettings):
    """Hold the options of `batchrt embed`."""

    column: Annotated[str | None, typer.Option(help="The column with the text.", show_default=False)] = None
    text: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="The text itself, with {column} fields, as '{title}: {body}'. @FILE takes it from FILE.",
            show_default=False,
        ),
    ] = None
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="COLUMN", help="The column with the id.", show_default="the row's number"
        ),
    ] = None
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="The model. Without --base-url, 'mock' is a built-in one: no key, no network.",
        ),
    ] = "text-embedding-3-small"
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Where the vectors go: .npy, .parquet, .jsonl; - for stdout.",
        ),
    ] = "-"
    output_format: Annotated[
        VectorFormat | None, typer.Option(help="The output's; by its suffix, else as JSONL on stdout.")
    ] = None
    dimensions: Annotated[
        int | None,
        typer.Option(
            min=1, help="Numbers a vector, for models that can do less.", show_default="the model's own"
        ),
    ] = None
    server: Annotated[
        ServerFamily | None,
        typer.Option(help="What kind of server it is, for its limits.", show_default="found out"),
    ] = None
    max_batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="The most texts in a request.", show_default="the server's limit"),
    ] = None
    max_batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="The most tokens in a request.", show_default="the server's limit"),
    ] = None
    tokenizer: Annotated[
        Tokenizer, typer.Option(help="How tokens are counted; tiktoken is exact for OpenAI's models.")
    ] = "estimate"
    truncate: Annotated[
        str | None,
        typer.Option(
            metavar="auto|TOKENS",
            help="Cut texts that are longer, instead of failing them; auto: than the model takes.",
        ),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds for a list, with all its attempts and waits.", show_default="no end"),
    ] = None


S = TypeVar("S", bound=JobSettings)


def command_of(kind: type[S], run: Callable[[S], int]) -> Callable[..., None]:
    """Return a function with a signature from which Typer makes a command: a parameter for each option.

    Args:
        kind: the settings; its required fields come first.
        run: does the job and returns the exit code.
    """

    def command(**given: Any) -> None:
        for name, (_, read) in READERS.items():
            given[name] = read(given[name])
        raise typer.Exit(run(kind(**given)))

    hints = get_type_hints(kind, include_extras=True)
    parameters = []
    for each in fields(kind):
        if get_origin(hints[each.name]) is not Annotated:
            continue
        python_type, option = get_args(hints[each.name])
        shown_type = READERS[each.name][0] if each.name in READERS else python_type
        default = None if each.default_factory is not MISSING else each.default
        parameters.append(
            Parameter(
                each.name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if default is MISSING else default,
                annotation=Annotated[shown_type, option],
            )
        )
    parameters.sort(key=lambda parameter: parameter.default is not Parameter.empty)
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
