"""The options of `batchrt run` and `batchrt embed`, each declared once: a field of a class is an option."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from inspect import Parameter, Signature
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, cast, get_type_hints

import typer

from batchrt import Price
from batchrt.cli.errors import UsageError, option_of
from batchrt.cli.option_values import READERS
from batchrt.cli.profile_options import OPTIONS, PARAMETERS, extra_settings, variable_of, with_origin
from batchrt.files import OutputEncoding
from batchrt.providers.embeddings.server_families import ServerFamily
from batchrt.providers.http.secrets import Hidden

__all__ = ["EmbedSettings", "JobSettings", "RunSettings", "check_number", "command_of", "option"]

Format: TypeAlias = Literal["csv", "tsv", "jsonl", "parquet"]
VectorFormat: TypeAlias = Literal["npy", "parquet", "jsonl"]
Tokenizer: TypeAlias = Literal["estimate", "tiktoken"]


def option(default: Any = MISSING, *names: str, repr: bool = True, **shown: Any) -> Any:  # noqa: A002
    """Declare a field as an option.

    Args:
        default: its value if it is not given; `dict` for an empty one. There is none for a required option.
        names: on the command line, if there are others than the field's own.
        repr: whether the value may be shown.
        shown: as `typer.Option` takes them.
    """
    known: dict[str, Any] = {"default_factory": dict} if default is dict else {"default": default}
    return field(repr=repr, metadata={"shown": typer.Option(*names, **shown)}, **known)


_MODEL: Final = "The model. Without --base-url, 'mock' is a built-in model: no key, no network."
_INPUT: Final = typer.Argument(
    metavar="INPUT",
    help="CSV, TSV, JSONL or Parquet files, also as .gz or .zst, or 'patterns*'; - for stdin.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """Hold the options that both commands have; a field without `option` is an option of one of them."""

    source: tuple[str, ...] = field(metadata={"shown": _INPUT})
    model: str
    base_url: str | None = option(
        None, help="The API's URL, as http://localhost:8000/v1. Default: OPENAI_BASE_URL, or OpenAI."
    )
    max_concurrency: int | Literal["auto"] = option(
        "auto",
        "--max-concurrency",
        "-c",
        metavar="N|auto",
        help="The most requests in flight; auto: as many as the provider answers best.",
    )
    requests_per_minute: float | None = option(
        None,
        "--requests-per-minute",
        "--rpm",
        help="The most requests a minute. Limits that the provider reports hold as well.",
        show_default="what the provider says",
    )
    tokens_per_minute: float | None = option(
        None,
        "--tokens-per-minute",
        "--tpm",
        help="The most tokens a minute, of prompts and answers.",
        show_default="what the provider says",
    )
    format: Format | None = option(None, help="The input's format, if not by its suffix.")
    overwrite: bool = option(
        False, "--overwrite", help="Replace OUT if it exists, once the new file is complete."
    )
    delimiter: str | None = option(
        None,
        metavar="CHAR",
        help="The separator of a CSV's fields, as ';' or tab.",
        show_default="detected from the header",
    )
    encoding: str | None = option(
        None, metavar="NAME", help="The input's encoding, as cp1252 or utf-16.", show_default="utf-8"
    )
    max_retries: int = option(2, min=0, help="The most retries of a request after transient errors.")
    patience: float = option(
        600,
        metavar="SECONDS",
        help="How long to wait for a provider that is down before the job ends; 0 fails rows instead.",
    )
    max_wait: float = option(
        3600,
        metavar="SECONDS",
        help="The longest pause that the provider may ask for; if it asks for more, the job ends.",
    )
    max_tokens_total: int | None = option(
        None,
        min=1,
        metavar="N",
        help="The most tokens to spend, of prompts and answers; then the job ends.",
        show_default="no end",
    )
    max_cost: float | None = option(
        None,
        metavar="X",
        help="The most money to spend; then the job ends. Needs the model's prices.",
        show_default="no end",
    )
    price_input: float | None = option(
        None, metavar="X", help="The price of a million input tokens; the summary then has the cost."
    )
    published_prices: bool = option(
        True,
        "--published-prices/--no-published-prices",
        help="Look the model's price up in genai-prices, if that is installed (batchrt[prices]).",
    )
    dry_run: bool = option(
        False, "--dry-run", help="Show the first requests, and the tokens and cost of all; send nothing."
    )
    show: int = option(3, min=0, metavar="N", help="With --dry-run: how many requests to show.")
    confirm_above: float | None = option(
        None,
        metavar="X",
        help="Ask before a job that may cost more than X. Needs the model's prices.",
        show_default="never ask",
    )
    yes: bool = option(False, "--yes", "-y", help="Do not ask.")
    options: Mapping[str, Any] = option(
        dict,
        "--option",
        metavar="KEY=VALUE",
        help="Any parameter of the API, as top_p=0.9 or seed=1, as JSON or text; may be repeated.",
    )
    headers: Mapping[str, str] = option(
        dict,
        "--header",
        metavar="NAME:VALUE",
        help="A header to send with each request; may be repeated.",
        repr=False,
    )
    limit: int | None = option(
        None, "--limit", "-n", min=1, help="Only the first N rows.", show_default="all"
    )
    sample: int | None = option(
        None,
        min=1,
        metavar="N",
        help="Only N rows, drawn at random (of the first --limit rows).",
        show_default="all",
    )
    sample_seed: int = option(0, metavar="SEED", help="The seed of --sample; another seed draws other rows.")
    journal: str | None = option(
        None,
        metavar="FILE",
        help="The journal: each outcome is recorded in it; the same command resumes the job.",
        show_default="OUT.journal; none for stdout, pipes and remote files",
    )
    no_journal: bool = option(
        False, "--no-journal", help="Keep no journal: write OUT as rows come, and resume nothing."
    )
    retry_failed: bool = option(False, "--retry-failed", help="Run rows again that failed before.")
    fresh: bool = option(
        False, "--fresh", help="Start a new journal; the old one is kept as OUT.journal.old1."
    )
    reuse: Literal["same", "any"] = option(
        "same", help="any: keep outputs of another model, prompt or option for the same row."
    )
    cache: str | None = option(
        None,
        metavar="FILE",
        help="A response cache: requests that were answered before, in any job, are not sent again.",
        show_default="none",
    )
    unordered: bool = option(
        False, "--unordered", help="Write rows as they end, not in the order of INPUT; OUT grows meanwhile."
    )
    follow: bool = option(
        False,
        "--follow",
        help="Wait for rows that are appended to INPUT, until Ctrl-C; implies --unordered.",
    )
    quiet: bool = option(
        False, "--quiet", "-q", help="No progress and no summary; lost rows are reported nevertheless."
    )
    tokenizer: Tokenizer = "estimate"
    timeout: float | None = None
    output: str = "-"
    output_format: str | None = None
    price_output: float | None = None
    ray: str | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    api_key: Hidden | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings(JobSettings):
    """Hold the options of `batchrt run`."""

    prompt: str = option(
        MISSING,
        "--prompt",
        "-p",
        help="The prompt for each row, with {column} fields. @FILE reads it from FILE; @@ is an @.",
    )
    tokenizer: Tokenizer = option(
        "estimate", help="How --dry-run counts tokens; tiktoken is exact for OpenAI's models."
    )
    system: str | None = option(None, help="The system message, a template like --prompt.")
    model: str = option("gpt-5-mini", "--model", "-m", help=_MODEL)
    schema: str | None = option(None, metavar="FILE", help="A JSON schema that each answer must match.")
    output: str = option("-", "--output", "-o", metavar="OUT", help="The output file; - for stdout.")
    output_format: Format | None = option(None, help="The output's; by its suffix, else as JSONL on stdout.")
    output_column: str = option(
        "output",
        help="The answer's column; 'error' and 'finish_reason' are called so, or begin with this and '_'.",
    )
    flatten: bool = option(False, "--flatten", help="Add a column for each field of the schema.")
    output_encoding: OutputEncoding | None = option(
        None,
        help="The output's encoding; utf-8-sig has a byte order mark, as spreadsheets need.",
        show_default="utf-8, with a mark if the input has one",
    )
    fail_cut_off: bool = option(
        False,
        "--fail-cut-off",
        help="Count rows with a truncated or filtered answer as failed; the answer is kept.",
    )
    timeout: float | None = option(
        None, help="Seconds for a row, with all its attempts and waits.", show_default="no end"
    )
    price_output: float | None = option(None, metavar="X", help="The price of a million output tokens.")
    temperature: float | None = option(
        None, help="The sampling temperature, 0 to 2.", show_default="the model's own"
    )
    max_tokens: int | None = option(
        None, min=1, help="The most tokens in an answer.", show_default="the model's own"
    )
    ray: str | None = option(
        None,
        metavar="[ADDRESS]",
        help="Ask from the workers of a Ray cluster: one of this machine's cores, or that at ADDRESS (auto, "
        "HOST:PORT or ray://HOST:PORT). Needs batchrt[ray], and OPENAI_API_KEY in the workers' environment.",
        show_default="no cluster",
    )
    ray_workers: int | None = option(
        None, min=1, metavar="N", help="With --ray: how many workers.", show_default="one for each core"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSettings(JobSettings):
    """Hold the options of `batchrt embed`."""

    column: str | None = option(None, help="The column with the text.", show_default=False)
    text: str | None = option(
        None,
        metavar="TEMPLATE",
        help="A template of the text, as '{title}: {body}'. @FILE reads it from FILE.",
        show_default=False,
    )
    id_column: str | None = option(
        None, "--id", metavar="COLUMN", help="The column with the id.", show_default="the row's number"
    )
    model: str = option("text-embedding-3-small", "--model", "-m", help=_MODEL)
    output: str = option(
        "-",
        "--output",
        "-o",
        metavar="OUT",
        help="The output file: .npy, .parquet or .jsonl; - for stdout.",
    )
    output_format: VectorFormat | None = option(
        None, help="The output's; by its suffix, else as JSONL on stdout."
    )
    dimensions: int | None = option(
        None, min=1, help="Numbers in a vector, for models with a choice.", show_default="the model's own"
    )
    server: ServerFamily | None = option(
        None, help="The kind of server, which sets its limits.", show_default="detected"
    )
    max_batch_size: int | None = option(
        None, min=1, help="The most texts in a request.", show_default="the server's limit"
    )
    max_batch_tokens: int | None = option(
        None, min=1, help="The most tokens in a request.", show_default="the server's limit"
    )
    tokenizer: Tokenizer = option(
        "estimate", help="How tokens are counted; tiktoken is exact for OpenAI's models."
    )
    truncate: str | None = option(
        None,
        metavar="auto|TOKENS",
        help="Cut longer texts instead of failing them; auto: to the model's limit.",
    )
    timeout: float | None = option(
        None, help="Seconds for a list, with all its attempts and waits.", show_default="no end"
    )


def check_number(settings: JobSettings, name: str, *, of: str = "", above_0: bool = False) -> None:
    """Raise UsageError if the option `name` has a value that is no finite number of this kind, 0 or more."""
    value = getattr(settings, name)
    if value is not None and not (0 < value < math.inf or (value == 0 and not above_0)):
        kind, least = f"a number of {of}" if of else "a number", " above 0" if above_0 else ", 0 or more"
        raise UsageError(f"{option_of(name)} must be {kind}{least}, not {value:g}")


S = TypeVar("S")


def command_of(kind: type[S], run: Callable[[S], int]) -> Callable[..., None]:
    """Return a function with a signature from which Typer makes a command: a parameter for each option.

    Args:
        kind: the settings; its required fields come first.
        run: does the job and returns the exit code.
    """
    chosen = PARAMETERS if issubclass(kind, JobSettings) else ()

    def command(context: typer.Context, **given: Any) -> None:
        for parameter in chosen:
            given.pop(parameter.name)  # they have had their effect
        try:
            for name in given.keys() & READERS.keys():
                given[name] = READERS[name][1](given[name])
            code = run(kind(**given, **extra_settings(context)))
        except UsageError as error:
            raise with_origin(context, error) from error
        raise typer.Exit(code)

    hints = get_type_hints(kind)
    parameters = [Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for each in fields(cast("type[JobSettings]", kind)):
        if "shown" not in each.metadata:
            continue
        default = None if each.default_factory is not MISSING else each.default
        shown = each.metadata["shown"]
        if issubclass(kind, JobSettings) and any(each.name in names for names in OPTIONS.values()):
            shown.envvar, shown.show_envvar = variable_of(each.name), False
        shown_type = READERS[each.name][0] if each.name in READERS else hints[each.name]
        parameters.append(
            Parameter(
                each.name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if default is MISSING else default,
                annotation=Annotated[shown_type, shown],
            )
        )
    parameters += chosen
    parameters.sort(key=lambda parameter: parameter.default is not Parameter.empty)
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
