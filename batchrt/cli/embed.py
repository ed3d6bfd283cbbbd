"""The job of `batchrt embed`: an embedding model over rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Final

from batchrt import (
    ContextLengthError,
    OpenAIEmbeddings,
    Outcome,
    OutputLayout,
    PromptTemplate,
    RunConfig,
    Runnable,
    RunnableLambda,
)
from batchrt.cli.budget import Budget
from batchrt.cli.cache import open_cache
from batchrt.cli.counts import Counts
from batchrt.cli.dry_run import look_ahead
from batchrt.cli.errors import UsageError
from batchrt.cli.feed import AnyRow, Feed
from batchrt.cli.job import Job, check_limits, execute
from batchrt.cli.job_files import open_output
from batchrt.cli.journal_job import JournalJob, RowKind
from batchrt.cli.journal_path import check_owner, journal_path
from batchrt.cli.models import new_model
from batchrt.cli.option_values import read_whole
from batchrt.cli.options import EmbedSettings
from batchrt.cli.prompt import prompt_of, read_template
from batchrt.cli.streamed_job import StreamedJob, name_option
from batchrt.files import (
    Row,
    Source,
    VectorSink,
    column_text,
    field_reader,
    open_vector_sink,
    prompt_values,
    required_columns,
    text_reader,
)

__all__ = ["embed_job"]

_ID: Final = "id"
"""The name of the id column in the output, whatever it is called in the input."""


def embed_job(settings: EmbedSettings) -> int:
    """Run the job of `settings` and return the exit code.

    Raises:
        UsageError: something has to be put right first; nothing was sent and nothing written.
    """
    check_limits(settings)
    _check_text(settings)
    journal = journal_path(settings)
    budget, counts = Budget.of(settings, answers=False), Counts()
    model = embedding_model(settings)

    def new_job(source: Source, stack: ExitStack) -> Job:
        ids = [] if settings.id_column is None else [settings.id_column]
        read, text = _text_steps(settings, source)
        required_columns(source, ids)
        given: Any = {"model": model, "settings": settings, "budget": budget}
        vectors = text | model.as_bytes()
        if journal is not None:
            check_owner(journal, source, settings, of_vectors=True)
        look_ahead(vectors, source, read, journal=journal, version=_VECTORS.version, **given)
        given["source"] = source
        config = RunConfig(timeout=settings.timeout, cache=open_cache(settings, journal, stack))
        if journal is not None:
            layout = OutputLayout(partial(_open_sink, settings, source), _writer(settings.id_column))
            return JournalJob(vectors, layout, read, _VECTORS, journal, config=config, **given)
        sink = stack.enter_context(_open_sink(settings, source, None))
        chain = RunnableLambda(read, inline=True) | vectors
        feed = Feed(source, settings.limit, counts, id_reader(settings.id_column))
        return StreamedJob(chain, feed, sink, config=config, **given)

    return execute(settings, new_job)


def _open_sink(settings: EmbedSettings, source: Source, path: str | None) -> VectorSink:
    """Open the output; at another `path` for a journal's rows."""
    if path is not None:
        settings = replace(settings, output=path, overwrite=True)
    columns = {_ID: int if settings.id_column is None else str}
    return open_output(
        open_vector_sink,
        settings,
        source,
        rebuildable=path is not None,
        columns=columns,
        width=settings.dimensions,
    )


def _writer(id_column: str | None) -> Callable[..., None]:
    """Return a function that writes a journal's row."""

    def write(
        sink: VectorSink, place: int, values: Mapping[str, Any], vector: bytes | None, error: str | None
    ) -> None:
        sink.write({_ID: place + 1 if id_column is None else values.get(id_column)}, vector, error)

    return write


def _refined(outcome: Outcome[Any]) -> Outcome[Any]:
    if isinstance(outcome.error, ContextLengthError):
        name_option(outcome.error)
    return outcome


_VECTORS: Final = RowKind("batchrt embed 1", _refined, noun="list")


def embedding_model(settings: EmbedSettings) -> OpenAIEmbeddings:
    """Return the model of `--model`; raises as `new_model` does."""
    return new_model(
        OpenAIEmbeddings,
        settings,
        dimensions=settings.dimensions,
        server=settings.server,
        max_batch_size=settings.max_batch_size,
        max_batch_tokens=settings.max_batch_tokens,
        tokenizer=settings.tokenizer,
        truncate=_truncate(settings.truncate),
        extra_body=settings.options,
    )


def _truncate(option: str | None) -> bool | int:
    if option is None or option == "auto":
        return option is not None
    tokens = read_whole(option)
    if tokens is not None:
        return tokens
    raise UsageError(f"--truncate must be auto or a number of tokens, not {option[:40]!r}")


def id_reader(column: str | None) -> Callable[[AnyRow], Row]:
    """Return a function from a row to a row of its id alone; its number without a `column`.

    The rest is let go of: many rows wait for a list to be full, and then for its answer.
    """

    def read(row: AnyRow) -> Row:
        return Row(row.number, row.line, {_ID: row.number if column is None else row.values.get(column)})

    return read


def _check_text(settings: EmbedSettings) -> None:
    """Raise UsageError unless there is a column or a template, and not both."""
    if settings.column is None and settings.text is None:
        raise UsageError("Missing option '--column' or '--text' (see batchrt embed --help)")
    if settings.column is not None and settings.text is not None:
        raise UsageError("--column and --text name two texts; leave one out")


def _text_steps(
    settings: EmbedSettings, source: Source
) -> tuple[Callable[[AnyRow], Mapping[str, Any]], Runnable[Any, str]]:
    """Return a function from a row of `source` to its values, and a step from those to the text to embed.

    The function raises InputError for a row without a text.

    Raises:
        UsageError: the template is not one.
        InputError: a column is missing.
    """
    if settings.column is not None:
        required_columns(source, [settings.column])
        return _column_reader(source, settings.column), RunnableLambda(
            partial(column_text, column=settings.column), inline=True, name="text"
        )
    template = read_template(settings.text or "", "--text")
    columns = source.survey(settings.limit)
    names = prompt_of([("user", template)], source, columns).input_variables
    if not names:
        raise UsageError("--text has no {column}: every row would have the same vector")
    fields = field_reader(source, names)

    def read(row: AnyRow) -> Mapping[str, Any]:
        values = fields(row)
        if all(values[name] == "" for name in names):
            problem = "there is no text, all columns of --text are empty; leave the row out"
            raise source.row_error(row, problem)
        return values

    filled = PromptTemplate(template, columns=columns) | RunnableLambda(_text_of, inline=True, name="text")
    if source.is_table:
        return read, filled
    return read, RunnableLambda(partial(prompt_values, names=names), inline=True, name="values") | filled


def _column_reader(source: Source, column: str) -> Callable[[AnyRow], Mapping[str, Any]]:
    text = text_reader(source, column)

    def read(row: AnyRow) -> Mapping[str, Any]:
        text(row)
        return row.values

    return read


def _text_of(value: Any) -> str:
    return str(value.to_string())
